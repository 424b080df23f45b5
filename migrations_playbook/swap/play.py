"""Play 3: prepare, exchange, verify. Its own inverse.

The gate decides whether the swap may run (`gate`). Everything that scans is done before, while
reads and writes go on (`prepare`). The exchange itself is a single transaction of catalog changes
(`exchange`). The proof comes afterwards (`proof`). The objects bound to the columns, and their
treatment, are told by `dependents`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from migrations_playbook.errors import LockNotAvailable, Refused, WrongPhase
from migrations_playbook.expand.restore import install_triggers
from migrations_playbook.logs import journaled
from migrations_playbook.phase import Phase, find_divided, read_enabled, read_state
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.postgres.query import engine_transaction, pin_search_path
from migrations_playbook.postgres.roles import refuse_hidden_rows
from migrations_playbook.postgres.server import refuse_read_only
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.steps import Step, run_steps
from migrations_playbook.replacement import Replacement
from migrations_playbook.settings import SETTINGS
from migrations_playbook.swap.conclude import conclude, insist
from migrations_playbook.swap.copies import find_copies
from migrations_playbook.swap.dependents.base import Dependent
from migrations_playbook.swap.dependents.inventory import Inventory
from migrations_playbook.swap.exchange import (
    Unprepared,
    exchange,
    exchange_steps,
    guard_steps_after,
    guard_steps_before,
    ready_steps,
)
from migrations_playbook.swap.gate import (
    SwapRequest,
    find_rest,
    is_expanded,
    is_not_done_already,
    pass_gate,
    recheck,
)
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.prepare import build_twins, prepare
from migrations_playbook.swap.proof.readers import find_unreadable
from migrations_playbook.swap.proof.verify import verify_values
from migrations_playbook.swap.reports import Event, Exchanged, Noticed, Preparing, Resuming
from migrations_playbook.swap.rows.kinds import rows_of

# How often to prepare again when something new is bound to the column meanwhile.
PREPARE_ROUNDS = 3


@dataclass(frozen=True)
class SwapPlan:
    """The steps of a swap, in order.

    Arguments:
        members: the columns that are exchanged together, as `live <- shadow`.
        dependents: everything bound to the columns, with the swap's treatment.
        index: builds and drops that must run outside a transaction; they wait for older
            transactions, and block no read and no write.
        prove: the trials and proofs of the CHECKs and NOT NULL, and the statistics of a column of
            another type, each in a transaction of its own.
        ready: the beginning of the exchange's transaction, before its lock.
        exchange: the rest of the transaction, under the lock.
        after: the steps after the exchange.
    """

    members: tuple[str, ...]
    dependents: tuple[Dependent, ...]
    index: tuple[Step, ...]
    prove: tuple[Step, ...]
    ready: tuple[Step, ...]
    exchange: tuple[Step, ...]
    after: tuple[Step, ...]


@journaled
def swap(
    replacement: Replacement,
    *,
    using: str,
    revert: bool = False,
    policy: LockPolicy | None = None,
    max_hold_ms: float | None = None,
    refresh: bool = False,
    redraw: bool = False,
) -> Generator[Event, None, None]:
    """Exchange the two columns, or exchange them back.

    When the columns are exchanged already, finish an interrupted run: exchange the names left, and
    with `refresh` renew the materialized views left.

    Lock: see each step of `plan_swap`. Reads and writes go on but for the milliseconds of the
    exchange's ACCESS EXCLUSIVE, and for the moments in which constraints are added.

    Arguments:
        replacement: the replacement whose columns are exchanged.
        using: the database alias.
        revert: exchange back.
        policy: how long and how often to ask for the lock; None for what the settings say.
        max_hold_ms: roll back instead of committing when the lock was held longer, in milliseconds;
            None for what the setting says.
        refresh: build materialized views anew afterwards, rather than refuse because of them.
        redraw: draw another value for each row with the same value in both columns.

    Raises:
        WrongPhase: not filled yet, or swapped already; with the right next command.
        Refused: bound objects cannot be carried over; names all of them.
        LockNotAvailable: the lock was not granted, or held too long; nothing is exchanged.
        ConnectionLost: the server went away; says whether the exchange was committed.
        VerificationFailed: a number afterwards is wrong.
    """
    policy = policy or LockPolicy()
    if max_hold_ms is None:
        max_hold_ms = SETTINGS["max-hold-ms"].read()
    connection = postgresql(using)
    refuse_read_only(connection)
    request = SwapRequest(connection, replacement, revert, refresh, redraw)
    left = find_rest(request)
    if left:
        yield Resuming(tuple(each.name for each in left))
        rest = tuple(step for each in left for step in each.rest)
        yield from conclude(connection, request.pair, rest, policy, revert=revert, refresh=refresh)
        return
    inventory = pass_gate(request)
    noticed = notice(request)
    if noticed.unreadable or noticed.copies:
        yield noticed
    exchanged, after = yield from _exchange_prepared(
        request, inventory, policy=policy, max_hold_ms=max_hold_ms
    )
    yield exchanged
    yield from conclude(
        connection,
        inventory.pair,
        after,
        policy,
        revert=revert,
        refresh=refresh,
        rights_changed=exchanged.rights_changed,
    )


def _exchange_prepared(
    request: SwapRequest, inventory: Inventory, *, policy: LockPolicy, max_hold_ms: float
) -> Generator[Preparing, None, tuple[Exchanged, tuple[Step, ...]]]:
    """Prepare and exchange; prepare again what is bound to the columns meanwhile."""
    connection, pair = request.connection, inventory.pair
    for _ in range(PREPARE_ROUNDS):
        yield from prepare(
            connection, inventory, policy, refresh=request.refresh, redraw=request.redraw
        )
        try:
            return exchange(
                connection, pair, policy=policy, max_hold_ms=max_hold_ms, refresh=request.refresh
            )
        except Unprepared as error:
            inventory = error.inventory
    raise LockNotAvailable(
        f"Indexes or constraints are being added to {pair.table} all the while; nothing was "
        "exchanged. Run the same command again when that is done."
    )


def is_exchanged(replacement: Replacement, *, using: str, revert: bool) -> bool:
    """Ask the catalog, in a session of its own, whether an exchange has been committed.

    Lock: none that conflicts with anything.

    Arguments:
        revert: whether the exchange is a revert.
    """
    connection = postgresql(using)
    connection.close()
    found = Pair.find(connection, replacement, replacement.identifier)
    return found is not None and found.swapped is not revert


@journaled
def mend(
    replacement: Replacement, *, using: str, policy: LockPolicy | None = None
) -> Generator[Event, None, None]:
    """Put back dropped or disabled objects of the quarantine and declared triggers; prove the swap.

    Lock: SHARE UPDATE EXCLUSIVE on the table while a unique index is built; then ACCESS EXCLUSIVE,
    asked for as in a swap, for catalog changes only.

    Raises:
        WrongPhase: the columns are not exchanged.
        LockNotAvailable: the lock was not granted; nothing was changed.
        VerificationFailed: a number is wrong.
    """
    policy = policy or LockPolicy()
    connection = postgresql(using)
    refuse_read_only(connection)
    request = SwapRequest(connection, replacement, revert=True)
    if not replacement.meaning.keeps_out:
        moves = replacement.declaration.moves
        objection = is_expanded(request) or (None if moves else is_not_done_already(request))
        if objection is not None:
            raise objection
        yield from map(Preparing, rows_of(request.pair).mend(connection))
        yield from verify(replacement, using=using)
        return
    inventory = pass_gate(request)
    unique = tuple(each for each in inventory.dependents if each.whole_key is not None)
    yield from build_twins(connection, replace(inventory, dependents=unique), policy)
    yield Preparing("Set the quarantine up again")
    with engine_transaction(connection):
        locks.reserve(connection, inventory.pair.identifier, policy)
        inventory = recheck(connection, inventory.pair, refresh=False)
        # No trigger of the table can come or go from here on: what is planned before the lock costs
        # the lock nothing.
        enabled = read_enabled(connection, replacement, inventory.pair.table)
        staying = {name for each in inventory.bound for name in each.staying}
        planned = [
            *guard_steps_before(inventory, staying, revert=False),
            *guard_steps_after(inventory, revert=False),
        ]
        locks.seize(connection, inventory.pair.identifier, policy)
        if not all(enabled.get(name) for name in replacement.trigger_names):
            install_triggers(connection, replacement)
        pin_search_path(connection)
        run_steps(connection, planned)
    yield from verify(replacement, using=using)


@journaled
def verify(replacement: Replacement, *, using: str) -> Generator[Event, None, None]:
    """Prove again, at any time after the swap, that no leaked value is reachable.

    Of a conversion: that both columns are in step, before a swap too.

    Lock: ACCESS SHARE on the table and its views, as any SELECT takes.

    Raises:
        WrongPhase: the columns are not exchanged.
        Refused: of a group some are exchanged, and some are not.
        VerificationFailed: a number is wrong.
    """
    connection = postgresql(using)
    state = read_state(connection, replacement)
    if state.table is not None:
        refuse_hidden_rows(connection, state.table)
        divided = None if state.phase is Phase.NONE else find_divided(replacement, state.table)
        if divided is not None:
            raise Refused(divided)
    early = replacement.meaning.keeps_out or state.phase is not Phase.FILLED
    if state.table is None or (early and not state.swapped):
        raise WrongPhase(
            f"{replacement.label} is not swapped, so there is nothing to verify. "
            f'"{replacement.command("status")}" shows what comes next.'
        )
    verified = verify_values(connection, Pair.of(replacement, state.table))
    yield verified
    insist(replacement, verified, revert=False)


def notice(request: SwapRequest) -> Noticed:
    """Look for things that a person should know before the swap.

    Lock: ACCESS SHARE on the table and the views on it.
    """
    connection, pair = request.connection, request.pair
    return Noticed(
        unreadable=find_unreadable(connection, pair),
        copies={}
        if request.revert or not request.replacement.meaning.keeps_out
        else find_copies(connection, pair),
    )


def plan_swap(inventory: Inventory) -> SwapPlan:
    """Plan the preparation and the exchange, as the catalog stands now."""
    steps = inventory.steps
    return SwapPlan(
        members=tuple(map(str, inventory.pair.members)),
        dependents=inventory.dependents,
        index=steps.build,
        prove=(*steps.trial, *steps.prove, *rows_of(inventory.pair).statistics_steps),
        ready=tuple(ready_steps(inventory)),
        exchange=(*steps.locked_before, *exchange_steps(inventory)),
        after=steps.follow_up,
    )
