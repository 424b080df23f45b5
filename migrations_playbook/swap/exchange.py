"""The swap's single transaction: its statements, and how they are run.

The transaction changes the catalog only, and holds its lock for milliseconds whatever the table's
size.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import (
    DataError,
    InternalError,
    NotSupportedError,
    ProgrammingError,
    transaction,
)
from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.errors import (
    ConnectionLost,
    LockNotAvailable,
    Refused,
    TryAgain,
    primary_message,
)
from migrations_playbook.phase import read_state
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.holders import count_waiters
from migrations_playbook.postgres.locks import PASSING, LockPolicy, Seized
from migrations_playbook.postgres.query import engine_transaction, fetch_value, pin_search_path
from migrations_playbook.postgres.sessions import is_connection_lost
from migrations_playbook.postgres.steps import (
    Step,
    find_failing_step,
    run_together,
    spell_together,
    undo_together,
)
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.dependents.inventory import Inventory, read_fingerprint
from migrations_playbook.swap.gate import recheck
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.proof.verify import Rights, changed_rights, read_rights
from migrations_playbook.swap.reports import Exchanged
from migrations_playbook.swap.sameness import (
    expect_meanings,
    read_meanings,
    refuse_other_meanings,
)

# How often to begin again when somebody changes a dependent of the table meanwhile.
ROUNDS = 5
# How long to ask a restarting server for the fate of a commit, in seconds.
PATIENCE_FOR_AN_ANSWER = 30.0


@dataclass(frozen=True)
class _Done:
    """The work of a transaction before its commit.

    Arguments:
        inventory: the bound objects, and the columns as they were before.
        rights: each role's privileges before.
        seized: the grant of the lock.
        waiters: how many sessions stood behind the lock.
        longest_wait_ms: how long the first of them had waited, in milliseconds.
    """

    inventory: Inventory
    rights: Rights
    seized: Seized
    waiters: int
    longest_wait_ms: float


class Unprepared(Exception):
    """Signals an object that was bound to the live column after the preparation.

    Arguments:
        inventory: the objects bound now.
    """

    def __init__(self, inventory: Inventory) -> None:
        super().__init__()
        self.inventory = inventory


def ready_steps(inventory: Inventory) -> list[Step]:
    """Build the beginning of the exchange's transaction, before its lock. Lock: none."""
    return guard_steps_before(inventory, inventory.staying, revert=inventory.pair.swapped)


def guard_steps_before(inventory: Inventory, staying: Iterable[str], *, revert: bool) -> list[Step]:
    """Build each member's steps for what keeps the retired values out. Lock: none.

    Arguments:
        staying: the indexes and CHECKs that the swap leaves where they are.
    """
    return [
        step
        for each, quarantine in zip(inventory.pair.members, inventory.quarantines, strict=True)
        for step in each.replacement.meaning.steps_before(quarantine, staying, revert=revert)
    ]


def guard_steps_after(inventory: Inventory, *, revert: bool) -> list[Step]:
    """Build the rest of the same steps. Lock: ACCESS EXCLUSIVE is held already."""
    return [
        step
        for each, quarantine in zip(inventory.pair.members, inventory.quarantines, strict=True)
        for step in each.replacement.meaning.steps_after(quarantine, revert=revert)
    ]


def exchange_steps(inventory: Inventory) -> list[Step]:
    """Build the exchange under its lock, statement by statement.

    Lock: ACCESS EXCLUSIVE on the table, which is held already.
    """
    pair, steps = inventory.pair, inventory.steps
    return [
        *steps.before_rename,
        *pair.rename_steps(pair.identifier),
        *steps.after_rename,
        *steps.last,
        *guard_steps_after(inventory, revert=pair.swapped),
    ]


