"""May the swap run? All that can refuse a swap before its lock, to be read top to bottom.

Each condition is a function. Its objection is a sentence with the remedy, or None. They are asked
in their order, and the first objection is raised. `recheck` asks again about changes, once no other
schema change can come between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from django.db.backends.base.base import BaseDatabaseWrapper

from migrations_playbook.backfill.nulls import count_nulls
from migrations_playbook.errors import (
    LockNotAvailable,
    PlaybookError,
    Refused,
    WrongPhase,
)
from migrations_playbook.phase import Phase, State, find_divided, read_state, say_no_column
from migrations_playbook.postgres.holders import read_builders
from migrations_playbook.postgres.roles import find_hidden_rows, may_select
from migrations_playbook.postgres.tables import FOREIGN, Table
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.dependents.base import Dependent
from migrations_playbook.swap.dependents.inventory import Inventory, read_inventory
from migrations_playbook.swap.dependents.own.table import read_lacking_rights
from migrations_playbook.swap.pair import Pair, refuse_overtaken
from migrations_playbook.swap.rows.kinds import rows_of

REFRESH = "--refresh-materialized-views"


@dataclass(frozen=True)
class SwapRequest:
    """A wanted swap, and the facts for the gate, each read once.

    Arguments:
        connection: the database.
        replacement: the replacement whose columns are to be exchanged.
        revert: whether an exchange back is wanted.
        refresh: whether materialized views may be built anew.
        redraw: whether rows with the same value in both columns may have another value drawn.
    """

    connection: BaseDatabaseWrapper
    replacement: Replacement
    revert: bool
    refresh: bool = False
    redraw: bool = False

    @cached_property
    def table(self) -> Table | None:
        """The table with both columns, or None."""
        found = Pair.find(self.connection, self.replacement, self.replacement.identifier)
        return None if found is None else found.table

    @cached_property
    def pair(self) -> Pair:
        """The two columns, once known to exist."""
        assert self.table is not None, "the gate asks first whether the columns are there"
        return Pair.of(self.replacement, self.table)

    @cached_property
    def state(self) -> State:
        """The replacement's phase, and what the catalog says beside."""
        return read_state(self.connection, self.replacement)

    @cached_property
    def left(self) -> tuple[Dependent, ...]:
        """The rest of the last exchange, if of the wanted kind and interrupted."""
        if self.table is None or self.pair.swapped is self.revert:
            return ()
        return self.inventory.left

    @cached_property
    def inventory(self) -> Inventory:
        """Everything bound to the two columns."""
        found = read_inventory(self.connection, self.pair)
        return found.renewed() if self.refresh else found


def pass_gate(request: SwapRequest) -> Inventory:
    """Return what is bound to the columns, if the swap may be prepared.

    Lock: ACCESS SHARE on the table.

    Raises:
        WrongPhase: not filled yet, or swapped already; with the right next command.
        Refused: the role lacks a right, or a bound object cannot be carried over; names all such.
        LockNotAvailable: somebody builds an index on the table.
    """
    _insist(request, (*PHASE_CONDITIONS, nobody_builds, can_be_carried_over, has_sound_rows))
    # Another session may have exchanged the columns between two of these looks.
    refuse_overtaken(request.pair, request.inventory.pair)
    return request.inventory


def inspect_phase(request: SwapRequest) -> Inventory:
    """Do the same for a dry run, which lists the bound objects first, and then refuses them.

    Raises:
        WrongPhase, Refused: as `pass_gate`, but for the bound objects and the rows.
    """
    _insist(request, PHASE_CONDITIONS)
    return request.inventory


def find_rest(request: SwapRequest) -> tuple[Dependent, ...]:
    """Find what an interrupted exchange of the wanted kind has left for the same command to finish.

    Copies are built anew for whoever asks for it.

    Lock: ACCESS SHARE on the table.

    Raises:
        Refused: the table may not be read.
    """
    _insist(request, READING_CONDITIONS)
    return request.left if request.refresh or not leaves_copies(request.left) else ()


def leaves_copies(left: Iterable[Dependent]) -> bool:
    """Tell whether an interrupted exchange has left materialized views of before."""
    return any(each.holds_copies for each in left)


def _insist(request: SwapRequest, conditions: Iterable[Condition]) -> None:
    """Raise the first objection."""
    for condition in conditions:
        objection = condition(request)
        if objection is not None:
            raise objection


def may_be_read(request: SwapRequest) -> PlaybookError | None:
    """Ask for the right to read the table: without, not even the phase can be told."""
    table = request.table
    if table is None or may_select(request.connection, table):
        return None
    return bound_objection(
        request.pair, list(read_lacking_rights(request.connection, request.pair))
    )


def sees_every_row(request: SwapRequest) -> PlaybookError | None:
    """Ask whether row security hides rows: hidden rows count for nothing, here and in the proof."""
    if request.table is None:
        return None
    hidden = find_hidden_rows(request.connection, request.table)
    return None if hidden is None else Refused(hidden)


def has_rows_here(request: SwapRequest) -> PlaybookError | None:
    """Ask for rows elsewhere: a foreign table's may be out of reach."""
    if request.table is None or request.table.kind != FOREIGN:
        return None
    return bound_objection(request.pair, request.inventory.refused)


def stand_alike(request: SwapRequest) -> PlaybookError | None:
    """Ask whether the columns of a group stand alike."""
    if request.table is None:
        return None
    divided = find_divided(request.replacement, request.table)
    return None if divided is None else Refused(divided)


