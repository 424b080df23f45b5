"""`migrate` takes its lock boundedly, and can be run again whatever happened."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.backends.postgresql.schema import DatabaseSchemaEditor
from django.db.migrations.executor import MigrationExecutor
from django.test import override_settings
from psycopg import errors

from migrations_playbook.operations import DropShadow
from migrations_playbook.postgres.locks import LockPolicy
from tests.fixtures.database import Database, wait_until
from tests.fixtures.tickets import add_old_tickets, bring_to, changed, nulls, remember
from tickets.models import Ticket


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for the lock as often as ever, but at once: nobody lets go of it in these tests."""
    monkeypatch.setattr(LockPolicy, "pause", lambda *_: 0.0)


def sessions_at_the_first_lock(database: Database) -> list[bool]:
    """The sessions of migrations at their first lock: whether each has it, or waits for it."""
    return [
        granted
        for (granted,) in database.fetch(
            "SELECT granted FROM pg_locks WHERE relation = to_regclass('tickets_ticket') "
            "AND mode = 'ShareUpdateExclusiveLock' ORDER BY granted"
        )
    ]


def test_from_nothing_it_makes_a_table_whose_first_ticket_is_filled(
    empty_database: Database,
) -> None:
    done = empty_database.manage("migrate")
    assert (done.returncode, done.stderr) == (0, "")
    Ticket.objects.create()
    assert nulls(empty_database) == 0


def test_the_models_and_the_migrations_agree(database: Database) -> None:
    call_command("makemigrations", check=True, dry_run=True)


def test_the_expand_fills_nothing_and_rewrites_nothing(before_the_expand: Database) -> None:
    file = "SELECT pg_relation_filenode('tickets_ticket')"
    was = before_the_expand.value(file)
    call_command("migrate", verbosity=0)
    assert before_the_expand.value(file) == was
    assert nulls(before_the_expand) == 3


def test_backwards_from_the_expand_and_forwards_again_leaves_the_schema_as_it_was(
    database: Database,
) -> None:
    add_old_tickets(database, 3)
    remember(database, "token")
    expanded = database.dump()
    call_command("migrate", "tickets", "0001", verbosity=0)
    assert database.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0
    assert database.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'tickets_ticket'::regclass "
        "AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    ) == [("id",), ("token",), ("redeemed_at",)]
    call_command("migrate", verbosity=0)
    assert database.dump() == expanded
    assert changed(database, "token") == 0


def test_behind_an_idle_transaction_it_fails_cleanly_and_can_be_run_again(
    before_the_expand: Database, without_pauses: None
) -> None:
    before = before_the_expand.dump()
    with before_the_expand.connect(application_name="a forgotten console") as idle:
        idle.execute("SELECT count(*) FROM tickets_ticket")
        with pytest.raises(CommandError) as refused:
            call_command("migrate", verbosity=0)
        assert refused.value.returncode == 75
        for part in ("nothing was changed", f"pid {idle.info.backend_pid}", "a forgotten console"):
            assert part in str(refused.value)
        assert before_the_expand.dump() == before
    call_command("migrate", verbosity=0)
    assert nulls(before_the_expand) == 3


def test_backwards_behind_an_idle_transaction_it_fails_cleanly_too(
    database: Database, without_pauses: None
) -> None:
    before = database.dump()
    with database.connect() as idle:
        idle.execute("SELECT count(*) FROM tickets_ticket")
        with pytest.raises(CommandError, match=f"pid {idle.info.backend_pid}") as refused:
            call_command("migrate", "tickets", "0001", verbosity=0)
    assert refused.value.returncode == 75
    assert database.dump() == before