def exchange(
    connection: BaseDatabaseWrapper,
    pair: Pair,
    *,
    policy: LockPolicy,
    max_hold_ms: float | None = None,
    refresh: bool = False,
) -> tuple[Exchanged, tuple[Step, ...]]:
    """Exchange the columns, with everything bound to them.

    Lock: SHARE UPDATE EXCLUSIVE on the table; then ACCESS EXCLUSIVE on its views and on the table,
    until the commit; held for milliseconds, whatever the table's size.

    Arguments:
        pair: the columns as they stood at the gate.
        policy: how long and how often to ask for the lock.
        max_hold_ms: roll back instead of committing when the lock was held longer, milliseconds.
        refresh: as the gate was asked.

    Returns:
        The event of the exchange, and the steps to follow.

    Raises:
        Unprepared: something new needs to be built first; nothing is exchanged.
        Refused: a bound object cannot be carried over.
        WrongPhase: another session has exchanged the columns meanwhile.
        LockNotAvailable: the lock was not granted, or held longer than `max_hold_ms`.
        ConnectionLost: the server went away; says whether the exchange was committed.
    """
    for _ in range(ROUNDS):
        done = _attempt(connection, pair, policy=policy, max_hold_ms=max_hold_ms, refresh=refresh)
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
    refresh: bool,
) -> tuple[Exchanged, tuple[Step, ...]] | None:
    """Play the transaction once; None when somebody has changed the same rows of the catalog."""
    number = None
    try:
        with engine_transaction(connection):
            # Its number, not its session's: behind a pooler the session goes on without us.
            number = fetch_value(
                connection, sql.SQL("SELECT pg_catalog.pg_current_xact_id()::text")
            )
            done = _exchange(
                connection, pair, policy=policy, max_hold_ms=max_hold_ms, refresh=refresh
            )
        if done is None:
            return None
        held = (time.monotonic() - done.seized.since) * 1000
        exchanged = _report(connection, done, held)
    except KeyboardInterrupt:
        # A COMMIT cut short may have been done all the same.
        if number is not None and _was_committed(connection, pair, number):
            raise TryAgain(describe_unproven(pair.replacement, revert=pair.swapped)) from None
        raise
    except DatabaseError as error:
        if isinstance(error.__cause__, PASSING):
            return None
        if not is_connection_lost(error):
            raise
        raise ConnectionLost(_what_happened(connection, pair, number)) from None
    return exchanged, done.inventory.steps.follow_up


def _exchange(
    connection: BaseDatabaseWrapper,
    gated: Pair,
    *,
    policy: LockPolicy,
    max_hold_ms: float | None,
    refresh: bool,
) -> _Done | None:
    """Run the transaction's statements; None when the bound objects were changed meanwhile."""
    locks.reserve(connection, gated.identifier, policy)
    # No ALTER TABLE can come between from here on, and no partition be attached. GRANT and
    # CREATE VIEW can: hence the fingerprint, which is compared under the lock.
    pair = gated.reread(connection)
    before = read_fingerprint(connection, pair)
    rights = read_rights(connection, pair)
    inventory = recheck(connection, gated, refresh=refresh)
    if not inventory.prepared:
        raise Unprepared(inventory)
    pin_search_path(connection, *inventory.schemas)
    _run(connection, inventory, ready_steps(inventory))
    expected = expect_meanings(inventory, read_meanings(connection, inventory))
    # What is planned and written before the lock costs the lock nothing.
    planned = exchange_steps(inventory)
    message = spell_together(connection, planned)
    first = [step.statement for step in inventory.steps.locked_before]
    seized = locks.seize(connection, pair.identifier, policy, first=first)
    if read_fingerprint(connection, pair) != before:
        transaction.set_rollback(True, using=connection.alias)
        return None
    _run(connection, inventory, planned, message)
    refuse_other_meanings(pair, expected, read_meanings(connection, inventory))
    waiters, longest_wait_ms = count_waiters(connection, pair.oids)
    held = (time.monotonic() - seized.since) * 1000
    if max_hold_ms is not None and held > max_hold_ms:
        raise LockNotAvailable(
            f"The exchange of {pair.replacement.label} had held its lock for {held:.0f} ms, longer "
            f"than --max-hold-ms {max_hold_ms:.0f}, and was rolled back; nothing was "
            "changed. Run the same command again when the server is less busy."
        )
    return _Done(inventory, rights, seized, waiters, longest_wait_ms)


