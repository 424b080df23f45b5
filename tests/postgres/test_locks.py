"""The two-stage lock: what other sessions see of it, and what it says when it cannot be had."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import psycopg
import pytest
from django.db import connection, transaction
from psycopg import sql

from migrations_playbook.errors import LockNotAvailable
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.holders import count_waiters, read_holders
from migrations_playbook.postgres.locks import LockPolicy
from tests.fixtures.database import Database, backend_pid, wait_until, wait_until_blocked

TABLE = sql.Identifier("public", "tickets_ticket")
HASTY = LockPolicy(timeout_ms=100, attempts=3, pause_ms=10, patience_ms=3000)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run `work` on a Django connection of its own; its result or its error ends up in the list."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)
        finally:
            connection.close()

    # A test that fails leaves it to end with its database.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def backend_of(session: psycopg.Connection[Any]) -> int:
    return session.info.backend_pid


@contextmanager
def server_setting(database: Database, **settings: str) -> Iterator[None]:
    """Change settings of the whole server for a moment."""
    try:
        for name, value in settings.items():
            database.run(f"ALTER SYSTEM SET {name} = '{value}'")
        database.run("SELECT pg_reload_conf()")
        yield
    finally:
        for name in settings:
            database.run(f"ALTER SYSTEM RESET {name}")
        database.run("SELECT pg_reload_conf()")


def lock_strongly(policy: LockPolicy = HASTY) -> locks.Seized:
    with transaction.atomic():
        locks.reserve(connection, TABLE, policy)
        return locks.seize(connection, TABLE, policy)


def test_a_free_table_is_locked_at_the_first_attempt(database: Database) -> None:
    seized = lock_strongly()
    assert seized.attempts == 1


def test_the_lock_is_held_until_the_transaction_ends(database: Database) -> None:
    with transaction.atomic():
        locks.reserve(connection, TABLE, HASTY)
        locks.seize(connection, TABLE, HASTY)
        with (
            database.connect(options="-c lock_timeout=50ms") as other,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            other.execute("SELECT count(*) FROM tickets_ticket")


def test_reads_and_writes_go_on_while_the_table_is_only_reserved(database: Database) -> None:
    with transaction.atomic():
        locks.reserve(connection, TABLE, HASTY)
        with database.connect(options="-c lock_timeout=50ms", autocommit=True) as other:
            other.execute("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
            other.execute("UPDATE tickets_ticket SET redeemed_at = now()")
            assert other.execute("SELECT count(*) FROM tickets_ticket").fetchone() == (1,)


def test_who_holds_the_table_is_named_when_the_lock_is_not_to_be_had(database: Database) -> None:
    with database.connect(application_name="night report") as idle:
        idle.execute("SELECT count(*) FROM tickets_ticket WHERE token = gen_random_uuid()")
        with pytest.raises(LockNotAvailable) as refusal:
            lock_strongly()
        message = str(refusal.value)
        assert f'pid {backend_of(idle)} "night report"' in message
    assert "AccessShareLock, idle in transaction" in message
    assert message.startswith("Could not get the ACCESS EXCLUSIVE lock on public.tickets_ticket")
    assert "in 3 attempts" in message
    assert "nothing was changed" in message


def test_a_refused_lock_leaves_the_transaction_fit_for_use(database: Database) -> None:
    with database.connect() as idle, transaction.atomic():
        idle.execute("SELECT count(*) FROM tickets_ticket")
        with pytest.raises(LockNotAvailable):
            locks.seize(connection, TABLE, HASTY)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM tickets_ticket")
            assert cursor.fetchone() == (0,)


def test_it_does_not_even_ask_while_an_old_transaction_holds_the_table(database: Database) -> None:
    with database.connect() as idle:
        idle.execute("SELECT count(*) FROM tickets_ticket")
        wait_until(
            lambda: database.value(
                "SELECT clock_timestamp() - xact_start > interval '20 ms' "
                "FROM pg_stat_activity WHERE pid = %s",
                backend_of(idle),
            ),
            "the transaction is old",
        )
        # One attempt with a very long timeout: had it asked, it would stand in the queue still.
        policy = LockPolicy(timeout_ms=600_000, attempts=1, old_ms=20)
        with pytest.raises(LockNotAvailable):
            lock_strongly(policy)


def test_it_asks_again_until_the_table_is_free(database: Database) -> None:
    policy = LockPolicy(timeout_ms=50, attempts=1000, pause_ms=1, longest_pause_ms=5)
    with database.connect() as idle:
        idle.execute("SELECT count(*) FROM tickets_ticket")
        thread, outcome = in_thread(lambda: lock_strongly(policy))
        requests: set[object] = set()

        def asked_twice() -> bool:
            requests.update(
                database.fetch("SELECT waitstart FROM pg_locks WHERE waitstart IS NOT NULL")
            )
            return len(requests) > 1

        wait_until(asked_twice, "it has asked twice")
        idle.rollback()
    thread.join()
    assert outcome[0].attempts > 1


def test_a_reader_behind_a_failing_attempt_gets_through(database: Database) -> None:
    policy = LockPolicy(timeout_ms=100, attempts=1000, old_ms=600_000)
    with database.connect() as idle:
        idle.execute("SELECT count(*) FROM tickets_ticket")
        thread, _ = in_thread(lambda: lock_strongly(policy))
        with database.connect(autocommit=True) as reader:
            # The idle transaction stays for as long as these run: only the attempts' own timeout
            # can let them pass.
            for _ in range(20):
                reader.execute("SELECT count(*) FROM tickets_ticket")
        idle.rollback()
    thread.join()


def test_whoever_waits_behind_the_lock_is_counted(database: Database) -> None:
    tables = [database.value("SELECT 'tickets_ticket'::regclass::oid::bigint")]
    with transaction.atomic():
        locks.seize(connection, TABLE, HASTY)
        assert count_waiters(connection, tables) == (0, 0.0)
        with database.connect() as reader:
            thread, _ = in_thread(lambda: reader.execute("SELECT count(*) FROM tickets_ticket"))
            wait_until_blocked(database, backend_of(reader), by=backend_pid())
            wait_until(lambda: count_waiters(connection, tables)[1] > 0, "pg_locks says since when")
            assert count_waiters(connection, tables)[0] == 1
            transaction.set_rollback(True)
            connection.close()
            thread.join()


def test_a_forgotten_prepared_transaction_is_named(database: Database) -> None:
    with database.connect() as session:
        session.execute("LOCK TABLE tickets_ticket IN ACCESS SHARE MODE")
        session.execute("PREPARE TRANSACTION 'forgotten'")
    try:
        with pytest.raises(LockNotAvailable, match='prepared transaction "forgotten"'):
            lock_strongly()
    finally:
        database.run("ROLLBACK PREPARED 'forgotten'")


@contextmanager
def slow_autovacuum(database: Database) -> Iterator[int]:
    """An autovacuum of the table that does not come to its end by itself."""
    database.run(
        "INSERT INTO tickets_ticket (token) SELECT gen_random_uuid() FROM generate_series(1, 20000)"
    )
    database.run(
        "ALTER TABLE tickets_ticket SET (autovacuum_vacuum_threshold = 0, "
        "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, "
        "autovacuum_vacuum_cost_limit = 1)"
    )
    database.run("UPDATE tickets_ticket SET redeemed_at = now()")
    with server_setting(database, autovacuum_naptime="1s"):

        def pid() -> Any:
            rows = database.fetch(
                "SELECT p.pid FROM pg_stat_progress_vacuum p JOIN pg_stat_activity a USING (pid) "
                "WHERE p.relid = 'tickets_ticket'::regclass "
                "AND a.backend_type = 'autovacuum worker'"
            )
            return rows and rows[0][0]

        wait_until(pid, "an autovacuum is at work on the table")
        yield pid()


def test_an_ordinary_autovacuum_gives_way(database: Database) -> None:
    patient = LockPolicy(patience_ms=20_000, attempts=100)
    with slow_autovacuum(database) as pid:
        lock_strongly(patient)
        # It was cancelled: the worker no longer vacuums the table, or is another one.
        assert not database.fetch(
            "SELECT FROM pg_locks WHERE pid = %s AND relation = 'tickets_ticket'::regclass "
            "AND mode = 'ShareUpdateExclusiveLock' AND granted",
            pid,
        )


def test_a_vacuum_that_prevents_wraparound_is_reported_and_left_alone(database: Database) -> None:
    database.run("ALTER TABLE tickets_ticket SET (autovacuum_freeze_max_age = 100000)")
    database.run(
        "DO $$ BEGIN FOR i IN 1..110000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
    )
    with slow_autovacuum(database) as pid:
        with pytest.raises(LockNotAvailable) as refusal:
            lock_strongly(LockPolicy(patience_ms=600_000))
        assert f"pid {pid}" in str(refusal.value)
        assert "transactions old" in str(refusal.value)
        assert refusal.value.exit_code == 75
        assert database.fetch("SELECT FROM pg_stat_progress_vacuum WHERE pid = %s", pid)


def test_pauses_grow_and_are_bounded() -> None:
    policy = LockPolicy(pause_ms=100, longest_pause_ms=400)
    for attempt, most in ((1, 0.15), (2, 0.225), (9, 0.6), (90, 0.6)):
        for _ in range(100):
            assert most / 3 <= policy.pause(attempt) <= most


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("SELECT count(*) FROM tickets_ticket", "SELECT"),
        ("  select 00004711 FROM tickets_ticket", "SELECT"),
        ("UPDATE tickets_ticket SET redeemed_at = NULL WHERE id = 00004711", "UPDATE"),
        (r"SELECT E'it\'s secret 00004711' FROM tickets_ticket", "SELECT"),
        ("SELECT U&'!0073ecret' UESCAPE '!' FROM tickets_ticket", "SELECT"),
        ("SELECT $secret$00004711$secret$ FROM tickets_ticket", "SELECT"),
        ("SELECT B'0100', X'5EC4E7' FROM tickets_ticket", "SELECT"),
        ("SELECT id AS secret FROM tickets_ticket", "SELECT"),
        ("/* secret */ SELECT id FROM tickets_ticket", ""),
        ("-- secret\nSELECT id FROM tickets_ticket", ""),
        ("secret", ""),
    ],
)
def test_of_a_blockers_query_only_the_command_is_shown(
    query: str, shown: str, database: Database
) -> None:
    with database.connect() as blocker:
        blocker.execute("LOCK TABLE tickets_ticket IN ACCESS SHARE MODE")
        # A query that fails is shown as well, and its transaction holds no lock any more.
        blocker.execute("SAVEPOINT before")
        with suppress(psycopg.Error):
            blocker.execute(cast("Any", query))
        (holder,) = read_holders(connection, TABLE)
        assert holder.command == shown
        assert not any(part in str(holder) for part in ("secret", "00004711", "5EC4E7"))
