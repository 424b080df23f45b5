"""A value that is kept a second time is named: a swap does not change the column that holds it."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command

from tests.fixtures.database import Database
from tests.fixtures.releases import Release, manage
from tests.fixtures.tickets import add_old_tickets, bring_to

COPIES = {
    "plain": ("text", "token::text", "the value"),
    "short": ("varchar(8)", "left(token::text, 8)", "the beginning"),
    "bare": ("char(32)", "replace(token::text, '-', '')", "the value"),
    "checksum": (
        "text",
        "encode(sha256(token::text::bytea), 'hex')",
        "the SHA-256 digest",
    ),
    "digest": ("bytea", "sha512(token::text::bytea)", "the SHA-512 digest"),
    "old_digest": ("text", "upper(md5(token::text))", "the MD5 digest"),
}


@pytest.fixture
def copied(database: Database) -> Database:
    add_old_tickets(database, 20)
    for name, (kind, made_by, _) in COPIES.items():
        database.run(f"ALTER TABLE tickets_ticket ADD {name} {kind}")
        database.run(f"UPDATE tickets_ticket SET {name} = {made_by}")  # noqa: S608 - of this file
    database.run("ALTER TABLE tickets_ticket ADD note text DEFAULT 'a note', ADD other uuid")
    database.run("UPDATE tickets_ticket SET other = gen_random_uuid()")
    call_command("backfill_new_token", no_progress=True)
    return database


def test_the_dry_run_names_each_column_that_holds_the_value_and_how(
    copied: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    call_command("swap_token_columns", dry_run=True, json=True)
    assert json.loads(capsys.readouterr().out)["copies"] == {
        name: how for name, (_, _, how) in COPIES.items()
    }


def test_so_does_the_swap_before_it_begins(
    copied: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    call_command("swap_token_columns")
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("The value is kept a second time")
    assert "checksum (the SHA-256 digest of it)" in first


def test_the_contract_refuses_while_the_function_of_a_trigger_names_the_column(
    database: Database,
) -> None:
    add_old_tickets(database, 3)
    database.run(
        "CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM NEW.new_token; RETURN NEW; END'"
    )
    database.run(
        "CREATE TRIGGER zz_history BEFORE UPDATE ON tickets_ticket "
        "FOR EACH ROW EXECUTE FUNCTION remember()"
    )
    bring_to("swapped")
    releases: tuple[Release, ...] = ("n2", "n3")
    for release in releases:
        done = manage(database, release, "migrate", "--verbosity", "0")
    assert done.returncode == 1
    assert "zz_history (remember())" in done.stderr
    assert database.value("SELECT count(new_token) FROM tickets_ticket") == 3
