"""The one way to take a strong lock: in two stages, boundedly, and never queueing the site.

A waiting ACCESS EXCLUSIVE request blocks every later reader, so it must be short; an autovacuum
gives way only to a request that has waited `deadlock_timeout` (1 s), so it must be long. Hence:

1. `reserve` takes SHARE UPDATE EXCLUSIVE patiently. It evicts an autovacuum and keeps
   others away, and blocks no read and no write, not even while it waits.
2. `seize` then takes ACCESS EXCLUSIVE in short attempts with jittered pauses, and does not
   even ask while a transaction that is older than a bound holds the table.

Both work inside the caller's transaction, are bounded in attempts and time, and leave
`lock_timeout` set until it ends, so that no later statement in it waits without a bound.

A partitioned table is locked with all its partitions, as LOCK TABLE does it: whoever holds one of
them holds the table.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.errors import LockNotAvailable
from migrations_playbook.postgres.query import execute, fetch_all, fetch_one, fetch_value, set_local
from migrations_playbook.postgres.tables import TREE


@dataclass(frozen=True)
class LockPolicy:
    """How long and how often to ask.

    Arguments:
        timeout_ms: how long one request for ACCESS EXCLUSIVE may wait, in milliseconds, a
            partitioned table's partitions together. It is also the longest that a reader can be
            made to wait by one attempt.
        attempts: how many times to ask.
        pause_ms: the first pause between attempts, in milliseconds; it grows by half each time,
            up to `longest_pause_ms`, and is jittered by half either way.
        longest_pause_ms: the bound of a pause, in milliseconds.
        patience_ms: how long the request for SHARE UPDATE EXCLUSIVE may wait, in milliseconds,
            for the table and for each partition. Must exceed `deadlock_timeout`, or autovacuum
            always wins.
        old_ms: a transaction older than this that holds the table is not asked against.
    """

    timeout_ms: int = 100
    attempts: int = 30
    pause_ms: int = 100
    longest_pause_ms: int = 2000
    patience_ms: int = 5000
    old_ms: int = 500

    def pause(self, attempt: int) -> float:
        """Seconds to wait after an attempt, counted from 1."""
        pause = min(self.pause_ms * 1.5 ** (attempt - 1), self.longest_pause_ms)
        return pause * random.uniform(0.5, 1.5) / 1000  # noqa: S311 - jitter, not a secret


DEFAULT_POLICY = LockPolicy()

# Beyond a lock's own timeout, for what a statement does besides waiting, in milliseconds.
GRACE_MS = 50

# The table lock modes as pg_locks spells them.
STRONGEST_FIRST = [
    "AccessExclusiveLock",
    "ExclusiveLock",
    "ShareRowExclusiveLock",
    "ShareLock",
    "ShareUpdateExclusiveLock",
    "RowExclusiveLock",
    "RowShareLock",
    "AccessShareLock",
]


@dataclass(frozen=True)
class Seized:
    """A strong lock that was granted.

    Arguments:
        attempts: how many times it was asked for, or not asked because of an old transaction.
        wait_ms: how long the requests stood in the queue, together, in milliseconds.
        since: `time.monotonic()` when it was granted.
    """

    attempts: int
    wait_ms: float
    since: float


@dataclass(frozen=True)
class Holder:
    """A session, or a prepared transaction, that holds a lock on the table.

    Arguments:
        pid: the server process, or None for a prepared transaction.
        mode: the strongest lock mode that it holds there.
        age_ms: how long its transaction has been open, in milliseconds; None if hidden from us.
    """

    pid: int | None
    mode: str
    age_ms: float | None
    state: str
    application: str
    query: str
    prepared: str | None

    def __str__(self) -> str:
        age = "" if self.age_ms is None else f", open for {self.age_ms / 1000:.1f} s"
        if self.prepared is not None:
            return f'prepared transaction "{self.prepared}" ({self.mode}{age})'
        application = f' "{self.application}"' if self.application else ""
        state = f", {self.state}" if self.state else ""
        query = f": {self.query}" if self.query else ""
        return f"pid {self.pid}{application} ({self.mode}{state}{age}){query}"


def reserve(
    connection: BaseDatabaseWrapper, table: sql.Identifier, policy: LockPolicy = DEFAULT_POLICY
) -> None:
    """Stage one: keep autovacuum and other schema changes away; no read or write notices.

    Lock: SHARE UPDATE EXCLUSIVE on the table, until the end of the transaction. It keeps
    partitions from being attached, too.

    Raises:
        LockNotAvailable: not granted within `policy.patience_ms`, or a vacuum that prevents
            transaction-id wraparound holds it, which PostgreSQL never cancels.
    """
    refuse_wraparound_vacuum(connection, table)
    if _ask(connection, [_lock(table, "SHARE UPDATE EXCLUSIVE")], policy.patience_ms):
        return
    refuse_wraparound_vacuum(connection, table)
    raise LockNotAvailable(_not_to_be_had(connection, table, "SHARE UPDATE EXCLUSIVE", 1))


def seize(
    connection: BaseDatabaseWrapper,
    table: sql.Identifier,
    policy: LockPolicy = DEFAULT_POLICY,
    *,
    first: Sequence[sql.Composable] = (),
) -> Seized:
    """Stage two: exclude everybody, for the milliseconds that a catalog change takes.

    Lock: ACCESS EXCLUSIVE on the table, until the end of the transaction.

    Arguments:
        first: statements that lock other relations before the table, in each attempt: a reader
            of a view locks the view first, and the other way round would be a deadlock.

    Raises:
        LockNotAvailable: not granted in `policy.attempts` attempts; names who holds the table.
    """
    statements = [*first, _lock(table, "ACCESS EXCLUSIVE")]
    waited = 0.0
    for attempt in range(1, policy.attempts + 1):
        if not old_holders(connection, table, policy.old_ms):
            asked = time.monotonic()
            granted = _ask(connection, statements, policy.timeout_ms, all_ms=policy.timeout_ms)
            now = time.monotonic()
            waited += now - asked
            if granted:
                return Seized(attempts=attempt, wait_ms=waited * 1000, since=now)
        if attempt < policy.attempts:
            # Outside the queue, where nobody waits behind us; so nothing can wake us either.
            time.sleep(policy.pause(attempt))
    raise LockNotAvailable(_not_to_be_had(connection, table, "ACCESS EXCLUSIVE", policy.attempts))


def holders(connection: BaseDatabaseWrapper, table: sql.Identifier) -> list[Holder]:
    """Who holds a lock on the table or a partition of it, ourselves apart; the oldest first.

    Lock: none that conflicts with anything (reads pg_locks and pg_stat_activity).
    """
    # A transaction sees pg_stat_activity as it was when it first looked: a session that has begun
    # another transaction since would seem to hold on to its old one.
    execute(connection, sql.SQL("SELECT pg_catalog.pg_stat_clear_snapshot()"))
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT l.pid,
                   (array_agg(l.mode ORDER BY array_position(%s, l.mode)))[1],
                   extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))
                       * 1000,
                   coalesce(a.state, ''),
                   coalesce(a.application_name, ''),
                   coalesce(a.query, ''),
                   p.gid
              FROM pg_catalog.pg_locks l
              LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
              -- A prepared transaction has no pid; the lock on its own number tells which it is.
              LEFT JOIN pg_catalog.pg_locks x
                     ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
                    AND x.virtualtransaction = l.virtualtransaction
              LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
             WHERE l.locktype = 'relation'
               AND l.relation IN (SELECT oid FROM {tree} AS tree)
               AND l.database = (SELECT oid FROM pg_catalog.pg_database
                                  WHERE datname = pg_catalog.current_database())
               AND l.granted
               AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
             GROUP BY l.pid, a.xact_start, p.prepared, a.state, a.application_name, a.query, p.gid
             ORDER BY coalesce(a.xact_start, p.prepared) NULLS LAST""").format(tree=TREE),
        [STRONGEST_FIRST, table.as_string(None)],
    )
    return [
        Holder(
            pid=pid,
            mode=mode,
            age_ms=None if age is None else float(age),
            state=state,
            application=application,
            query=first_words(query),
            prepared=gid,
        )
        for pid, mode, age, state, application, query, gid in rows
    ]


