"""Where a replacement stands, as the catalog shows it. Reads only; every play asks here first.

There is no bookkeeping table to drift from the truth: the phase follows from the columns, their
attribute numbers, the triggers and the rows.

Lock: ACCESS SHARE at most, as any SELECT takes, in every function of this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.history import find_remembered, is_declared, spell_expand
from migrations_playbook.postgres.names import spell_names
from migrations_playbook.postgres.query import fetch_all, fetch_value
from migrations_playbook.postgres.roles import find_hidden_rows
from migrations_playbook.postgres.tables import TREE, Table, read_table
from migrations_playbook.replacement import Replacement


class Phase(StrEnum):
    """Where a shadow column stands; see `read_state`."""

    NONE = "none"
    EXPANDED = "expanded"
    FILLED = "filled"
    SWAPPED = "swapped"


@dataclass(frozen=True)
class State:
    """A replacement's phase, with the facts by which a play decides.

    Arguments:
        table: the table; None when missing.
        phase: see `read_state`.
        problem: the obstacle to filling the shadow, in a sentence; None without.
        hidden: why row security may hide rows, in a sentence; None where it hides none.
    """

    table: Table | None
    phase: Phase
    problem: str | None
    hidden: str | None = None

    @property
    def swapped(self) -> bool:
        """Whether the columns are exchanged."""
        return self.phase is Phase.SWAPPED


def read_state(connection: BaseDatabaseWrapper, replacement: Replacement) -> State:
    """Read where the shadow stands.

    - `none`: no shadow column: before the expand, or after the contract.
    - `expanded`: the shadow column is there, and some rows have no fresh value yet.
    - `filled`: no null is left. The swap may run.
    - `swapped`: the two names are exchanged; see `Meaning.is_exchanged`.
    """
    state = read_catalog_state(connection, replacement)
    if state.table is None or state.phase is not Phase.EXPANDED or state.problem is not None:
        return state
    if has_nulls(connection, replacement, state.table):
        return state
    return replace(state, phase=Phase.FILLED)


def read_catalog_state(connection: BaseDatabaseWrapper, replacement: Replacement) -> State:
    """Read where the shadow stands from the catalog alone; a filled shadow counts as expanded.

    For plays that do not ask whether a null is left, which takes a full scan to answer.
    """
    table = read_table(connection, replacement.identifier)
    hidden = None if table is None else find_hidden_rows(connection, table)
    if table is None or not _has_columns(replacement, table):
        return State(table, Phase.NONE, None, hidden)
    swapped = replacement.meaning.is_exchanged(table)
    if (divided := find_divided(replacement, table)) is not None:
        return State(table, Phase.SWAPPED if swapped else Phase.EXPANDED, divided, hidden)
    if swapped and replacement.meaning.keeps_out:
        return State(table, Phase.SWAPPED, None, hidden)
    problem = hidden or find_trigger_problem(connection, replacement, table)
    return State(table, Phase.SWAPPED if swapped else Phase.EXPANDED, problem, hidden)


def _has_columns(replacement: Replacement, table: Table) -> bool:
    """Tell whether a table has the columns of a replacement, and of all its group."""
    names = {name for each in replacement.group for name in (each.live, each.shadow)}
    return names <= table.columns.keys()


def find_divided(replacement: Replacement, table: Table) -> str | None:
    """Say which columns are exchanged and which are not, where a group's are not alike; or None.

    The swap exchanges all of a group: somebody has renamed columns by hand.
    """
    by_stand: dict[bool, list[str]] = {True: [], False: []}
    for each in replacement.group:
        stand = each.meaning.is_exchanged(table)
        by_stand[stand].append(f"{each.live} with {each.shadow}")
    if not all(by_stand.values()):
        return None
    return (
        f"Of {replacement.label}, {spell_names(by_stand[True])} is exchanged, and "
        f"{spell_names(by_stand[False])} is not, though they are exchanged together: a column was "
        "renamed by hand. Rename it back by hand first."
    )


def has_nulls(connection: BaseDatabaseWrapper, replacement: Replacement, table: Table) -> bool:
    """Tell whether a row with a live value lacks the shadow. A full scan when no row does."""
    return bool(
        fetch_value(
            connection,
            sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(
                table.identifier, replacement.meaning.to_do
            ),
            [],
        )
    )


def say_no_column(replacement: Replacement, using: str) -> str:
    """Say that a database has no shadow column, and the command that brings one."""
    was = find_remembered(replacement.label, replacement.declaration.shadow)
    columns = '" or "'.join(each.shadow for each in replacement.group)
    return (
        f'{replacement.label} has no column "{columns}" in the database "{using}". '
        f'Run "{spell_expand(replacement, was, using)}" first.'
    )


def read_enabled(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
) -> dict[str, bool]:
    """Read which of the declared triggers the table has, and whether each fires everywhere."""
    # A partition has a clone of the trigger, which can be disabled by itself.
    return dict(
        fetch_all(
            connection,
            sql.SQL("""
                SELECT tgname, bool_and(tgenabled <> 'D')
                  FROM pg_catalog.pg_trigger JOIN {tree} AS tree ON tree.oid = tgrelid
                 WHERE tgname = ANY (%s)
                 GROUP BY tgname HAVING bool_or(tgrelid = %s)""").format(tree=TREE),
            [table.oid, list(replacement.trigger_names), table.oid],
        )
    )


def find_trigger_problem(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
) -> str | None:
    """Say which declared trigger is missing or disabled, with the remedy; None without any."""
    enabled = read_enabled(connection, replacement, table)
    # django-pgtrigger knows declared triggers only; forgotten triggers are put back by the
    # backfill.
    backfill = None if is_declared(replacement) else replacement.command("backfill")
    without = replacement.meaning.words.without_trigger
    for name in replacement.trigger_names:
        if name not in enabled:
            return (
                f'The trigger "{name}" is missing on {table}, so {without}. '
                f'Run "{backfill or "manage.py pgtrigger install"}" first.'
            )
        if not enabled[name]:
            return (
                f'The trigger "{name}" on {table} is disabled, so {without}. '
                f'Run "{backfill or "manage.py pgtrigger enable"}" first.'
            )
    later = replacement.meaning.find_later_trigger(connection, table)
    return None if later is None else f"{later} Rename the trigger, so that it sorts before."
