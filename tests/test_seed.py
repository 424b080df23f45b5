"""`manage.py seed_tickets`, on a real server."""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.embedded.server import Cluster

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("seed") / "pg") as cluster:
        cluster.create_database("empty")
        cluster.create_database("tickets")
        done = manage("migrate", "tickets", "0001", DATABASE_URL=cluster.url("tickets"))
        assert done.stderr == ""
        yield cluster


@pytest.fixture
def connection(cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(cluster.url("tickets"), autocommit=True) as connection:
        connection.execute("TRUNCATE tickets_ticket")
        yield connection


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def seed(cluster: Cluster, count: int) -> str:
    done = manage("seed_tickets", str(count), DATABASE_URL=cluster.url("tickets"))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_table_is_topped_up_with_fresh_tokens(
    cluster: Cluster, connection: psycopg.Connection[Any]
) -> None:
    assert re.fullmatch(r"30 tickets added in \d+\.\d s, 30 in all\.\n", seed(cluster, 30))
    assert seed(cluster, 50).endswith(" s, 50 in all.\n")
    assert seed(cluster, 40).startswith("0 tickets added in ")
    rows = connection.execute("SELECT token, redeemed_at FROM tickets_ticket").fetchall()
    tokens = {token for token, _ in rows}
    assert len(tokens) == len(rows) == 50
    assert {token.version for token in tokens} == {4}
    assert sum(redeemed_at is not None for _, redeemed_at in rows) == 10 + 6


def test_a_column_that_the_command_does_not_know_does_not_stop_it(
    cluster: Cluster, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("ALTER TABLE tickets_ticket ADD other_token uuid")
    seed(cluster, 3)
    rows = connection.execute("SELECT other_token FROM tickets_ticket").fetchall()
    connection.execute("ALTER TABLE tickets_ticket DROP other_token")
    assert rows == [(None,)] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own high-water mark is asked for")
def test_memory_does_not_grow_with_the_table(
    cluster: Cluster, connection: psycopg.Connection[Any]
) -> None:
    # Not getrusage(): its maximum is inherited from the process that started this one.
    program = (
        "import re, pathlib, manage;"
        "manage.main();"
        "status = pathlib.Path('/proc/self/status').read_text();"
        "print(re.search(r'VmHWM:\\s+(\\d+)', status)[1])"
    )

    def peak(count: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", program, "seed_tickets", str(count)],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": cluster.url("tickets")},
            check=True,
            capture_output=True,
            text=True,
        )
        return int(done.stdout.splitlines()[-1])

    few = peak(2_000)
    assert peak(202_000) < few * 1.05
    assert connection.execute("SELECT count(*) FROM tickets_ticket").fetchone() == (202_000,)


@pytest.mark.parametrize("count", ["-5", "many", "1.5", ""])
def test_what_is_no_number_of_rows_is_a_usage_error(count: str) -> None:
    done = manage("seed_tickets", "--", count)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        f'manage.py seed_tickets: error: argument COUNT: "{count}" is not a number of rows, '
        "0 or more"
    )


def test_a_missing_table_names_the_command_that_creates_it(cluster: Cluster) -> None:
    done = manage("seed_tickets", "5", DATABASE_URL=cluster.url("empty"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        'CommandError: There is no table "tickets_ticket". Run "manage.py migrate" first.\n'
    )


def test_an_alias_that_is_not_postgresql_is_refused(tmp_path: Path) -> None:
    name = f"settings_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(
        "from app.settings import *\n"
        "DATABASES['other'] = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}\n"
    )
    done = manage(
        *("seed_tickets", "5", "--database=other", f"--settings={name}"), PYTHONPATH=str(tmp_path)
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'CommandError: The database "other" is not PostgreSQL.\n'
