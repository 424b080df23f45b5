"""Behind PgBouncer in transaction mode, where each transaction may have another session.

Run where the program `pgbouncer` is to be had (on Debian: apt-get install pgbouncer).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from tests.fixtures.database import Database, admin_url, at_work, wait_until
from tests.fixtures.tickets import add_old_tickets, changed, nulls, remember

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PORT = 6432
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no pgbouncer on this machine")


@dataclass(frozen=True)
class Pooled(Database):
    """A database by way of the pooler; sessions of the test's own go to the server.

    Arguments:
        through: the folder of the pooler's socket.
    """

    through: Path

    @property
    def environment(self) -> dict[str, str]:
        address = f"postgres://postgres@/{self.name}?host={self.through}&port={PORT}"
        return super().environment | {"DATABASE_URL": address}


@pytest.fixture
def pooled(database: Database) -> Iterator[Pooled]:
    """A pooler with two sessions for whoever comes, and the test's database behind it."""
    server = conninfo.conninfo_to_dict(admin_url())
    folder = Path(tempfile.mkdtemp(prefix="playbook-pooler-"))
    # As root, which PgBouncer refuses to run as: as the one whom the server's socket belongs to.
    owner = Path(str(server["host"])).stat()
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"""
        [databases]
        * = host={server["host"]} port={server["port"]}
        [pgbouncer]
        pool_mode = transaction
        default_pool_size = 2
        listen_port = {PORT}
        listen_addr =
        unix_socket_dir = {folder}
        auth_type = trust
        auth_file = {folder / "users"}
    """.replace("\n        ", "\n")
    )
    (folder / "users").write_text('"postgres" ""\n')
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner.st_uid, owner.st_gid)
    assert PROGRAM is not None
    process = subprocess.Popen(
        [PROGRAM, "--quiet", configuration], user=owner.st_uid, group=owner.st_gid
    )
    try:
        wait_until((folder / f".s.PGSQL.{PORT}").exists, "the pooler listens")
        yield Pooled(database.name, folder)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        shutil.rmtree(folder)


def run(pooled: Pooled, *arguments: str) -> dict[str, Any]:
    done = pooled.manage(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_whole_rotation_goes_through_a_pooler(pooled: Pooled) -> None:
    add_old_tickets(pooled, 2000)
    remember(pooled, "token")
    filled = run(pooled, "backfill_new_token", "--workers", "2", "--batch-size", "100")
    assert (filled["rows_filled"], filled["rows_remaining"]) == (2000, 0)
    swapped = run(pooled, "swap_token_columns")
    assert swapped["phase"] == "swapped"
    assert changed(pooled, "token", now="new_token") == 0
    run(pooled, "swap_token_columns", "--verify")
    assert run(pooled, "swap_token_columns", "--revert")["phase"] == "filled"
    assert changed(pooled, "token") == 0


def test_nothing_that_is_set_stays_with_the_poolers_sessions(pooled: Pooled) -> None:
    add_old_tickets(pooled, 20_000)
    names = (
        *("lock_timeout", "statement_timeout", "search_path", "synchronous_commit", "jit"),
        *("vacuum_cost_delay", "max_parallel_workers_per_gather"),
    )

    def settings() -> list[tuple[Any, ...]]:
        address = conninfo.make_conninfo(pooled.environment["DATABASE_URL"])
        with psycopg.connect(address, autocommit=True) as session:
            return [session.execute(f"SHOW {name}").fetchall()[0] for name in names]

    before = settings()
    with at_work(pooled):
        assert run(pooled, "backfill_new_token", "--workers", "2")["vacuums"] > 0
    run(pooled, "swap_token_columns")
    assert settings() == before


def test_a_pause_reaches_the_workers_behind_a_pooler(pooled: Pooled) -> None:
    add_old_tickets(pooled, 2000)
    process = pooled.start("backfill_new_token", "--max-rows-per-second", "200")
    wait_until(lambda: nulls(pooled) < 2000, "it is at work")
    assert pooled.manage("backfill_new_token", "--pause").returncode == 0
    output = process.stdout
    assert output is not None
    wait_until(lambda: "paused" in output.readline(), "it has paused")
    assert (
        pooled.manage(
            "backfill_new_token", "--resume", "--set", "max-rows-per-second=100000"
        ).returncode
        == 0
    )
    process.communicate()
    assert process.returncode == 0
    assert nulls(pooled) == 0
