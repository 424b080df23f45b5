"""`manage.py seed_tickets`, on a real server."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.fixtures.database import Database, role


def seed(database: Database, *arguments: str) -> str:
    done = database.manage("seed_tickets", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_table_is_topped_up_with_fresh_tokens(database: Database) -> None:
    assert re.fullmatch(r"30 tickets added in \d+\.\d s, 30 in all\.\n", seed(database, "30"))
    assert seed(database, "50").endswith(" s, 50 in all.\n")
    assert seed(database, "40").startswith("0 tickets added in ")
    rows = database.fetch("SELECT token, redeemed_at FROM tickets_ticket")
    tokens = {token for token, _ in rows}
    assert len(tokens) == len(rows) == 50
    assert {token.version for token in tokens} == {4}
    assert sum(redeemed_at is not None for _, redeemed_at in rows) == 10 + 6


def test_it_says_in_json_what_it_did(database: Database) -> None:
    result = json.loads(seed(database, "7", "--json"))
    assert (result["added"], result["rows"]) == (7, 7)


def test_a_column_that_the_command_does_not_know_does_not_stop_it(database: Database) -> None:
    database.run("ALTER TABLE tickets_ticket ADD other_token uuid")
    seed(database, "3")
    assert database.fetch("SELECT other_token FROM tickets_ticket") == [(None,)] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own high-water mark is asked for")
def test_memory_does_not_grow_with_the_table(database: Database) -> None:
    few = database.peak_kb("seed_tickets", "2000")
    assert database.peak_kb("seed_tickets", "202000") < few * 1.05
    assert database.value("SELECT count(*) FROM tickets_ticket") == 202_000


@pytest.mark.parametrize("count", ["-5", "many", "1.5", ""])
def test_what_is_no_number_of_rows_is_a_usage_error(database: Database, count: str) -> None:
    done = database.manage("seed_tickets", "--", count)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        f'manage.py seed_tickets: error: argument COUNT: "{count}" is not a number of rows, '
        "0 or more"
    )


def test_a_missing_table_names_the_command_that_creates_it(empty_database: Database) -> None:
    done = empty_database.manage("seed_tickets", "5")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        'CommandError: There is no table "tickets_ticket". Run "manage.py migrate" first.\n'
    )


def test_a_role_without_the_right_is_told_so_in_one_sentence(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = database.name + "_poor"
    with role(database, poor):
        monkeypatch.setenv("PGOPTIONS", f"-c role={poor}")
        done = database.manage("seed_tickets", "5")
        monkeypatch.delenv("PGOPTIONS")
        refused = database.complaint("INSERT INTO tickets_ticket DEFAULT VALUES", role=poor)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"CommandError: PostgreSQL says: {refused}.\n"