def test_backwards_while_swapped_is_one_sentence_where_django_drops_nothing_but_the_column(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As since Django 6.1."""
    monkeypatch.setattr(
        DatabaseSchemaEditor, "sql_delete_column", "ALTER TABLE %(table)s DROP COLUMN %(column)s"
    )
    add_old_tickets(database, 3)
    bring_to("swapped")
    # The triggers as they were first: a migration of its own.
    call_command("migrate", "tickets", "0002", verbosity=0)
    before = database.dump()
    with pytest.raises(CommandError) as refused:
        call_command("migrate", "tickets", "0001", verbosity=0)
    for part in ("migrations_playbook_ward", "nothing was changed", "--revert"):
        assert part in str(refused.value)
    assert database.dump() == before
    call_command("swap_token_columns", revert=True)
    call_command("migrate", "tickets", "0001", verbosity=0)
    assert database.memory() == []


def test_backwards_while_swapped_and_forwards_again_the_columns_are_swapped_as_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Django drops a column with what is bound to it, as before Django 6.1."""
    monkeypatch.setattr(
        DatabaseSchemaEditor,
        "sql_delete_column",
        "ALTER TABLE %(table)s DROP COLUMN %(column)s CASCADE",
    )
    add_old_tickets(database, 3)
    bring_to("swapped")
    call_command("migrate", "tickets", "0001", verbosity=0)
    call_command("migrate", "tickets", verbosity=0)
    bring_to("swapped")
    call_command("swap_token_columns", verify=True)
    call_command("swap_token_columns", revert=True)


@contextmanager
def held_by_young_transactions(database: Database) -> Iterator[None]:
    """Keep the table in use, by overlapping transactions that are too young to be waited out."""
    over = threading.Event()

    def take_turns() -> None:
        with database.connect() as one, database.connect() as other:
            one.execute("SELECT FROM tickets_ticket")
            for arriving, leaving in itertools.cycle([(other, one), (one, other)]):
                # A reader that stands behind the migration for long would be an outage.
                arriving.execute("SET LOCAL lock_timeout = '1s'")
                try:
                    arriving.execute("SELECT FROM tickets_ticket")
                except errors.LockNotAvailable:
                    queued.append(arriving.info.backend_pid)
                    return
                over.wait(0.1)
                leaving.rollback()
                if over.is_set():
                    return

    queued: list[int] = []
    thread = threading.Thread(target=take_turns)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert queued == [], "a reader stood in the queue behind the migration"


def test_while_it_asks_for_its_lock_readers_go_on(before_the_expand: Database) -> None:
    with held_by_young_transactions(before_the_expand):
        process = before_the_expand.start("migrate")
        asked: set[object] = set()

        def three_times() -> bool:
            asked.update(requests(before_the_expand))
            return len(asked) >= 3

        wait_until(three_times, "migrate asks for the lock, and asks again")
    _, errors_shown = process.communicate()
    assert (process.returncode, errors_shown) == (0, "")
    assert nulls(before_the_expand) == 3


def requests(database: Database) -> set[object]:
    """The requests for the strong lock that stand in the queue now, by when they were made."""
    return {
        since
        for (since,) in database.fetch(
            "SELECT waitstart FROM pg_locks WHERE relation = to_regclass('tickets_ticket') "
            "AND mode = 'AccessExclusiveLock' AND NOT granted AND waitstart IS NOT NULL"
        )
    }


def test_of_two_at_once_one_migrates_and_the_other_says_so(before_the_expand: Database) -> None:
    with before_the_expand.connect() as holder:
        holder.execute("SELECT FROM tickets_ticket")
        both = [before_the_expand.start("migrate"), before_the_expand.start("migrate")]
        wait_until(
            lambda: sessions_at_the_first_lock(before_the_expand) == [False, True],
            "one stands behind the other",
        )
    said = {process.communicate()[1]: process.returncode for process in both}
    assert sorted(said.values()) == [0, 75]
    (message,) = (text for text, code in said.items() if code)
    assert "Another process has migrated ticket meanwhile" in message
    assert "Traceback" not in message
    assert "No migrations to apply" in before_the_expand.manage("migrate").stdout
    assert nulls(before_the_expand) == 3


class Elsewhere:
    """A router that keeps the tickets out of a database."""

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool:
        return app_label != "tickets"


def test_where_a_router_keeps_the_table_out_there_is_nothing_to_expand(
    empty_database: Database,
) -> None:
    with override_settings(DATABASE_ROUTERS=[Elsewhere()]):
        call_command("migrate", verbosity=0)
        call_command("migrate", "tickets", "zero", verbosity=0)
    assert empty_database.value("SELECT to_regclass('tickets_ticket')") is None


def test_without_a_transaction_the_expand_is_refused_at_once(before_the_expand: Database) -> None:
    before = before_the_expand.dump()
    loader = MigrationExecutor(connection).loader
    migration = loader.get_migration("tickets", "0002_expand_new_token")
    state = loader.project_state(("tickets", "0001_initial"))
    with (
        pytest.raises(CommandError, match="Take atomic = False out of it") as refused,
        connection.schema_editor(atomic=False) as editor,
    ):
        migration.apply(state, editor)
    assert refused.value.returncode == 1
    assert "nothing was changed" in str(refused.value)
    assert before_the_expand.dump() == before


@pytest.mark.parametrize("way", ["database_forwards", "database_backwards"])
def test_without_a_transaction_the_contract_is_refused_at_once(
    database: Database, way: str
) -> None:
    add_old_tickets(database, 3)
    bring_to("swapped")
    before = database.dump()
    state = MigrationExecutor(connection).loader.project_state()
    operation = DropShadow("ticket", live="token", shadow="new_token")
    with (
        pytest.raises(CommandError, match="Take atomic = False out of it"),
        connection.schema_editor(atomic=False) as editor,
    ):
        getattr(operation, way)("tickets", editor, state, state)
    assert database.dump() == before


def test_sqlmigrate_shows_the_statements_and_takes_no_lock(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with database.connect() as busy:
        busy.execute("LOCK TABLE tickets_ticket IN ACCESS EXCLUSIVE MODE")
        call_command("sqlmigrate", "tickets", "0002")
        call_command("sqlmigrate", "tickets", "0002", backwards=True)
    shown = capsys.readouterr().out
    for part in (
        'LOCK TABLE "tickets_ticket" IN ACCESS EXCLUSIVE MODE',
        'ADD COLUMN "new_token" uuid NULL',
        'DROP COLUMN "new_token"',
    ):
        assert part in shown
