"""The contract drops the leaked values and nothing else, and not before they are retired."""

from __future__ import annotations

import re

import pytest
from django.db import connection, transaction
from psycopg import errors, sql

from migrations_playbook.contract.play import contract
from migrations_playbook.errors import LockNotAvailable
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database
from tests.fixtures.dumps import with_columns_sorted
from tests.fixtures.releases import manage, migrate
from tests.fixtures.tickets import Phase, add_old_tickets, bring_to, changed, nulls, remember

HISTORY = """
CREATE OR REPLACE FUNCTION public.keep_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.history VALUES (NEW.{name}); RETURN NEW; END $$;
CREATE OR REPLACE TRIGGER history AFTER UPDATE ON tickets_ticket FOR EACH ROW
    EXECUTE FUNCTION public.keep_history();
"""


def own_objects(database: Database) -> list[str]:
    """Functions, triggers, sequences, indexes and constraints that name the shadow column."""
    return [
        name
        for (name,) in database.fetch(
            """
            SELECT proname::text FROM pg_proc UNION ALL
            SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal UNION ALL
            SELECT relname::text FROM pg_class UNION ALL
            SELECT conname::text FROM pg_constraint ORDER BY 1"""
        )
        if "new_token" in name
    ]


@pytest.mark.parametrize("phase", ["expanded", "filled", "reverted"])
def test_it_refuses_while_the_fresh_values_are_not_live(database: Database, phase: Phase) -> None:
    add_old_tickets(database, 3)
    bring_to(phase)
    connection.close()
    migrate(database, "n2")
    before = database.dump()
    done = manage(database, "n3", "migrate")
    assert done.returncode == 1
    assert done.stderr == (
        "CommandError: public.tickets_ticket is not swapped: dropping 'new_token' now would keep "
        "the leaked values in 'token' and lose the fresh ones. Run \"manage.py playbook status\" "
        'for the next command, swap, then run "manage.py migrate" again.\n'
    )
    assert database.dump() == before


def test_it_drops_the_column_and_all_that_belongs_to_it(database: Database) -> None:
    add_old_tickets(database, 3)
    bring_to("swapped")
    connection.close()
    remember(database, "token")
    assert len(own_objects(database)) > 5
    migrate(database, "n3")
    assert own_objects(database) == []
    assert changed(database, "token") == 0


def test_an_empty_table_needs_no_swap(database: Database) -> None:
    connection.close()
    migrate(database, "n3")
    assert own_objects(database) == []


def test_its_reverse_adds_an_empty_column_and_the_triggers(database: Database) -> None:
    expanded = database.dump()
    add_old_tickets(database, 3)
    bring_to("swapped")
    connection.close()
    migrate(database, "n3")
    migrate(database, "n3", "tickets", "0004")
    assert with_columns_sorted(database.dump()) == with_columns_sorted(expanded)
    assert nulls(database) == 3


def test_it_gives_up_behind_a_transaction_that_holds_the_table(database: Database) -> None:
    add_old_tickets(database, 3)
    bring_to("swapped")
    before = database.dump()
    with database.connect() as other:
        pid = other.info.backend_pid
        other.execute("SELECT FROM tickets_ticket LIMIT 1")
        with pytest.raises(LockNotAvailable) as caught, transaction.atomic():
            contract(
                connection,
                sql.Identifier("tickets_ticket"),
                live="token",
                shadow="new_token",
                triggers=find_replacement("tickets.Ticket", "new_token").trigger_names,
                policy=LockPolicy(attempts=2, timeout_ms=50, pause_ms=1),
            )
    assert f"pid {pid}" in str(caught.value)
    assert database.dump() == before


def test_what_else_is_bound_to_the_leaked_values_stops_it(database: Database) -> None:
    add_old_tickets(database, 3)
    bring_to("swapped")
    connection.close()
    migrate(database, "n2")
    database.run("CREATE VIEW leaked AS SELECT id, new_token FROM tickets_ticket")
    done = manage(database, "n3", "migrate")
    assert done.returncode == 1
    # The server says which, in its language: "view leaked depends on column new_token of ...".
    view, column = database.fetch("""
        SELECT pg_describe_object('pg_class'::regclass, 'leaked'::regclass, 0),
               pg_describe_object('pg_class'::regclass, attrelid, attnum)
          FROM pg_attribute
         WHERE attrelid = 'tickets_ticket'::regclass AND attname = 'new_token'""")[0]
    said = re.fullmatch(
        "CommandError: Something else of yours is bound to 'new_token' of public.tickets_ticket: "
        "(.*)\\. Drop it, or let it read the live column, "
        'then run "manage.py migrate" again\\.\n',
        done.stderr,
    )
    assert said, done.stderr
    assert view in said[1]
    assert column in said[1]
    assert ";" not in said[1]
    assert nulls(database) == 0


def test_a_generated_column_of_the_leaked_values_stops_it(database: Database) -> None:
    """PostgreSQL 14 would drop the generated column with the other, and say nothing."""
    add_old_tickets(database, 3)
    bring_to("swapped")
    connection.close()
    migrate(database, "n2")
    database.run(
        "ALTER TABLE tickets_ticket ADD odd boolean "
        "GENERATED ALWAYS AS (new_token > '80000000-0000-0000-0000-000000000000') STORED"
    )
    done = manage(database, "n3", "migrate")
    assert done.returncode == 1
    assert "Something else of yours is bound to 'new_token' of public.tickets" in done.stderr
    assert re.search(r"\bodd\b.*Drop it, or let it read the live column", done.stderr)
    assert database.value("SELECT count(odd) FROM tickets_ticket") == 3


@pytest.mark.parametrize("name", ["NEW_TOKEN", '"new_token"'])
def test_a_function_that_names_the_column_in_any_spelling_stops_it(
    database: Database, name: str
) -> None:
    """Its body is text, which DROP COLUMN does not find: every write of the site would fail."""
    add_old_tickets(database, 3)
    database.run("CREATE TABLE history (token uuid)")
    database.run(HISTORY.format(name=name))
    bring_to("swapped")
    connection.close()
    migrate(database, "n2")
    done = manage(database, "n3", "migrate")
    assert done.returncode == 1
    assert "Without 'new_token' every write to public.tickets_ticket would fail" in done.stderr
    assert "a trigger names the column: history (keep_history())" in done.stderr
    database.run(HISTORY.format(name="token"))
    migrate(database, "n3")
    database.run("UPDATE tickets_ticket SET redeemed_at = now()")


def test_sqlmigrate_shows_the_lock_and_the_drop(database: Database) -> None:
    done = manage(database, "n3", "sqlmigrate", "tickets", "0005")
    assert done.returncode == 0, done.stderr
    assert 'LOCK TABLE "tickets_ticket" IN ACCESS EXCLUSIVE MODE' in done.stdout
    assert 'ALTER TABLE "tickets_ticket" DROP COLUMN "new_token"' in done.stdout


def test_old_code_finds_no_column_once_it_is_gone(database: Database) -> None:
    connection.close()
    migrate(database, "n3")
    with pytest.raises(errors.UndefinedColumn):
        database.run("SELECT new_token FROM tickets_ticket")