def _report(connection: BaseDatabaseWrapper, done: _Done, held_ms: float) -> Exchanged:
    """Tell what a committed exchange was."""
    pair = done.inventory.pair
    return Exchanged(
        phase=read_state(connection, pair.replacement).phase,
        lock_wait_ms=done.seized.wait_ms,
        lock_hold_ms=held_ms,
        attempts=done.seized.attempts,
        waiters=done.waiters,
        longest_wait_ms=done.longest_wait_ms,
        columns=tuple(each.live.name for each in pair.members),
        carried=tuple(
            str(each)
            for each in done.inventory.dependents
            if each.steps and (each.steps.before_rename or each.steps.after_rename)
        ),
        rights_changed=changed_rights(done.rights, read_rights(connection, pair)),
    )


def describe_unproven(replacement: Replacement, *, revert: bool) -> str:
    """Say that an exchange was committed without a proof yet, and name the proving command."""
    if revert:
        return (
            f"The revert of {replacement.label} was committed. "
            f'"{replacement.command("status")}" shows what comes next.'
        )
    return (
        f"The swap of {replacement.label} was committed, and is not proven yet. Run "
        f'"{replacement.command("swap", "--verify")}".'
    )


def _run(
    connection: BaseDatabaseWrapper,
    inventory: Inventory,
    planned: list[Step],
    message: str | None = None,
) -> None:
    """Run steps of the exchange; where PostgreSQL refuses a statement, say which.

    Arguments:
        message: the same steps, where they are written already.

    Raises:
        Refused: names the step. The caller rolls back.
    """
    try:
        run_together(connection, message or spell_together(connection, planned))
    except (ProgrammingError, NotSupportedError, DataError, InternalError) as refusal:
        if isinstance(refusal.__cause__, PASSING):
            raise
        undo_together(connection)
        failed = find_failing_step(connection, planned)
        if failed is None:
            raise
        step, error = failed
        raise Refused(
            f"{inventory.pair.replacement.label} was not exchanged; nothing was changed. "
            f"PostgreSQL refused this step: {step.what} ({primary_message(error)}). "
            "Drop the object that it names, and create it again after the swap."
        ) from None


def _what_happened(connection: BaseDatabaseWrapper, pair: Pair, number: str | None) -> str:
    """Ask the catalog, after a lost connection, and say the answer."""
    verb = "revert" if pair.swapped else "swap"
    committed = False if number is None else _was_committed(connection, pair, number)
    if committed is None:
        return (
            f"The connection was lost, and the server has not come back to say whether the "
            f'{verb} was committed. Run "{pair.replacement.command("status")}" when it has.'
        )
    if committed:
        return (
            f"The connection was lost; the {verb} was committed. "
            f"{describe_unproven(pair.replacement, revert=pair.swapped)}"
        )
    return (
        f"The connection was lost; the {verb} was not committed. Nothing was changed; run the same "
        "command again."
    )


def _was_committed(connection: BaseDatabaseWrapper, pair: Pair, number: str) -> bool | None:
    """Ask whether a transaction of the exchange was committed; None when nobody can say.

    Arguments:
        pair: the columns as they stood before the exchange.
        number: the transaction's.
    """
    deadline = time.monotonic() + PATIENCE_FOR_AN_ANSWER
    while time.monotonic() < deadline:
        try:
            connection.close()
            # The old session may still be at its commit: the answer is final once its commit is
            # over.
            status = fetch_value(
                connection, sql.SQL("SELECT pg_catalog.pg_xact_status(%s::xid8)"), [number]
            )
            now = Pair.find(connection, pair.replacement, pair.identifier)
        except DatabaseError as error:
            # "in the future": a crash came before anything of the transaction was written to disk.
            if isinstance(error.__cause__, pg_errors.InvalidParameterValue):
                return False
        else:
            if status != "in progress":
                return (now is not None and now.swapped) is not pair.swapped
        # A server that starts again, or a session at its commit, tells only who asks.
        time.sleep(0.2)
    return None
