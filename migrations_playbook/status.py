"""Where each declared shadow column stands, and the next command. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.template.defaultfilters import filesizeformat
from django.utils.timesince import timesince

from migrations_playbook.backfill import control
from migrations_playbook.backfill.control import Control
from migrations_playbook.backfill.nulls import count_nulls
from migrations_playbook.phase import Phase, read_state
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.tables import measure_sizes
from migrations_playbook.replacement import Replacement, declared_replacements
from migrations_playbook.swap import quarantine
from migrations_playbook.swap.conclude import finishing
from migrations_playbook.swap.dependents.base import Dependent
from migrations_playbook.swap.dependents.inventory import read_inventory, read_left
from migrations_playbook.swap.dependents.materialized import Left
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.quarantine import StaleWrites

# After a day without one, the old processes are taken to be gone.
QUIET = timedelta(hours=24)


@dataclass(frozen=True)
class ShadowStatus:
    """One declared shadow column.

    Arguments:
        model: the model's label.
        live: the live field's name.
        shadow: the shadow field's name.
        phase: see `read_state`.
        rows_remaining: rows whose shadow is null, counted.
        heap_bytes: the table's size without indexes.
        index_bytes: the indexes' size.
        stale_writes: how often an old process tried to write a leaked value back, once swapped.
        control: what was set for every backfill everywhere.
        next: the next command, or what to do.
        dependents: what is bound to the columns, and what the swap (or its revert) does about it.
        left: materialized views that an interrupted exchange has not renewed.
    """

    model: str
    live: str
    shadow: str
    phase: Phase
    rows_remaining: int
    heap_bytes: int
    index_bytes: int
    stale_writes: StaleWrites | None
    control: Control
    next: str
    dependents: tuple[Dependent, ...] = ()
    left: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "live": self.live,
            "shadow": self.shadow,
            "phase": str(self.phase),
            "rows_remaining": self.rows_remaining,
            "heap_bytes": self.heap_bytes,
            "index_bytes": self.index_bytes,
            "stale_writes": None if self.stale_writes is None else self.stale_writes.hits,
            "last_stale_write": self.stale_writes.last.isoformat()
            if self.stale_writes and self.stale_writes.last
            else None,
            "control": self.control.as_json(),
            "next": self.next,
            "dependents": [each.as_json() for each in self.dependents],
            "left": list(self.left),
        }

    def lines(self, *, now: datetime) -> Iterator[tuple[str, str]]:
        """The same for a person, as pairs of a name and a value."""
        yield "columns", f"{self.live} <- {self.shadow}"
        yield "phase", str(self.phase)
        yield "rows left", f"{self.rows_remaining:,}"
        yield (
            "size",
            f"{filesizeformat(self.heap_bytes)} heap, {filesizeformat(self.index_bytes)} indexes",
        )
        if self.stale_writes is not None:
            yield "stale writes", describe_stale_writes(self.stale_writes, now=now)
        for each in self.dependents:
            if each.refused is None:
                yield each.action, f"{each}, {each.how}"
        for each in self.dependents:
            if each.refused is not None:
                yield each.action, f"{each}, {each.how}: {each.refused}"
        for name in self.left:
            yield "not renewed", f"materialized view {name}: it holds values of before"
        if self.control != Control():
            yield "control", str(self.control)
        yield "next", self.next


def read(using: str, only: Replacement | None = None) -> list[ShadowStatus]:
    """Read the status of every declared shadow column in a database.

    Lock: ACCESS SHARE on the tables; one sequential scan of each that is not swapped.

    Arguments:
        using: the database's alias.
        only: the one that is asked for; None for all.
    """
    connection = postgresql(using)
    found = []
    for replacement in [only] if only is not None else declared_replacements():
        state = read_state(connection, replacement)
        table = state.table
        remaining, heap, index = 0, 0, 0
        stale = None
        bound_to: tuple[Dependent, ...] = ()
        unfinished: list[Left] = []
        settings = Control()
        if table is not None:
            heap, index = measure_sizes(connection, table)
        if table is not None and state.phase is Phase.EXPANDED:
            remaining = count_nulls(connection, replacement, table)
            if state.problem is None:
                settings = control.read(connection, replacement, table)
        if table is not None and state.swapped:
            stale = quarantine.stale_writes(connection, table, replacement.shadow)
        if table is not None and state.phase is not Phase.NONE:
            pair = Pair(replacement, table, revert=state.swapped)
            bound_to = read_inventory(connection, pair).dependents
            unfinished = read_left(connection, pair)
        found.append(
            ShadowStatus(
                model=replacement.label,
                live=replacement.declaration.live,
                shadow=replacement.declaration.shadow,
                phase=state.phase,
                rows_remaining=remaining,
                heap_bytes=heap,
                index_bytes=index,
                stale_writes=stale,
                control=settings,
                next=state.problem
                or (finishing(replacement, revert=not state.swapped) if unfinished else None)
                or next_command(state.phase, replacement),
                dependents=bound_to,
                left=tuple(each.name for each in unfinished),
            )
        )
    return found


def next_command(phase: Phase, replacement: Replacement) -> str:
    """The right next command in a phase."""
    return {
        Phase.NONE: "manage.py migrate",
        Phase.EXPANDED: replacement.command("backfill"),
        Phase.FILLED: replacement.command("swap"),
        Phase.SWAPPED: "the contract, in a later release",
    }[phase]


def describe_stale_writes(stale: StaleWrites, *, now: datetime) -> str:
    """When the last one was, how many there were, and what that means."""
    if stale.last is None:
        return "none yet"
    ago = now - stale.last
    if ago >= QUIET:
        return f"none for 24 hours ({stale.hits} before): the old processes are gone"
    when = "less than a minute" if ago < timedelta(minutes=1) else timesince(stale.last, now)
    return f"last stale write: {when} ago, {stale.hits} in all"
