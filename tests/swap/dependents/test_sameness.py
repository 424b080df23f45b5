"""Restated means the same: what an object depended on, with the two columns exchanged."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command

from migrations_playbook.swap.dependents.readers import materialized, views
from migrations_playbook.swap.play import swap
from tests.fixtures.database import Database
from tests.fixtures.models_zoo import WORDS, Words, expand, fill
from tests.fixtures.server import server_version
from tests.fixtures.tickets import add_old_tickets, refusal
from tests.fixtures.words import add_words

LEAKED = "SELECT count(*) FROM {} AS v JOIN kept ON v.{}::text = kept.token::text"


@pytest.fixture
def filled(database: Database) -> Database:
    """Filled tickets, and a copy of the leaked values for the tests to compare with."""
    add_old_tickets(database, 20)
    database.run("CREATE TABLE kept AS SELECT id, token FROM tickets_ticket")
    call_command("backfill_new_token", no_progress=True)
    return database


def refused(database: Database, name: str) -> str:
    """What the swap says of an object that it does not carry over; nothing is changed by it."""
    _, complaint = refusal("swap_token_columns")
    assert name in complaint
    assert database.value("SELECT count(*) FROM tickets_ticket JOIN kept USING (id, token)") == 20
    return complaint


@pytest.mark.parametrize(
    ("made_by", "name"),
    [
        (
            "CREATE VIEW shop AS SELECT t.secret FROM tickets_ticket AS t (number, secret)",
            "view public.shop (on token): it names the table's columns by position",
        ),
        (
            (
                "CREATE VIEW shop AS SELECT (SELECT max(t.secret::text) FROM tickets_ticket "
                'AS t ("a ) number", secret)) AS secret'
            ),
            "view public.shop (on token): it names the table's columns by position",
        ),
        (
            (
                "CREATE FUNCTION newest() RETURNS uuid LANGUAGE sql BEGIN ATOMIC SELECT t.secret "
                "FROM tickets_ticket AS t (number, secret) ORDER BY 1 LIMIT 1; END"
            ),
            "function public.newest() (on token): it names the table's columns by position",
        ),
    ],
    ids=["a view", "a view's subquery", "a parsed function"],
)
def test_an_alias_list_names_columns_by_position_and_is_refused(
    made_by: str, name: str, filled: Database
) -> None:
    filled.run(made_by)
    assert refusal("swap_token_columns", "--dry-run")
    refused(filled, name)


def test_an_alias_list_in_a_materialized_view_is_refused_too(filled: Database) -> None:
    filled.run(
        "CREATE MATERIALIZED VIEW shop AS SELECT t.secret FROM tickets_ticket AS t (number, secret)"
    )
    _, complaint = refusal("swap_token_columns", "--refresh-materialized-views")
    assert "materialized view public.shop (on token): it names the table's columns" in complaint


def test_a_copy_that_means_something_else_is_not_committed(
    filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.run(
        "CREATE MATERIALIZED VIEW shop AS SELECT t.secret FROM tickets_ticket AS t (number, secret)"
    )
    monkeypatch.setattr(materialized, "ALIAS_LIST", "no such list")
    with pytest.raises(CommandError, match="would mean something else") as told:
        call_command("swap_token_columns", refresh_materialized_views=True)
    assert "\n- materialized view public.shop" in str(told.value)


def test_a_plain_alias_is_carried_over(filled: Database) -> None:
    filled.run("CREATE VIEW shop AS SELECT t.token AS secret FROM tickets_ticket AS t")
    call_command("swap_token_columns")
    assert filled.value(LEAKED.format("shop", "secret")) == 0


def test_a_join_by_an_extensions_operator_finds_the_same_rows(filled: Database) -> None:
    add_words(filled)
    for statement in (
        "ALTER TABLE tickets_ticket ADD email word",
        "UPDATE tickets_ticket SET email = 'Someone' || id || '@example.org'",
        "CREATE TABLE people (email word, name text)",
        "INSERT INTO people SELECT upper(email::text), 'one' FROM tickets_ticket",
        (
            "CREATE VIEW tickets_of AS SELECT token, name FROM tickets_ticket "
            "JOIN people USING (email)"
        ),
    ):
        filled.run(statement)
    counts = [filled.value("SELECT count(*) FROM tickets_of")]
    for revert in (False, True):
        call_command("swap_token_columns", revert=revert)
        counts.append(filled.value("SELECT count(*) FROM tickets_of"))
    assert counts == [20, 20, 20]


@pytest.mark.parametrize(
    ("made_by", "name"),
    [
        ("CREATE INDEX searched ON tickets_ticket (search(tickets_ticket))", "index searched"),
        (
            "CREATE INDEX searched ON tickets_ticket (id) WHERE search(tickets_ticket) > 'a'",
            "index searched",
        ),
        (
            (
                "ALTER TABLE tickets_ticket ADD CONSTRAINT searched "
                "CHECK (search(tickets_ticket) <> '')"
            ),
            "check searched",
        ),
    ],
    ids=["an index", "a partial index", "a check"],
)
def test_what_is_kept_of_a_whole_row_is_refused(made_by: str, name: str, filled: Database) -> None:
    filled.run(
        "CREATE FUNCTION search(tickets_ticket) RETURNS text IMMUTABLE LANGUAGE sql "
        "AS 'SELECT $1.token::text'"
    )
    filled.run(made_by)
    assert f"{name} (by the whole row): the exchange would leave it" in refused(filled, name)


@pytest.mark.skipif(server_version() < 15, reason="MERGE came with PostgreSQL 15")
def test_a_merge_in_a_parsed_function_goes_on_writing_the_live_column(filled: Database) -> None:
    filled.run(
        "CREATE FUNCTION rotate() RETURNS void LANGUAGE sql BEGIN ATOMIC MERGE INTO tickets_ticket "
        "AS t USING (SELECT min(id) AS id FROM tickets_ticket) AS s ON t.id = s.id "
        "WHEN MATCHED THEN UPDATE SET token = gen_random_uuid(); END"
    )
    call_command("swap_token_columns")
    rows = "SELECT token FROM tickets_ticket ORDER BY id"
    before = filled.fetch(rows)
    filled.run("SELECT rotate()")
    after = filled.fetch(rows)
    assert [now != then for now, then in zip(after, before, strict=True)] == [True] + [False] * 19


def test_a_view_that_cannot_be_restated_is_named(filled: Database) -> None:
    """Its function had one column fewer before the expand: the text is ambiguous after it."""
    call_command("migrate", "tickets", "0001", verbosity=0)
    filled.run(
        "CREATE FUNCTION all_of() RETURNS SETOF tickets_ticket LANGUAGE sql "
        "AS 'SELECT * FROM tickets_ticket'"
    )
    filled.run("CREATE VIEW shop AS SELECT a.token FROM all_of() AS a")
    call_command("migrate", verbosity=0)
    call_command("backfill_new_token", no_progress=True)
    complaint = refused(filled, "public.shop")
    # PostgreSQL 14 binds the view to no column, so its tree has to tell.
    how = "was not exchanged" if server_version() >= 15 else "cannot be exchanged"
    assert f"{how}; nothing was changed" in complaint


def test_a_column_of_an_extensions_type_is_exchanged_and_back(database: Database) -> None:
    add_words(database)
    replacement = expand(Words, WORDS)
    database.run("ALTER TABLE zoo_words ADD CONSTRAINT rare CHECK (token <> 'none')")
    fill(replacement)
    before = database.fetch("SELECT token::text, new_token::text FROM zoo_words ORDER BY id")
    for revert in (False, True):
        for _ in swap(replacement, using="default", revert=revert):
            pass
        now = database.fetch("SELECT token::text, new_token::text FROM zoo_words ORDER BY id")
        assert (now == before) is revert


def test_code_that_may_go_by_position_is_listed(
    filled: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.run("CREATE TABLE history (LIKE tickets_ticket)")
    filled.run(
        "CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO history SELECT OLD.*; RETURN NEW; END'"
    )
    filled.run(
        "CREATE TRIGGER remembers AFTER DELETE ON tickets_ticket "
        "FOR EACH ROW EXECUTE FUNCTION remember()"
    )
    filled.run(
        "CREATE FUNCTION shown(tickets_ticket) RETURNS text LANGUAGE sql AS 'SELECT $1.id::text'"
    )
    filled.run("CREATE DOMAIN one_row AS tickets_ticket")
    filled.run("CREATE TABLE kept_rows (one one_row, several tickets_ticket[])")
    call_command("swap_token_columns", dry_run=True)
    said = capsys.readouterr().out
    for name in (
        "function public.remember()",
        "function public.shown(public.tickets_ticket)",
        "column one of table public.kept_rows",
        "column several of table public.kept_rows",
    ):
        assert f"{name} (perhaps by position, look yourself): left as it is" in said


def test_a_view_that_means_something_else_is_not_committed(
    filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof itself: a swap that restates a view wrongly is rolled back, and the view named."""
    filled.run("CREATE VIEW shop AS SELECT t.secret FROM tickets_ticket AS t (number, secret)")
    monkeypatch.setattr(views, "ALIAS_LIST", "no such list")
    with pytest.raises(CommandError, match="would mean something else") as told:
        call_command("swap_token_columns")
    assert "\n- view public.shop" in str(told.value)
    assert filled.value("SELECT count(*) FROM tickets_ticket JOIN kept USING (id, token)") == 20