def old_holders(
    connection: BaseDatabaseWrapper, table: sql.Identifier, old_ms: float
) -> list[Holder]:
    """Those who hold the table in a transaction that is older than `old_ms` milliseconds."""
    return [
        holder
        for holder in holders(connection, table)
        if holder.age_ms is not None and holder.age_ms > old_ms
    ]


def waiters(connection: BaseDatabaseWrapper, table: sql.Identifier) -> tuple[int, float]:
    """How many sessions wait for a lock on the table now, and the longest wait in milliseconds.

    Asked by the holder just before it commits, this is everybody whom it made wait:
    pg_locks tells since when (PostgreSQL 14+).
    """
    row = fetch_one(
        connection,
        sql.SQL("""
            SELECT count(*),
                   coalesce(max(extract(epoch FROM clock_timestamp() - waitstart)) * 1000, 0)
              FROM pg_catalog.pg_locks
             WHERE locktype = 'relation'
               AND relation IN (SELECT oid FROM {tree} AS tree)
               AND NOT granted""").format(tree=TREE),
        [table.as_string(None)],
    )
    assert row is not None
    return int(row[0]), float(row[1])


def refuse_wraparound_vacuum(connection: BaseDatabaseWrapper, table: sql.Identifier) -> None:
    """Refuse while a vacuum that prevents transaction-id wraparound is at work on the table.

    PostgreSQL cancels an ordinary autovacuum for whoever waits, but never this one. It is
    recognised by the table's age rather than by the text of its query, which a role without
    pg_read_all_stats cannot see.

    Raises:
        LockNotAvailable: names the vacuum's pid and the table's age in transactions.
    """
    row = fetch_one(
        connection,
        sql.SQL("""
            SELECT l.pid, pg_catalog.age(c.relfrozenxid), c.oid::regclass::text
              FROM {tree} AS tree
              JOIN pg_catalog.pg_class c ON c.oid = tree.oid
              JOIN pg_catalog.pg_locks l ON l.locktype = 'relation' AND l.relation = c.oid
              JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
             -- A partitioned table has no rows of its own that could grow old.
             WHERE c.relkind <> 'p'
               AND l.granted
               AND l.mode = 'ShareUpdateExclusiveLock'
               AND (a.query LIKE 'autovacuum:%%(to prevent wraparound)'
                    OR a.backend_type IS NULL
                       AND pg_catalog.age(c.relfrozenxid)
                           > current_setting('autovacuum_freeze_max_age')::bigint)""").format(
            tree=TREE
        ),
        [table.as_string(None)],
    )
    if row is not None:
        raise LockNotAvailable(
            f"A vacuum that prevents transaction-id wraparound is at work on {row[2]} "
            f"(pid {row[0]}; the table is {row[1]:,} transactions old), and PostgreSQL never "
            "cancels it. Let it finish, then run the same command again."
        )


