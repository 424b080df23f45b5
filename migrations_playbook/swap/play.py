"""Play 3: prepare, exchange, verify. Its own inverse.

Everything that scans is done before, while reads and writes go on (`prepare`); the exchange itself
is one transaction of catalog changes (`exchange`); the proof comes after it (`proof`). What is
bound to the columns and what becomes of it is told by `dependents`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.backfill.nulls import count_nulls
from migrations_playbook.errors import LockNotAvailable, Refused, WrongPhase
from migrations_playbook.phase import Phase, read_state, was_exchanged_before
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.postgres.query import fetch_value, pin_search_path
from migrations_playbook.postgres.roles import may_select
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.steps import Step
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap import proof
from migrations_playbook.swap.conclude import Resuming, conclude, finishing, insist, unfinished
from migrations_playbook.swap.dependents.base import Dependent
from migrations_playbook.swap.dependents.inventory import (
    FOREIGN,
    Inventory,
    of_table,
    read_inventory,
)
from migrations_playbook.swap.exchange import Exchanged, Unprepared, exchange, refuse, steps
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.prepare import Preparing, prepare
from migrations_playbook.swap.proof import Verified

# How often to prepare again when something new is bound to the column meanwhile.
PREPARE_ROUNDS = 3


@dataclass(frozen=True)
class Plan:
    """What a swap will do, in order.

    Arguments:
        dependents: everything that is bound to the columns, with what becomes of it.
        index: builds and drops that must run outside a transaction; they wait for transactions
            that began before them, and block no read and no write.
        prove: what proves NOT NULL and the CHECKs, each in a transaction of its own.
        exchange: the one transaction under the lock.
        after: what follows the exchange.
    """

    dependents: tuple[Dependent, ...]
    index: tuple[Step, ...]
    prove: tuple[Step, ...]
    exchange: tuple[Step, ...]
    after: tuple[Step, ...]


Event = Preparing | Exchanged | Resuming | Verified


def swap(
    replacement: Replacement,
    *,
    using: str,
    revert: bool = False,
    policy: LockPolicy = locks.DEFAULT_POLICY,
    max_hold_ms: float | None = None,
    keep_equal: bool = False,
    refresh: bool = False,
) -> Generator[Event, None, None]:
    """Exchange the two columns, or exchange them back.

    When they are exchanged already, and `refresh` is given, finish what an interrupted run has
    left: the materialized views.

    Lock: see each step of `plan`. Reads and writes go on but for the milliseconds of ACCESS
    EXCLUSIVE that the exchange holds, and for the moments in which constraints are added.

    Arguments:
        replacement: what to exchange.
        using: the database alias.
        revert: exchange back.
        policy: how long and how often to ask for the lock.
        max_hold_ms: roll back instead of committing when the lock was held longer, milliseconds.
        keep_equal: accept rows with the same value in both columns before the swap.
        refresh: build materialized views anew afterwards, rather than refuse because of them.

    Raises:
        WrongPhase: not filled yet, or swapped already; with the right next command.
        Refused: something is bound to a column that cannot be carried over; names all of it.
        LockNotAvailable: the lock was not to be had, or was held too long; nothing is exchanged.
        ConnectionLost: the server went away; says whether the exchange was committed.
        VerificationFailed: the numbers afterwards are not what they must be.
    """
    connection = postgresql(using)
    if refresh and (rest := unfinished(connection, replacement, revert=revert)) is not None:
        pair, left = rest
        yield Resuming(tuple(each.name for each in left))
        steps_ = tuple(step for each in left for step in each.steps)
        yield from conclude(connection, pair, steps_, policy)
        return
    pair = swappable(connection, replacement, revert=revert, refresh=refresh)
    refuse(pair, read_inventory(connection, pair))
    for _ in range(PREPARE_ROUNDS):
        yield from prepare(connection, pair, policy)
        kept = 0 if revert else accept_equal(connection, pair, keep_equal=keep_equal)
        try:
            exchanged = exchange(connection, pair, policy=policy, max_hold_ms=max_hold_ms)
        except Unprepared:
            continue
        break
    else:
        raise LockNotAvailable(
            f"Indexes or constraints are being added to {pair.table} all the while; nothing was "
            "exchanged. Run the same command again when that is done."
        )
    yield exchanged
    yield from conclude(
        connection,
        pair,
        exchanged.after,
        policy,
        kept=kept,
        rights_changed=exchanged.rights_changed,
    )


def verify(
    replacement: Replacement, *, using: str, keep_equal: bool = False
) -> Generator[Event, None, None]:
    """Prove again, at any time after the swap, that no leaked value is reachable.

    Lock: ACCESS SHARE on the table and its views, as any SELECT takes.

    Arguments:
        keep_equal: accept rows that had the same value in both columns before the swap.

    Raises:
        WrongPhase: the columns are not exchanged.
        VerificationFailed: the numbers are not what they must be.
    """
    connection = postgresql(using)
    state = read_state(connection, replacement)
    if state.table is None or not state.swapped:
        raise WrongPhase(
            f"{replacement.label} is not swapped, so there is nothing to verify. "
            f'"{replacement.command("status")}" shows what comes next.'
        )
    verified = proof.verify(connection, Pair(replacement, state.table, revert=True))
    if keep_equal:
        verified = replace(verified, unchanged=0)
    yield verified
    insist(replacement, verified, revert=False)


def swappable(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    *,
    revert: bool,
    refresh: bool = False,
) -> Pair:
    """The two columns, when they can be exchanged now.

    Raises:
        WrongPhase: not filled yet, or swapped already.
        Refused: the role may not even read the table; says all that it lacks.
    """
    readable = read_table(connection, replacement.identifier)
    if readable is not None and not may_select(connection, readable):
        # Without it not even the phase can be told.
        lacking = of_table(connection, Pair(replacement, readable, revert))
        refuse(Pair(replacement, readable, revert), Inventory(tuple(lacking), (), ()))
    if (
        readable is not None
        and readable.kind == FOREIGN
        and {replacement.live, replacement.shadow} <= readable.columns.keys()
    ):
        # Its rows are elsewhere, and may not be to be had at all.
        pair = Pair(replacement, readable, revert, refresh)
        refuse(pair, read_inventory(connection, pair))
    state = read_state(connection, replacement)
    if state.table is None or state.phase is Phase.NONE:
        raise WrongPhase(
            f'{replacement.label} has no column "{replacement.shadow}" in the database '
            f'"{connection.alias}". '
            'Run "manage.py migrate" first.'
        )
    if state.swapped is not revert and (rest := unfinished(connection, replacement, revert=revert)):
        raise WrongPhase(
            f"{replacement.label} is {'reverted' if revert else 'swapped'} already, but for what "
            f"an interrupted run has left: {', '.join(each.name for each in rest[1])}. "
            f'Run "{finishing(replacement, revert=revert)}" to finish.'
        )
    if revert and not state.swapped:
        raise WrongPhase(
            f"{replacement.label} is not swapped, so there is nothing to revert. "
            f'"{replacement.command("status")}" shows what comes next.'
        )
    if not revert and state.swapped:
        raise WrongPhase(
            f'{replacement.label} is swapped already: "{replacement.live}" has its new values. '
            f'"{replacement.command("swap", "--revert")}" would exchange back.'
        )
    if not revert and state.problem is not None:
        raise WrongPhase(state.problem)
    if not revert and state.phase is Phase.EXPANDED:
        left = count_nulls(connection, replacement, state.table)
        raise WrongPhase(
            f'Column "{replacement.shadow}" of {replacement.label} still has {left:,} null rows. '
            f'Run "{replacement.command("backfill")}" first.'
        )
    return Pair(replacement, state.table, revert, refresh)


def plan(connection: BaseDatabaseWrapper, pair: Pair) -> Plan:
    """What is missing for the exchange, and the exchange itself, as the catalog stands now.

    Lock: none that lasts; reads the catalog.
    """
    found = read_inventory(connection, pair)
    return Plan(
        dependents=found.dependents,
        index=tuple(step for each in found.dependents for step in each.build),
        prove=tuple(step for each in found.dependents for step in each.prove),
        exchange=(
            *(step for each in found.dependents for step in each.lock_first),
            *steps(pair, found),
        ),
        after=tuple(step for each in found.dependents for step in each.after),
    )


def accept_equal(connection: BaseDatabaseWrapper, pair: Pair, *, keep_equal: bool) -> int:
    """The number of rows that have the same value in both columns, if that is right.

    The fill never makes one. A row written between a swap and its revert is one, and keeps its
    value, which has never leaked.

    Raises:
        Refused: there are such rows, and the columns have never been exchanged.
    """
    with transaction.atomic(using=connection.alias):
        pin_search_path(connection, pair.live.type_schema)
        equal = int(
            fetch_value(
                connection,
                sql.SQL("SELECT count(*) FROM {} WHERE {} = {}").format(
                    pair.identifier,
                    sql.Identifier(pair.replacement.live),
                    sql.Identifier(pair.replacement.shadow),
                ),
            )
        )
    if equal and not keep_equal and not was_exchanged_before(pair.replacement, pair.table):
        raise Refused(
            f"{equal:,} rows of {pair.replacement.label} have the same value in both columns, so "
            "the swap would not change them. If they were written between a swap and its revert, "
            "run it again with --keep-equal."
        )
    return equal
