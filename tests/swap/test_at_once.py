"""Two who are at work on the same table: the second waits, or says who the first is, with 75."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest
from django.core.management import CommandError, call_command
from django.db import Error as DatabaseError
from psycopg import errors

from migrations_playbook.errors import TRY_AGAIN, PlaybookError
from migrations_playbook.history import find_known
from migrations_playbook.postgres.failures import explain_failure
from migrations_playbook.swap.play import swap
from migrations_playbook.swap.reports import Event
from tests.fixtures.database import Database, wait_until
from tests.fixtures.tickets import Phase, add_old_tickets, bring_to, changed


def test_an_index_that_somebody_builds_is_not_taken_for_a_failed_one(filled: Database) -> None:
    with filled.connect() as snapshot, filled.connect(autocommit=True) as builder:
        snapshot.execute("UPDATE tickets_ticket SET redeemed_at = now() WHERE id = 1")
        thread = threading.Thread(
            target=builder.execute,
            args=["CREATE UNIQUE INDEX CONCURRENTLY theirs ON tickets_ticket (token, id)"],
        )
        thread.start()
        wait_until(
            lambda: filled.value("SELECT count(*) FROM pg_stat_progress_create_index"),
            "somebody builds an index",
        )
        pid = builder.info.backend_pid
        done = filled.manage("swap_token_columns")
        snapshot.rollback()
        thread.join()
    assert done.returncode == TRY_AGAIN
    assert f"An index is being built on public.tickets_ticket by pid {pid}" in done.stderr
    assert "left by a build" not in done.stderr
    assert filled.manage("swap_token_columns").returncode == 0


@pytest.mark.parametrize(
    ("begins", "revert", "other"),
    [
        ("filled", False, ("swap_token_columns",)),
        ("filled", False, ("migrate", "tickets", "0001")),
        ("swapped", True, ("swap_token_columns", "--revert")),
        ("swapped", True, None),
    ],
    ids=["another swap", "migrate backwards", "another revert", "the contract"],
)
def test_who_is_overtaken_by_another_play_says_so_and_has_changed_nothing(
    database: Database, begins: Phase, other: tuple[str, ...] | None, *, revert: bool
) -> None:
    add_old_tickets(database, 5)
    bring_to(begins)
    slow = swap(find_known("tickets.Ticket", "new_token"), using="default", revert=revert)
    next(slow)  # It is about to build or to prove something.
    if other is None:
        database.run("ALTER TABLE tickets_ticket DROP COLUMN new_token CASCADE")
    else:
        assert database.manage(*other).returncode == 0
    after = database.dump()
    error = failure_of(slow)
    assert error.exit_code == TRY_AGAIN, error
    assert "nother session" in str(error)
    assert database.dump() == after


def failure_of(events: Iterable[Event]) -> PlaybookError:
    """Go on to the end, which is a refusal as the command says it."""
    try:
        for _ in events:
            pass
    except PlaybookError as error:
        return error
    except DatabaseError as error:
        return explain_failure(error)
    pytest.fail("it went through")


@pytest.mark.parametrize(
    "statement", ["GRANT SELECT ON tickets_ticket TO PUBLIC", "ANALYZE tickets_ticket"]
)
def test_beside_somebodys_catalog_changes_it_tries_again(statement: str, filled: Database) -> None:
    over = threading.Event()

    def change() -> None:
        with filled.connect(autocommit=True) as session:
            while not over.is_set():
                try:
                    session.execute(statement)
                except (errors.InternalError_, errors.DeadlockDetected):
                    continue

    thread = threading.Thread(target=change)
    thread.start()
    done = 0
    try:
        for revert in (False, True, False):
            try:
                call_command("swap_token_columns", revert=revert, attempts=200)
            except CommandError as error:
                assert error.returncode == TRY_AGAIN, error  # noqa: PT017 - it may go through, too
                break
            done += 1
    finally:
        over.set()
        thread.join()
    # Nothing was lost, whatever came of it.
    assert changed(filled, "token", now="new_token" if done % 2 else "token") == 0