def first_words(query: str, words: int = 8) -> str:
    """Return the beginning of a query, to recognise it by; it ends before the first literal.

    A literal may be a secret, a number as well as a text. Where one ends depends on how it begins
    (`E'...'`) and on the server's settings, so nothing behind it is told.
    """
    beginning = re.split(r"['$]|\b\d", query, maxsplit=1)
    shown = beginning[0].split()[:words]
    return " ".join([*shown, "…"] if len(beginning) > 1 and len(shown) < words else shown)


def _lock(table: sql.Identifier, mode: str) -> sql.Composed:
    return sql.SQL("LOCK TABLE {} IN {} MODE").format(table, sql.SQL(mode))


def _ask(
    connection: BaseDatabaseWrapper,
    statements: Sequence[sql.Composable],
    timeout_ms: int,
    *,
    all_ms: int | None = None,
) -> bool:
    """Ask once for locks; False when they were not granted in time (the savepoint undoes it).

    Arguments:
        statements: those that take the locks.
        timeout_ms: how long each lock may wait.
        all_ms: how long each statement may take, all its locks together. `lock_timeout` begins
            anew with each partition, while those that are locked already keep everybody waiting.
    """
    began = time.monotonic()
    try:
        with transaction.atomic(using=connection.alias):
            set_local(connection, "lock_timeout", f"{timeout_ms}ms")
            usual = fetch_value(
                connection, sql.SQL("SELECT pg_catalog.current_setting('statement_timeout')")
            )
            if all_ms is not None:
                set_local(connection, "statement_timeout", f"{all_ms + GRACE_MS}ms")
            for statement in statements:
                execute(connection, statement)
            if all_ms is not None:
                set_local(connection, "statement_timeout", usual)
    except OperationalError as error:
        if isinstance(error.__cause__, pg_errors.LockNotAvailable | pg_errors.DeadlockDetected):
            return False
        # By its own clock, or by somebody who wants it to stop?
        in_vain = all_ms is not None and (time.monotonic() - began) * 1000 >= all_ms
        if in_vain and isinstance(error.__cause__, pg_errors.QueryCanceled):
            return False
        raise
    return True


def _not_to_be_had(
    connection: BaseDatabaseWrapper, table: sql.Identifier, mode: str, attempts: int
) -> str:
    others = holders(connection, table)
    named = "; ".join(str(holder) for holder in others[:5]) or "nobody now: it was a busy moment"
    times = "once" if attempts == 1 else f"{attempts} times"
    return (
        f"The {mode} lock on {_plain(table)} was not to be had (asked {times}); nothing was "
        f"changed. It is held by {named}. End that transaction, or run the same command again."
    )


def _plain(table: sql.Identifier) -> str:
    return table.as_string(None).replace('"', "")
