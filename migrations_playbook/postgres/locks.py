"""The only way to take a strong lock: in two stages, boundedly, and never queueing the site.

A waiting ACCESS EXCLUSIVE request blocks every later reader, so the wait must be short. An
autovacuum gives way only after a wait of `deadlock_timeout` (1 s), so the wait must be long. Hence:

1. `reserve` takes SHARE UPDATE EXCLUSIVE patiently. The request evicts an autovacuum and
   keeps others away, and blocks no read and no write, not even while waiting.
2. `seize` then takes ACCESS EXCLUSIVE in short attempts with jittered pauses, and does not
   even ask while a transaction older than a bound holds the table.

Both work inside the caller's transaction, are bounded in attempts and time, and leave
`lock_timeout` set until the end, so no later statement waits without a bound.

A partitioned table is locked with all its partitions, as LOCK TABLE does it: whoever holds one of
them holds the table.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.errors import LockNotAvailable
from migrations_playbook.postgres.holders import (
    STRONGEST_FIRST,
    Holder,
    find_old_holders,
    read_holders,
)
from migrations_playbook.postgres.names import plain_name
from migrations_playbook.postgres.query import engine_transaction, execute, fetch_one, set_local
from migrations_playbook.postgres.tables import TREE
from migrations_playbook.settings import setting


@dataclass(frozen=True)
class LockPolicy:
    """How long and how often to ask.

    Arguments:
        timeout_ms: how long a request for ACCESS EXCLUSIVE may wait, in milliseconds, a partitioned
            table's partitions together. No attempt makes a reader wait longer.
        attempts: how many times to ask.
        pause_ms: the first pause between attempts, in milliseconds; the pause grows by half each
            time, up to `longest_pause_ms`, and is jittered by half either way.
        longest_pause_ms: the bound of a pause, in milliseconds.
        patience_ms: how long the request for SHARE UPDATE EXCLUSIVE may wait, in milliseconds,
            for the table and for each partition. Must exceed `deadlock_timeout`, or autovacuum
            always wins.
        old_ms: no request is made against a holder whose transaction is older, in milliseconds.
        hold_ms: how long the holder of ACCESS EXCLUSIVE may be silent, in milliseconds, before the
            server ends its session: a client that is frozen must not keep the site waiting.
        snapshots_ms: how long a concurrent build may wait for an older transaction, milliseconds.
    """

    timeout_ms: int = setting("lock-timeout")
    attempts: int = setting("attempts")
    pause_ms: int = 100
    longest_pause_ms: int = 2000
    patience_ms: int = 5000
    old_ms: int = 500
    hold_ms: int = 5000
    snapshots_ms: int = 600_000

    def take_turns(self) -> Iterator[int]:
        """Yield the numbers of the attempts, counted from 1, with a pause between two.

        The pause is outside the queue, where nobody waits behind us; so nothing can wake us either.
        """
        for attempt in range(1, self.attempts + 1):
            yield attempt
            if attempt < self.attempts:
                time.sleep(self.pause(attempt))

    def pause(self, attempt: int) -> float:
        """Compute the seconds to wait after an attempt, counted from 1."""
        pause = min(self.pause_ms * 1.5 ** (attempt - 1), self.longest_pause_ms)
        return pause * random.uniform(0.5, 1.5) / 1000  # noqa: S311 - jitter, not a secret


LOG = logging.getLogger(__name__)
# Beyond a lock's own timeout, for a statement's work besides waiting, in milliseconds.
GRACE_MS = 50
# Errors that pass at the next attempt: a deadlock with somebody's schema change, and "tuple
# concurrently updated", which is how a GRANT or an ANALYZE of the same moment shows.
PASSING = (pg_errors.DeadlockDetected, pg_errors.InternalError_)
# The lock modes that keep SHARE UPDATE EXCLUSIVE from being granted, as pg_locks spells them.
AGAINST_SHARE_UPDATE = STRONGEST_FIRST[: STRONGEST_FIRST.index("RowExclusiveLock")]


@dataclass(frozen=True)
class Seized:
    """A granted strong lock.

    Arguments:
        attempts: how many times the lock was asked for, or not asked because of an old transaction.
        wait_ms: how long the requests stood in the queue, together, in milliseconds.
        since: `time.monotonic()` at the grant.
    """

    attempts: int
    wait_ms: float
    since: float


def reserve(
    connection: BaseDatabaseWrapper, table: sql.Identifier, policy: LockPolicy | None = None
) -> None:
    """Keep autovacuum and other schema changes away; no read or write notices: the first stage.

    Lock: SHARE UPDATE EXCLUSIVE on the table, until the end of the transaction. No partition can be
    attached meanwhile.

    Raises:
        LockNotAvailable: not granted within `policy.patience_ms`, or held by a vacuum against
            transaction-id wraparound, which PostgreSQL never cancels.
    """
    policy = policy or LockPolicy()
    refuse_wraparound_vacuum(connection, table)
    lock = _lock(table, "SHARE UPDATE EXCLUSIVE")
    if _ask(connection, [lock], {"lock_timeout": f"{policy.patience_ms}ms"}):
        return
    refuse_wraparound_vacuum(connection, table)
    others = [
        holder for holder in read_holders(connection, table) if holder.mode in AGAINST_SHARE_UPDATE
    ]
    raise LockNotAvailable(_unavailable(table, "SHARE UPDATE EXCLUSIVE", 1, others))


def seize(
    connection: BaseDatabaseWrapper,
    table: sql.Identifier,
    policy: LockPolicy | None = None,
    *,
    first: Sequence[sql.Composable] = (),
) -> Seized:
    """Exclude everybody, for the milliseconds of a catalog change: stage two.

    Lock: ACCESS EXCLUSIVE on the table, until the end of the transaction. The server ends the
    session when its client is silent for `policy.hold_ms` meanwhile.

    Arguments:
        first: statements to lock other relations first, as a view's readers do: else a deadlock.

    Raises:
        LockNotAvailable: not granted in `policy.attempts` attempts; names who holds the table.
    """
    policy = policy or LockPolicy()
    statements = [*first, _lock(table, "ACCESS EXCLUSIVE")]
    bounds = {
        # `lock_timeout` begins anew with each partition, while the partitions locked already keep
        # everybody waiting: so the statement is bounded, too.
        "lock_timeout": f"{policy.timeout_ms}ms",
        "statement_timeout": f"{policy.timeout_ms + GRACE_MS}ms",
        "idle_in_transaction_session_timeout": f"{policy.hold_ms}ms",
    }
    waited = 0.0
    for attempt in policy.take_turns():
        if not find_old_holders(connection, table, policy.old_ms):
            asked = time.monotonic()
            granted = _ask(connection, statements, bounds, all_ms=policy.timeout_ms)
            now = time.monotonic()
            waited += now - asked
            if granted:
                return Seized(attempts=attempt, wait_ms=waited * 1000, since=now)
        LOG.info(
            "ACCESS EXCLUSIVE on %s: attempt %d in vain",
            plain_name(table),
            attempt,
            extra={"event": "attempt", "table": plain_name(table), "attempt": attempt},
        )
    others = read_holders(connection, table)
    raise LockNotAvailable(_unavailable(table, "ACCESS EXCLUSIVE", policy.attempts, others))


def refuse_wraparound_vacuum(connection: BaseDatabaseWrapper, table: sql.Identifier) -> None:
    """Refuse while a vacuum against transaction-id wraparound is at work on the table.

    PostgreSQL cancels an ordinary autovacuum for whoever waits, but never such a vacuum. The
    table's age tells, not the text of the query, which a role without pg_read_all_stats cannot see.

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


