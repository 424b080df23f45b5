"""The connection is lost during the exchange: the catalog is asked, and the answer is said."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from django.db import connection

from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.replacement import find_replacement
from migrations_playbook.swap.dependents.inventory import read_inventory
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.prepare import prepare
from tests.fixtures.database import Database, wait_until
from tests.postgres.test_locks import server_setting
from tickets.models import Ticket


def pid_that_waits_for(database: Database, event: str) -> Any:
    """Wait for a session of the test's database to stand in a wait event; return its pid."""

    def pids() -> list[tuple[Any, ...]]:
        return database.fetch(
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event = %s",
            event,
        )

    wait_until(pids, f"a session waits in {event}")
    return pids()[0][0]


@pytest.fixture
def prepared(database: Database) -> Database:
    """A table whose swap is prepared, so that its next commit is the exchange."""
    Ticket.objects.create()
    replacement = find_replacement("tickets.Ticket", "new_token")
    table = read_table(connection, replacement.identifier)
    assert table is not None
    for _ in prepare(
        connection, read_inventory(connection, Pair.of(replacement, table)), LockPolicy()
    ):
        pass
    return database


def test_a_swap_that_was_cut_off_while_its_commit_was_acknowledged_is_said_to_be_committed(
    prepared: Database,
) -> None:
    # A commit that waits for a standby which does not exist: done on disk, not yet acknowledged.
    with server_setting(prepared, synchronous_standby_names="nobody"):
        swap = prepared.start("swap_token_columns")
        pid = pid_that_waits_for(prepared, "SyncRep")
        prepared.run("SELECT pg_terminate_backend(%s)", pid)
        _, complaint = swap.communicate(timeout=60)
    assert "The connection was lost; the swap was committed." in complaint
    assert swap.returncode == 75
    assert '"phase": "swapped"' in prepared.manage("playbook_status", "--json").stdout


def stand_still(database: Database) -> None:
    """Let the exchange stop in the middle, while somebody holds the advisory lock 42."""
    database.run("""
        CREATE FUNCTION stand_still() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(42); END $$""")
    database.run(
        "CREATE EVENT TRIGGER stand_still ON ddl_command_end "
        "WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION stand_still()"
    )


def test_a_swap_that_was_cut_off_before_its_commit_is_said_not_to_be(prepared: Database) -> None:
    stand_still(prepared)
    with prepared.connect() as obstacle:
        obstacle.execute("SELECT pg_advisory_lock(42)")
        swap = prepared.start("swap_token_columns")
        pid = pid_that_waits_for(prepared, "advisory")
        prepared.run("SELECT pg_terminate_backend(%s)", pid)
        _, complaint = swap.communicate(timeout=60)
    assert "The connection was lost; the swap was not committed." in complaint
    assert "run the same command again" in complaint
    assert swap.returncode == 75
    assert '"phase": "filled"' in prepared.manage("playbook_status", "--json").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_a_signal_while_the_commit_waits_for_a_standby_is_told_that_it_is_committed(
    number: signal.Signals, prepared: Database
) -> None:
    with server_setting(prepared, synchronous_standby_names="nobody"):
        swap = prepared.start("swap_token_columns")
        pid_that_waits_for(prepared, "SyncRep")
        swap.send_signal(number)
        _, complaint = swap.communicate(timeout=60)
    assert complaint == (
        "CommandError: The swap of tickets.Ticket was committed, and is not proven yet. Run "
        '"manage.py swap_token_columns --verify".\n'
    )
    assert swap.returncode == 75
    assert prepared.manage("swap_token_columns", "--verify").returncode == 0


def test_a_client_that_is_frozen_with_the_lock_does_not_keep_the_site_waiting(
    prepared: Database,
) -> None:
    stand_still(prepared)
    with prepared.connect() as obstacle, prepared.connect(autocommit=True) as reader:
        obstacle.execute("SELECT pg_advisory_lock(42)")
        swap = prepared.start("swap_token_columns")
        pid = pid_that_waits_for(prepared, "advisory")
        swap.send_signal(signal.SIGSTOP)
        obstacle.rollback()
        obstacle.execute("SELECT pg_advisory_unlock_all()")
        # Nobody ends the session but the server itself.
        assert reader.execute("SELECT count(*) FROM tickets_ticket").fetchone() == (1,)
        assert not prepared.fetch("SELECT FROM pg_stat_activity WHERE pid = %s", pid)
        swap.send_signal(signal.SIGCONT)
        _, complaint = swap.communicate(timeout=60)
    assert "The connection was lost; the swap was not committed." in complaint
    assert swap.returncode == 75
    prepared.run("DROP EVENT TRIGGER stand_still")
    assert prepared.manage("swap_token_columns").returncode == 0
