"""What of PostgreSQL's errors may be told: never a line that may quote a value."""

from __future__ import annotations

import pytest
from django.db import Error, connection

from migrations_playbook.errors import primary_message
from tests.fixtures.database import Database

UNTOLD = {
    "SELECT 'secret'::uuid": "invalid text representation (SQLSTATE 22P02",
    # Quotes within the value end what is quoted too early.
    "SELECT 'x\"secret\"y'::int": "invalid text representation (SQLSTATE 22P02",
    "SELECT date_trunc('secret', now())": "invalid parameter value (SQLSTATE 22023",
    "DO $$BEGIN RAISE 'what is secret'; END$$": "raise exception (SQLSTATE P0001",
    "DO $$BEGIN RAISE 'secret' USING ERRCODE = '23505'; END$$": "unique violation (SQLSTATE 23505",
    "DO $$BEGIN RAISE 'secret' USING ERRCODE = 'ABCDE'; END$$": "an error of its own (SQLSTATE ABC",
    "DO $$BEGIN ASSERT false, 'secret'; END$$": "assert failure (SQLSTATE P0004",
}


@pytest.mark.parametrize("statement", UNTOLD)
def test_a_line_that_may_quote_a_value_is_told_by_its_sqlstate(
    database: Database, statement: str
) -> None:
    with connection.cursor() as cursor, pytest.raises(Error) as raised:
        cursor.execute(statement)
    assert "secret" in str(raised.value)
    told = primary_message(raised.value)
    assert told.startswith(UNTOLD[statement])
    assert "secret" not in told


def test_a_function_that_raises_is_named(database: Database) -> None:
    database.run(
        "CREATE FUNCTION talks(said text) RETURNS text LANGUAGE plpgsql AS "
        "$$BEGIN RAISE 'what is %?', said; END$$"
    )
    with connection.cursor() as cursor, pytest.raises(Error) as raised:
        cursor.execute("SELECT talks('secret')")
    assert "talks(text)" in primary_message(raised.value)
    assert "secret" not in primary_message(raised.value)


def test_a_line_that_names_objects_is_told_as_the_server_says_it(database: Database) -> None:
    statement = "INSERT INTO tickets_ticket (id, token) VALUES (4711, NULL)"
    with connection.cursor() as cursor, pytest.raises(Error) as raised:
        cursor.execute(statement)
    assert "4711" in str(raised.value)  # the failing row, in the DETAIL
    told = primary_message(raised.value)
    assert told == database.complaint(statement)
    assert "tickets_ticket" in told
    assert "4711" not in told