def _lock(table: sql.Identifier, mode: str) -> sql.Composed:
    return sql.SQL("LOCK TABLE {} IN {} MODE").format(table, sql.SQL(mode))


def _ask(
    connection: BaseDatabaseWrapper,
    statements: Sequence[sql.Composable],
    bounds: Mapping[str, str],
    *,
    all_ms: int | None = None,
) -> bool:
    """Ask once for locks; False when not granted in time (the savepoint undoes the request).

    Arguments:
        statements: the statements that take the locks.
        bounds: the settings that bound the wait.
        all_ms: how long each statement may take, where bounded, in milliseconds.
    """
    began = time.monotonic()
    try:
        with engine_transaction(connection, **bounds):
            for statement in statements:
                execute(connection, statement)
            if all_ms is not None:
                set_local(connection, "statement_timeout", "0")
    except OperationalError as error:
        if isinstance(error.__cause__, pg_errors.LockNotAvailable | pg_errors.DeadlockDetected):
            return False
        # By its own clock, or by somebody who wants it to stop?
        in_vain = all_ms is not None and (time.monotonic() - began) * 1000 >= all_ms
        if in_vain and isinstance(error.__cause__, pg_errors.QueryCanceled):
            return False
        raise
    return True


def _unavailable(table: sql.Identifier, mode: str, attempts: int, others: Sequence[Holder]) -> str:
    tried = "one attempt" if attempts == 1 else f"{attempts} attempts"
    named = "; ".join(str(holder) for holder in others[:5])
    then = (
        f"It is held by {named}. End that transaction, or run the same command again."
        if named
        else "Nobody holds it now: run the same command again."
    )
    return (
        f"Could not get the {mode} lock on {plain_name(table)} in {tried}; nothing was changed. "
        + then
    )
