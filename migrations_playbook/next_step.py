"""The next command for a replacement, or the thing to do first. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.commands import name_database, spell_migrate
from migrations_playbook.history import Remembered, is_declared, spell_expand
from migrations_playbook.phase import Phase, State
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.replacement import Replacement, find_elsewhere
from migrations_playbook.swap.dependents.base import Dependent
from migrations_playbook.swap.dependents.inventory import read_inventory
from migrations_playbook.swap.gate import finishing_command, leaves_copies
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.rows.kinds import rows_of


@dataclass(frozen=True)
class Bound:
    """What is bound to the columns of a replacement.

    Arguments:
        dependents: the objects, with the treatment by the swap (or its revert).
        left: the dependents with which an interrupted exchange was not done.
        problems: the missing or disabled objects of the quarantine.
    """

    dependents: tuple[Dependent, ...] = ()
    left: tuple[Dependent, ...] = ()
    problems: tuple[str, ...] = ()


def read_bound(connection: BaseDatabaseWrapper, replacement: Replacement, state: State) -> Bound:
    """Read what is bound to the columns; nothing where there is no shadow column.

    Lock: ACCESS SHARE on the table.
    """
    if state.table is None or state.phase is Phase.NONE:
        return Bound()
    pair = Pair.of(replacement, state.table)
    inventory = read_inventory(connection, pair)
    problems = rows_of(pair).find_problems(connection, inventory)
    return Bound(inventory.dependents, inventory.left, problems)


def find_next(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    state: State,
    remembered: Remembered | None,
    bound: Bound,
) -> str:
    """Find the next command, or what is in its way: what must be seen to first is said first.

    Lock: none that conflicts with anything.

    Arguments:
        remembered: the shadow as the migrations have it.
        bound: what is bound to the columns.
    """
    using = connection.alias
    return (
        (find_elsewhere(replacement, using=using) if state.table is None else None)
        or state.hidden
        or state.problem
        or (_mending_command(replacement, using) if bound.problems else None)
        or _finishing(replacement, state, bound.left)
        or _outdated_triggers(connection, replacement, state)
        or _stands_in_the_way(state, bound.dependents)
        or _spell_following(state.phase, replacement, remembered, using=using)
    )


def _mending_command(replacement: Replacement, using: str) -> str:
    return replacement.command("swap", "--mend", *name_database(using))


def _finishing(
    replacement: Replacement, state: State, unfinished: tuple[Dependent, ...]
) -> str | None:
    """Spell the command to finish an interrupted exchange with."""
    if not unfinished:
        return None
    refresh = leaves_copies(unfinished)
    return finishing_command(replacement, revert=not state.swapped, refresh=refresh)


def _outdated_triggers(
    connection: BaseDatabaseWrapper, replacement: Replacement, state: State
) -> str | None:
    """Say the remedy when the triggers draw another value than declared, or are of another release.

    The comment of a trigger of django-pgtrigger's is the hash of its definition.
    """
    if state.phase is Phase.NONE or state.table is None or not is_declared(replacement):
        return None
    installed = {
        name: (text, note)
        for name, text, note in fetch_all(
            connection,
            sql.SQL("""
                SELECT t.tgname, p.prosrc, pg_catalog.obj_description(t.oid, 'pg_trigger')
                  FROM pg_catalog.pg_trigger t
                  JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
                 WHERE t.tgrelid = %s AND t.tgname = ANY (%s)"""),
            [state.table.oid, list(replacement.trigger_names)],
        )
    }
    compiled = [
        trigger.compile(replacement.model)  # type: ignore[arg-type]
        for trigger in replacement.declaration.triggers
    ]
    if all(installed.get(each.sql.pgid, ("", ""))[1] == each.hash for each in compiled):
        return None
    fill, _ = installed.get(replacement.trigger_names[0], ("", ""))
    what = "The triggers are of another release than the model"
    if replacement.meaning.is_outdated(fill):
        what = "The trigger draws by another value than the model declares"
    migrate = spell_migrate(connection.alias)
    return f'{what}. Run "{replacement.command("expand")}" unless that is written, then "{migrate}"'


def _stands_in_the_way(state: State, dependents: Iterable[Dependent]) -> str | None:
    """Say the remedies to apply first when the swap would refuse."""
    refused = [each for each in dependents if each.refused is not None]
    if state.phase is not Phase.FILLED or not refused:
        return None
    return "First see to " + "; ".join(f"the {each}: {each.refused}" for each in refused)


def _spell_following(
    phase: Phase, replacement: Replacement, remembered: Remembered | None, *, using: str
) -> str:
    """Spell the right next command in a phase.

    Arguments:
        remembered: the shadow as the migrations have it.
        using: the database's alias, which the command names where it is not the default.
    """
    # What only the database knows has nothing to forget.
    forgotten = remembered.forgotten if remembered else not is_declared(replacement)
    contracted = remembered is not None and remembered.contracted
    there = name_database(using)
    match phase:
        case Phase.EXPANDED:
            return replacement.command("backfill", *there)
        case Phase.FILLED if not replacement.declaration.moves:
            return replacement.command("swap", *there)
        case Phase.NONE:
            return spell_expand(replacement, remembered, using)
        # What moves needs no swap.
        case _ if not forgotten:
            forget = replacement.command("forget")
            when = "the next release"
            if replacement.declaration.moves:
                when = f"the release that uses {replacement.declaration.shadow} alone"
            return f"{forget}, in {when}; the contract in the one after"
        case _ if not contracted:
            return f"{replacement.command('contract')}, in the next release"
    return spell_migrate(using)
