"""Where each declared shadow column stands, and the next command. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.template.defaultfilters import filesizeformat
from django.utils.timesince import timesince

from migrations_playbook.backfill.nulls import Count, count_rows
from migrations_playbook.backfill.pacing.control import Control, read_control
from migrations_playbook.backfill.roster import Worker, read_workers
from migrations_playbook.history import (
    Remembered,
    find_remembered,
    known_replacements,
    read_history,
)
from migrations_playbook.next_step import find_next, read_bound
from migrations_playbook.phase import Phase, State, read_state
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.tables import measure_sizes
from migrations_playbook.quarantine.watch import StaleWrites, read_stale_writes
from migrations_playbook.remains import Remains, bind_remains, read_remains
from migrations_playbook.replacement import Replacement, declared_replacements
from migrations_playbook.swap.dependents.base import Dependent

# After a day without a stale write, the old processes are taken to be gone.
QUIET = timedelta(hours=24)


@dataclass(frozen=True)
class ShadowStatus:
    """A declared shadow column.

    Arguments:
        model: the model's label.
        live: the live field's name.
        shadow: the shadow field's name.
        phase: see `read_state`.
        rows_remaining: rows whose shadow is null; None where row security may hide some.
        heap_bytes: the table's size without indexes.
        index_bytes: the indexes' size.
        stale_writes: how often an old process tried to write a leaked value back, once swapped.
        disagreements: of a conversion: writes of both columns that did not agree, so that the side
            with the name has won.
        control: the settings for every backfill everywhere.
        next: the next command, or the thing to do.
        exact: whether the rows are counted, and not estimated.
        dependents: the objects bound to the columns, with the treatment by the swap (or its
            revert).
        left: the dependents with which an interrupted exchange was not done.
        problems: the missing or disabled objects of the quarantine.
        at_work: the sessions of the backfills now, on any host.
        schema: the table's schema, where it was asked for.
        others: the live and the shadow fields that are exchanged together with these.
    """

    model: str
    live: str
    shadow: str
    phase: Phase
    rows_remaining: int | None
    heap_bytes: int
    index_bytes: int
    stale_writes: StaleWrites | None
    control: Control
    next: str
    disagreements: int | None = None
    exact: bool = True
    dependents: tuple[Dependent, ...] = ()
    left: tuple[Dependent, ...] = ()
    problems: tuple[str, ...] = ()
    at_work: tuple[Worker, ...] = ()
    schema: str = ""
    others: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.model} in {self.schema}" if self.schema else self.model

    def as_json(self) -> dict[str, Any]:
        """Build the form in which the commands print the status with --json."""
        return {
            "model": self.model,
            "schema": self.schema or None,
            "live": self.live,
            "shadow": self.shadow,
            "together_with": [{"live": live, "shadow": shadow} for live, shadow in self.others],
            "phase": str(self.phase),
            "rows_remaining": self.rows_remaining,
            "heap_bytes": self.heap_bytes,
            "index_bytes": self.index_bytes,
            "stale_writes": None if self.stale_writes is None else self.stale_writes.hits,
            "last_stale_write": self.stale_writes.last.isoformat()
            if self.stale_writes and self.stale_writes.last
            else None,
            "disagreements": self.disagreements,
            "control": self.control.as_json(),
            "next": self.next,
            "dependents": [each.as_json() for each in self.dependents],
            "left": [each.name for each in self.left],
            "problems": list(self.problems),
            "at_work": [each.as_json() for each in self.at_work],
        }

    def lines(self, *, now: datetime) -> Iterator[tuple[str, str]]:
        """Build the lines for a person, as pairs of a name and a value."""
        pairs = ((self.live, self.shadow), *self.others)
        yield "columns", ", ".join(f"{live} <- {shadow}" for live, shadow in pairs)
        yield "phase", str(self.phase)
        left = "unknown" if self.rows_remaining is None else f"{self.rows_remaining:,}"
        yield "rows left", left
        yield (
            "size",
            f"{filesizeformat(self.heap_bytes)} heap, {filesizeformat(self.index_bytes)} indexes",
        )
        if self.stale_writes is not None:
            yield "stale writes", describe_stale_writes(self.stale_writes, now=now)
        if self.disagreements:
            text = f"{self.disagreements:,} writes of both columns: {self.live} was kept"
            yield "disagreements", text
        for each in self.dependents:
            if each.refused is None:
                yield each.action, f"{each}, {each.how}"
        for each in self.dependents:
            if each.refused is not None:
                yield each.action, f"{each}, {each.how}: {each.refused}"
        for problem in self.problems:
            yield "quarantine", problem
        for each in self.left:
            if each.holds_copies:
                yield "not renewed", f"{each}: it holds values of before"
            else:
                yield "not renamed", f"{each}: on partitions it has its twin's name yet"
        if self.control != Control():
            yield "control", str(self.control)
        for host, workers in groupby(self.at_work, key=lambda each: each.host):
            yield "at work", f"{host or 'this machine'}: {', '.join(map(str, workers))}"
        yield "next", self.next


def read(
    using: str,
    only: Replacement | None = None,
    history: list[Remembered] | None = None,
    *,
    count: Count = count_rows,
) -> list[ShadowStatus]:
    """Read the status of every shadow column that a model declares or a database still has.

    Neither a model nor a migration need know it: see `remains`.

    Lock: ACCESS SHARE on the tables; a sequential scan of each table that is not swapped.

    Arguments:
        using: the database's alias.
        only: the wanted replacement; None for all.
        history: what the migrations have; without, they are read.
        count: see `Count`; `estimate_rows` for whoever asks often.
    """
    connection = postgresql(using)
    history = read_history() if history is None else history
    declared = {str(each) for each in declared_replacements()}
    known = [only.lead] if only is not None else list(known_replacements(history))
    remains = [] if only is not None else read_remains(connection, known)
    found = [_describe_ownerless(each) for each in remains if each.find_model() is None]
    known += bind_remains(remains)
    for replacement in (each for each in known if each.leads):
        state = read_state(connection, replacement)
        if state.phase is Phase.NONE and only is None and str(replacement) not in declared:
            continue  # of another time: neither the models nor the database have it any more
        was = find_remembered(replacement.label, replacement.declaration.shadow, history)
        found.append(read_one(connection, replacement, state, was, count))
    return found


def read_one(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    state: State,
    remembered: Remembered | None,
    count: Count = count_rows,
) -> ShadowStatus:
    """Read the status of a replacement whose state is known.

    Lock: ACCESS SHARE on the table, and what `count` takes.

    Arguments:
        remembered: the shadow as the migrations have it.
        count: see `Count`.
    """
    table = state.table
    heap, index = (0, 0) if table is None else measure_sizes(connection, table)
    remaining, exact = _count_remaining(connection, replacement, state, count)
    bound = read_bound(connection, replacement, state)
    return ShadowStatus(
        model=replacement.label,
        live=replacement.declaration.live,
        shadow=replacement.declaration.shadow,
        phase=state.phase,
        rows_remaining=remaining,
        exact=exact,
        heap_bytes=heap,
        index_bytes=index,
        stale_writes=_read_stale_writes(connection, replacement, state),
        disagreements=None
        if table is None
        else replacement.meaning.count_disagreements(connection, table),
        control=_read_control(connection, replacement, state),
        next=find_next(connection, replacement, state, remembered, bound),
        dependents=bound.dependents,
        left=bound.left,
        problems=bound.problems,
        at_work=tuple(read_workers(connection, replacement)),
        schema=replacement.schema,
        others=tuple(
            (each.declaration.live, each.declaration.shadow) for each in replacement.group[1:]
        ),
    )


def _count_remaining(
    connection: BaseDatabaseWrapper, replacement: Replacement, state: State, count: Count
) -> tuple[int | None, bool]:
    """Count the rows to fill, and tell whether they are counted; None where some may be hidden."""
    if state.hidden is not None:
        return None, True
    if state.table is None or state.phase is not Phase.EXPANDED:
        return 0, True
    return count(connection, replacement, state.table)


def _read_control(
    connection: BaseDatabaseWrapper, replacement: Replacement, state: State
) -> Control:
    """Read the settings for every backfill, where a backfill can run."""
    if state.table is None or state.phase is not Phase.EXPANDED or state.hidden or state.problem:
        return Control()
    return read_control(connection, replacement, state.table)


def _read_stale_writes(
    connection: BaseDatabaseWrapper, replacement: Replacement, state: State
) -> StaleWrites | None:
    """Read how often a stale write was warded off; of a group, off the member with most of them.

    The same write is often stale for several members.
    """
    table = state.table
    if table is None or not state.swapped:
        return None
    read = (
        read_stale_writes(connection, table, each.live, each.shadow) for each in replacement.group
    )
    found = [each for each in read if each is not None]
    return max(found, key=lambda each: each.hits, default=None)


def _describe_ownerless(remains: Remains) -> ShadowStatus:
    """Describe a shadow column of a table that no model of the project has."""
    pair = remains.pair
    old = "old" if pair.converts else "leaked"
    dropped = f"; or drop the {old} values by hand: {remains.drop_sql}" if pair.swapped else ""
    return ShadowStatus(
        model=str(pair),
        live=pair.live,
        shadow=pair.shadow,
        phase=Phase.SWAPPED if pair.swapped else Phase.EXPANDED,
        rows_remaining=0 if pair.swapped else None,
        heap_bytes=0,
        index_bytes=0,
        stale_writes=None,
        control=Control(),
        next=f"No model has the table {pair}. Install the app that has it, and ask again{dropped}",
    )


def describe_stale_writes(stale: StaleWrites, *, now: datetime) -> str:
    """Say when the last stale write was, how many there were, and the meaning."""
    if stale.last is None:
        return "none yet"
    ago = now - stale.last
    if ago >= QUIET:
        return f"none for 24 hours ({stale.hits} before): the old processes are gone"
    when = "less than a minute" if ago < timedelta(minutes=1) else timesince(stale.last, now)
    return f"last stale write: {when} ago, {stale.hits} in all"