def is_expanded(request: SwapRequest) -> PlaybookError | None:
    """Ask for the shadow column."""
    if request.state.phase is not Phase.NONE:
        return None
    return WrongPhase(say_no_column(request.replacement, request.connection.alias))


def may_be_exchanged(request: SwapRequest) -> PlaybookError | None:
    """Ask whether the declaration wants an exchange at all."""
    replacement = request.replacement
    if not replacement.declaration.moves:
        return None
    return WrongPhase(
        f"{replacement} moves: both names are served, and nothing is exchanged. Once every release "
        f'uses {replacement.shadow} alone, run "{replacement.command("forget")}".'
    )


def has_left_nothing(request: SwapRequest) -> PlaybookError | None:
    """Ask for the rest of an interrupted exchange, to be finished first."""
    if not request.left:
        return None
    command = finishing_command(
        request.replacement, revert=request.revert, refresh=leaves_copies(request.left)
    )
    return WrongPhase(
        f"{request.replacement.label} is {'reverted' if request.revert else 'swapped'} already, "
        f"but for what an interrupted run has left: {', '.join(each.name for each in request.left)}"
        f'. Run "{command}" to finish.'
    )


def is_not_done_already(request: SwapRequest) -> PlaybookError | None:
    """Ask whether the columns stand the other way round."""
    replacement, swapped = request.replacement, request.state.swapped
    if swapped is request.revert:
        return None
    if swapped:
        return WrongPhase(
            f'{replacement.label} is swapped already: "{replacement.live}" has its new values. '
            f'"{replacement.command("swap", "--revert")}" would exchange back.'
        )
    return WrongPhase(
        f"{replacement.label} is not swapped, so there is nothing to revert. "
        f'"{replacement.command("status")}" shows what comes next.'
    )


def has_working_triggers(request: SwapRequest) -> PlaybookError | None:
    """Ask for the declared triggers, which fill and keep the shadow column."""
    problem = request.state.problem
    # The way back is open without them.
    return None if problem is None or request.revert else WrongPhase(problem)


def is_filled(request: SwapRequest) -> PlaybookError | None:
    """Ask for rows without a fresh value."""
    state, replacement = request.state, request.replacement
    if state.phase is not Phase.EXPANDED:
        return None
    assert state.table is not None
    left = count_nulls(request.connection, replacement, state.table)
    if replacement.declaration.converts:
        return WrongPhase(
            f"{left:,} rows of {replacement.label} are not converted yet. "
            f'Run "{replacement.command("backfill")}" first; '
            f'"{replacement.command("backfill", "--list-failed")}" lists by key the rows whose '
            "values cannot be converted."
        )
    columns = '" or "'.join(each.shadow for each in replacement.group)
    return WrongPhase(
        f'Column "{columns}" of {replacement.label} still has {left:,} null rows. '
        f'Run "{replacement.command("backfill")}" first.'
    )


Condition = Callable[[SwapRequest], PlaybookError | None]
READING_CONDITIONS: tuple[Condition, ...] = (
    may_be_read,
    sees_every_row,
    has_rows_here,
    stand_alike,
)
PHASE_CONDITIONS: tuple[Condition, ...] = (
    *READING_CONDITIONS,
    is_expanded,
    may_be_exchanged,
    has_left_nothing,
    is_not_done_already,
    has_working_triggers,
    is_filled,
)


def nobody_builds(request: SwapRequest) -> PlaybookError | None:
    """Ask for an index under construction: invalid, yet not the remains of a failed build."""
    builders = read_builders(request.connection, request.pair.identifier)
    if not builders:
        return None
    return LockNotAvailable(
        f"An index is being built on {request.pair.table} by {'; '.join(map(str, builders))}; "
        "nothing was changed. Run the same command again when that is done."
    )


def can_be_carried_over(request: SwapRequest) -> PlaybookError | None:
    """Ask for bound objects that the swap cannot carry over."""
    return bound_objection(request.pair, request.inventory.refused)


def has_sound_rows(request: SwapRequest) -> PlaybookError | None:
    """Ask for rows that must not be exchanged as they are."""
    return rows_of(request.pair).find_objection(request)


def recheck(connection: BaseDatabaseWrapper, pair: Pair, *, refresh: bool) -> Inventory:
    """Ask again about changes since the gate, with schema changes kept away.

    Lock: ACCESS SHARE on the table; the caller holds SHARE UPDATE EXCLUSIVE.

    Raises:
        TryAgain: another session has exchanged the columns meanwhile, or dropped either.
        Refused: an object bound since cannot be carried over.
    """
    found = read_inventory(connection, pair)
    refuse_overtaken(pair, found.pair)
    found = found.renewed() if refresh else found
    objection = bound_objection(found.pair, found.refused)
    if objection is not None:
        raise objection
    return found


def bound_objection(pair: Pair, refused: list[Dependent]) -> Refused | None:
    """Name all objects that cannot be carried over, each with the remedy; None without any."""
    if not refused:
        return None
    findings = "\n".join(f"- {each} ({each.how}): {each.refused}." for each in refused)
    return Refused(
        f"{pair.replacement.label} cannot be exchanged; nothing was changed. These would stay "
        f"with the {pair.replacement.meaning.words.retired}, or stand in the way:\n{findings}"
    )


def finishing_command(replacement: Replacement, *, revert: bool, refresh: bool) -> str:
    """Build the command to finish an interrupted exchange.

    Arguments:
        refresh: whether materialized views are left to be built anew.
    """
    options = {"--revert": revert, REFRESH: refresh}
    return replacement.command("swap", *(option for option, given in options.items() if given))
