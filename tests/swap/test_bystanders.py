"""Code of others beside the columns: what fails in it is found first, and spoils no proof."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command
from django.db import connection

from tests.fixtures.database import Database
from tests.fixtures.tickets import refusal


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ("SELECT token FROM tickets_ticket WHERE 1 / (id - 3) < 2", "division by zero"),
        (
            ("SELECT token FROM tickets_ticket WHERE id % 2 = current_setting('app.tenant')::int"),
            "unrecognized configuration parameter",
        ),
    ],
    ids=["a division by zero", "a setting that is missing"],
)
def test_a_view_that_fails_is_named_and_all_else_is_proven(
    view: str, reason: str, filled: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.run(f"CREATE VIEW odd AS {view}")
    filled.run("CREATE VIEW plain AS SELECT token FROM tickets_ticket")
    call_command("swap_token_columns")
    said = capsys.readouterr().out
    assert "public.odd was not read" in said
    assert "1 views read through" in said
    call_command("swap_token_columns", verify=True, json=True)
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is True
    if filled.value("SHOW lc_messages") in ("C", "en_US.UTF-8"):
        assert reason in result["unread"]["public.odd"]


MASK = (
    "CREATE SCHEMA app",
    "CREATE TABLE app.mask (prefix text)",
    "INSERT INTO app.mask VALUES ('x')",
    (
        "CREATE FUNCTION masked(uuid) RETURNS text LANGUAGE plpgsql IMMUTABLE AS "
        "'BEGIN RETURN (SELECT prefix FROM mask) || $1::text; END'"
    ),
)


@pytest.fixture
def masked(filled: Database) -> Database:
    """A function that finds its table along the search_path of the database's own."""
    for statement in MASK:
        filled.run(statement)
    filled.run(f"ALTER DATABASE {filled.name} SET search_path = public, app")
    connection.close()  # the next command's session has the new path
    return filled


def test_a_view_over_code_of_the_sessions_path_is_read(
    masked: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    masked.run("CREATE VIEW shown AS SELECT masked(token) AS secret FROM tickets_ticket")
    call_command("swap_token_columns")
    assert "1 views read through" in capsys.readouterr().out


def test_a_check_over_code_of_the_sessions_path_is_carried_over(masked: Database) -> None:
    with masked.connect(autocommit=True) as session:
        session.execute("ALTER TABLE tickets_ticket ADD CONSTRAINT fine CHECK (masked(token) > '')")
    call_command("swap_token_columns")
    assert masked.value("SELECT count(*) FROM pg_constraint WHERE conname = 'fine'") == 1


def test_a_copy_that_could_not_be_renewed_is_refused_before_anything_changes(
    filled: Database,
) -> None:
    for statement in (
        "CREATE TABLE mask ()",
        (
            "CREATE FUNCTION fail(int) RETURNS int LANGUAGE plpgsql AS "
            "'BEGIN PERFORM * FROM public.mask; RETURN $1; END'"
        ),
        "CREATE MATERIALIZED VIEW copies AS SELECT token, fail(1) AS n FROM tickets_ticket",
        "DROP TABLE mask",
    ):
        filled.run(statement)
    code, complaint = refusal("swap_token_columns", "--refresh-materialized-views")
    assert code == 1
    assert "Try the query of public.copies" in complaint
    assert filled.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'copies%'") == 1


def test_values_that_two_rows_may_have_are_compared_row_by_row(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a column with few values, each is in the retired column of some other row."""
    call_command("migrate", "tickets", "0001", verbosity=0)
    database.run("ALTER TABLE tickets_ticket DROP CONSTRAINT tickets_ticket_token_key")
    database.run(
        "INSERT INTO tickets_ticket (token) SELECT lpad((n % 3)::text, 32, '0')::uuid "
        "FROM generate_series(1, 30) AS n"
    )
    call_command("migrate", verbosity=0)
    with database.connect(autocommit=True) as session:
        session.execute("SET pgtrigger.ignore = '{pgtrigger_fill_new_token_6fffd}'")
        session.execute(
            "UPDATE tickets_ticket SET new_token = lpad(((id + 1) % 3)::text, 32, '0')::uuid"
        )
    database.run("CREATE VIEW shown AS SELECT id, token, token::text AS text FROM tickets_ticket")
    database.run("CREATE VIEW bare AS SELECT token FROM tickets_ticket")
    call_command("swap_token_columns")
    assert "2 views read through" in capsys.readouterr().out
