"""The one transaction of the swap: what is in it, and how it is done.

It is catalog changes only, and holds its lock for milliseconds whatever the table's size.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from django.db import Error as DatabaseError
from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import ConnectionLost, LockNotAvailable, Refused, WrongPhase
from migrations_playbook.phase import Phase, read_state
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.postgres.names import compose_name
from migrations_playbook.postgres.query import fetch_value, pin_search_path
from migrations_playbook.postgres.sessions import is_connection_lost
from migrations_playbook.postgres.steps import Step, rename_steps, run
from migrations_playbook.swap import proof, quarantine
from migrations_playbook.swap.dependents.inventory import Inventory, fingerprint, read_inventory
from migrations_playbook.swap.pair import Pair

# How often to begin again when somebody changes what is bound to the table meanwhile.
ROUNDS = 5


@dataclass(frozen=True)
class Exchanged:
    """The exchange was committed.

    Arguments:
        phase: the phase that the catalog shows now.
        lock_wait_ms: how long the requests for the lock stood in the queue, in milliseconds.
        lock_hold_ms: from the lock's grant to the commit's return, in milliseconds.
        attempts: how often the lock was asked for.
        waiters: sessions that stood behind the lock just before the commit.
        longest_wait_ms: how long the first of them had waited then, in milliseconds.
        carried: what was carried over, by kind and name.
        after: what is to follow.
        rights_changed: roles whose privileges on the live column are not what they were.
    """

    phase: Phase
    lock_wait_ms: float
    lock_hold_ms: float
    attempts: int
    waiters: int
    longest_wait_ms: float
    carried: tuple[str, ...] = ()
    after: tuple[Step, ...] = ()
    rights_changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Done:
    """What has been done in a transaction that is not committed yet.

    Arguments:
        pair: the columns and partitions as they were before it.
        rights: what each role might do then.
        since: when the lock was granted, by `time.monotonic()`.
    """

    exchanged: Exchanged
    pair: Pair
    rights: proof.Rights
    since: float


class Unprepared(Exception):
    """Something has been bound to the live column since the preparation."""


def steps(pair: Pair, found: Inventory) -> list[Step]:
    """The exchange, statement by statement, all under ACCESS EXCLUSIVE on the table."""
    between = compose_name(pair.replacement.live, pair.replacement.shadow, "between")
    result = quarantine.drop(pair.table, pair.replacement.shadow) if pair.revert else []
    result += [step for each in found.dependents for step in each.take]
    result += rename_steps(pair.identifier, pair.replacement.live, pair.replacement.shadow, between)
    result += [step for each in found.dependents for step in each.give]
    result += found.drop_twins
    if not pair.revert:
        result += quarantine.create(
            pair.table, pair.replacement.live, pair.replacement.shadow, pair.live
        )
    return result


def exchange(
    connection: BaseDatabaseWrapper,
    pair: Pair,
    *,
    policy: LockPolicy,
    max_hold_ms: float | None = None,
) -> Exchanged:
    """Exchange the two columns, with everything that is bound to them.

    Lock: SHARE UPDATE EXCLUSIVE on the table; then ACCESS EXCLUSIVE on the views that read it
    and on it, until the commit; held for milliseconds, whatever the table's size.

    Raises:
        Unprepared: something new needs to be built first; nothing is exchanged.
        Refused: something is bound to a column that cannot be carried over.
        WrongPhase: another session has exchanged them meanwhile.
        LockNotAvailable: the lock was not to be had, or held longer than `max_hold_ms`.
        ConnectionLost: the server went away; says whether the exchange was committed.
    """
    for _ in range(ROUNDS):
        done = _attempt(connection, pair, policy=policy, max_hold_ms=max_hold_ms)
        if done is not None:
            return done
    raise LockNotAvailable(
        f"While the swap waited for its lock, what is bound to {pair.table} was changed, "
        f"{ROUNDS} times; nothing was exchanged. Run the same command again when that is done."
    )


def _attempt(
    connection: BaseDatabaseWrapper,
    pair: Pair,
    *,
    policy: LockPolicy,
    max_hold_ms: float | None,
) -> Exchanged | None:
    """One transaction; None when what is bound to the table was changed meanwhile."""
    number = None
    try:
        with transaction.atomic(using=connection.alias):
            # Its number, not its session's: behind a pooler the session goes on without us.
            number = fetch_value(
                connection, sql.SQL("SELECT pg_catalog.pg_current_xact_id()::text")
            )
            done = _exchange(connection, pair, policy=policy, max_hold_ms=max_hold_ms)
        if done is None:
            return None
        return replace(
            done.exchanged,
            lock_hold_ms=(time.monotonic() - done.since) * 1000,
            phase=read_state(connection, pair.replacement).phase,
            rights_changed=proof.changed(done.rights, proof.rights(connection, done.pair)),
        )
    except DatabaseError as error:
        if not is_connection_lost(error):
            raise
        raise ConnectionLost(_what_happened(connection, pair, number)) from None


def _exchange(
    connection: BaseDatabaseWrapper,
    pair: Pair,
    *,
    policy: LockPolicy,
    max_hold_ms: float | None,
) -> _Done | None:
    """What is in the transaction; None when what is bound to the table was changed meanwhile."""
    locks.reserve(connection, pair.identifier, policy)
    # No ALTER TABLE can come between from here on, and no partition be attached. GRANT and
    # CREATE VIEW can: hence the fingerprint, which is compared under the lock.
    pair = pair.reread(connection)
    if (pair.live.number > pair.shadow.number) is not pair.revert:
        raise WrongPhase(
            f"Another session has exchanged the columns of {pair.replacement.label} meanwhile; "
            f'nothing was exchanged here. "{pair.replacement.command("status")}" shows what comes '
            "next."
        )
    before = fingerprint(connection, pair)
    rights = proof.rights(connection, pair)
    found = read_inventory(connection, pair)
    refuse(pair, found)
    if found.unprepared:
        raise Unprepared
    planned = steps(pair, found)
    first = [step.statement for each in found.dependents for step in each.lock_first]
    seized = locks.seize(connection, pair.identifier, policy, first=first)
    if fingerprint(connection, pair) != before:
        transaction.set_rollback(True, using=connection.alias)
        return None
    pin_search_path(connection)
    run(connection, planned)
    waiters, longest_wait_ms = locks.waiters(connection, pair.identifier)
    held = (time.monotonic() - seized.since) * 1000
    if max_hold_ms is not None and held > max_hold_ms:
        raise LockNotAvailable(
            f"The exchange of {pair.replacement.label} had held its lock for {held:.0f} ms, longer "
            f"than --max-hold-ms {max_hold_ms:.0f}, and was rolled back; nothing was "
            "changed. Run the same command again when the server is less busy."
        )
    exchanged = Exchanged(
        phase=Phase.NONE,
        lock_wait_ms=seized.wait_ms,
        lock_hold_ms=held,
        attempts=seized.attempts,
        waiters=waiters,
        longest_wait_ms=longest_wait_ms,
        carried=tuple(str(each) for each in found.dependents if each.give or each.take),
        after=tuple(step for each in found.dependents for step in each.after),
    )
    return _Done(exchanged, pair, rights, seized.since)


def refuse(pair: Pair, found: Inventory) -> None:
    """Refuse when anything is bound that cannot be carried over; name all of it.

    Raises:
        Refused: with each finding and what to do about it.
    """
    if found.refused:
        findings = "\n".join(f"- {each} ({each.how}): {each.refused}." for each in found.refused)
        raise Refused(
            f"{pair.replacement.label} cannot be exchanged; nothing was changed. These would stay "
            f"with the leaked values, or stand in the way:\n{findings}"
        )


def _what_happened(connection: BaseDatabaseWrapper, pair: Pair, number: str | None) -> str:
    """After a connection was lost at a commit: ask the catalog, and say it."""
    verb = "revert" if pair.revert else "swap"
    deadline = time.monotonic() + 30
    while True:
        try:
            connection.close()
            # The old session may still be at its commit: the answer is final when that is over.
            status = fetch_value(
                connection, sql.SQL("SELECT pg_catalog.pg_xact_status(%s::xid8)"), [number]
            )
            swapped = read_state(connection, pair.replacement).swapped
        except (OperationalError, DatabaseError):
            pass
        else:
            if status != "in progress":
                done = swapped is not pair.revert
                outcome = "committed" if done else "not committed"
                then = (
                    f'Run "{pair.replacement.command("status")}" to see it.'
                    if done
                    else "Nothing was changed; run the same command again."
                )
                return f"The connection was lost; the {verb} was {outcome}. {then}"
        if time.monotonic() > deadline:
            return (
                f"The connection was lost, and the server has not come back to say whether the "
                f'{verb} was committed. Run "{pair.replacement.command("status")}" when it has.'
            )
        # A server that starts again, or a session at its commit, tells only who asks.
        time.sleep(0.2)
