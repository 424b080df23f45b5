"""The steps to set the quarantine up, to end it in a revert, and to drop it in the contract."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from psycopg import sql

from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.postgres.tables import Table
from migrations_playbook.quarantine.base import (
    COPY_UPDATED,
    STAYING,
    WHILE_REVERTED,
    WHILE_SWAPPED,
    Objects,
    Quarantine,
    Trigger,
    name_quarantine,
)
from migrations_playbook.quarantine.trigger_functions import copy_steps, remember_steps, ward_steps


def ready_steps(quarantine: Quarantine, staying: Iterable[str] = ()) -> list[Step]:
    """Build the steps for a quarantine that need no lock on the table: all but its triggers.

    The remains of an earlier quarantine are taken over: a migration backwards drops the column with
    its triggers, and neither functions nor sequences nor the memory.

    Lock: none that a write of the site's would wait for.

    Arguments:
        staying: the indexes and CHECKs that the swap leaves where they are. A revert leaves them
            there too; newer objects are carried over.
    """
    live, retired = quarantine.live, quarantine.retired
    return [
        *([] if quarantine.bound.triggers else _create_memory(quarantine)),
        *_create_counts(quarantine),
        *ward_steps(quarantine),
        *copy_steps(quarantine),
        *remember_steps(quarantine, leaked=retired, fresh=live),
        *(note_staying(quarantine.object("ward"), staying) if staying else []),
    ]


def arm_steps(quarantine: Quarantine) -> list[Step]:
    """Build the rest of the steps for a quarantine, for a table whose columns are exchanged.

    Lock: ACCESS EXCLUSIVE is held already; CREATE TRIGGER alone takes SHARE ROW EXCLUSIVE.
    """
    return [
        *_drop_triggers(quarantine),
        # A memory in use: its triggers write into it, and would wait for its ALTER TABLE.
        *(_create_memory(quarantine) if quarantine.bound.triggers else []),
        *(_create_trigger(quarantine, each, leaked=quarantine.retired) for each in WHILE_SWAPPED),
    ]


def ready_revert_steps(quarantine: Quarantine) -> list[Step]:
    """Build the steps before a revert's lock: leaked values go on to be remembered. Lock: none."""
    return remember_steps(quarantine, leaked=quarantine.live, fresh=quarantine.retired)


def revert_steps(quarantine: Quarantine) -> list[Step]:
    """Build the steps to end the quarantine of a table whose columns are exchanged back.

    Lock: ACCESS EXCLUSIVE is held already.
    """
    kept = quarantine.name("remember")
    ended = [each for each in quarantine.bound.functions if each[1] != kept]
    return [
        *_drop_triggers(quarantine),
        *_drop_functions(ended),
        *_drop_sequences(quarantine),
        *(_create_trigger(quarantine, each, leaked=quarantine.live) for each in WHILE_REVERTED),
    ]


def drop_steps(quarantine: Quarantine) -> list[Step]:
    """Build the steps to take the whole quarantine away, the memory too: the contract's.

    Lock: ACCESS EXCLUSIVE on the table (DROP TRIGGER).
    """
    return [
        *_drop_triggers(quarantine),
        *_drop_functions(quarantine.bound.functions),
        *_drop_sequences(quarantine),
        Step(
            "Forget what has leaked",
            sql.SQL("DROP TABLE IF EXISTS {}").format(quarantine.object("leaked")),
            Lock.NONE,
        ),
    ]


def forget_steps(table: Table, column: str, bound: Objects) -> list[Step]:
    """Build the steps to forget leaked values, before a column is dropped by its expand's undo.

    While the columns are exchanged there are no such steps: the revert comes first.

    Lock: ACCESS EXCLUSIVE on the table (DROP TRIGGER).

    Arguments:
        column: the shadow column, to which `bound` is bound.
    """
    if bound.names is None or len(bound.triggers) != len(WHILE_REVERTED):
        return []
    return drop_steps(name_quarantine(table, "", column, None, bound))


def _create_memory(quarantine: Quarantine) -> Iterator[Step]:
    """Yield the steps for the memory, which belongs to the table's owner."""
    owner = sql.Identifier(quarantine.table.owner)
    memory = quarantine.object("leaked")
    yield Step(
        "Remember leaked values, as digests",
        sql.SQL("CREATE TABLE IF NOT EXISTS {} (digest bytea PRIMARY KEY)").format(memory),
        Lock.NONE,
    )
    yield Step(
        "Give the memory to the table's owner",
        sql.SQL("ALTER TABLE {} OWNER TO {}").format(memory, owner),
        Lock.NONE,
    )


def _create_counts(quarantine: Quarantine) -> Iterator[Step]:
    """Yield the steps for the sequences, which belong to the table's owner."""
    owner = sql.Identifier(quarantine.table.owner)
    for kind in ("hits", "last"):
        sequence = quarantine.object(kind)
        yield Step(
            {"hits": "Count stale writes", "last": "Note when the last stale write was"}[kind],
            sql.SQL("CREATE SEQUENCE IF NOT EXISTS {}").format(sequence),
            Lock.NONE,
        )
        yield Step(
            "Give the sequence to the table's owner",
            sql.SQL("ALTER SEQUENCE {} OWNER TO {}").format(sequence, owner),
            Lock.NONE,
        )


def note_staying(function: sql.Identifier, names: Iterable[str]) -> list[Step]:
    """Build the note of what the swap leaves where it is; without any, the end of an earlier note.

    Lock: none that a write of the site's would wait for.

    Arguments:
        function: whose comment is the note.
    """
    listed = sorted(names)
    note = STAYING + json.dumps(listed) if listed else None
    return [
        Step(
            "Note what is left where it is" if listed else "Forget what was left where it was",
            sql.SQL("COMMENT ON FUNCTION {}() IS {}").format(function, sql.Literal(note)),
            Lock.NONE,
        )
    ]


def _create_trigger(quarantine: Quarantine, trigger: Trigger, *, leaked: str) -> Step:
    names = {
        "live": sql.Identifier(quarantine.live),
        "retired": sql.Identifier(quarantine.retired),
        "leaked": sql.Identifier(leaked),
    }
    return Step(
        f"Fire {trigger.function} for each {trigger.event}",
        sql.SQL(
            "CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW\n"
            "    WHEN ({condition})\n    EXECUTE FUNCTION {function}()"
        ).format(
            name=sql.Identifier(trigger.prefix + quarantine.stem),
            event=sql.SQL(trigger.event),
            table=quarantine.table.identifier,
            condition=sql.SQL(" OR ").join(_conditions(quarantine, trigger, names)),
            function=quarantine.object(trigger.function),
        ),
        Lock.ACCESS_EXCLUSIVE,
    )


def _conditions(
    quarantine: Quarantine, trigger: Trigger, names: Mapping[str, sql.Identifier]
) -> Iterator[sql.Composable]:
    """Yield the conditions of which any lets a trigger fire."""
    yield sql.SQL(trigger.condition).format(**names)
    if trigger is COPY_UPDATED and not quarantine.drawn:
        # Made of a new value, a prefix may be the same as before: its copy goes with the value's.
        for each in quarantine.together:
            if each.drawn:
                yield sql.SQL("NEW.{live} IS DISTINCT FROM OLD.{live}").format(
                    live=sql.Identifier(each.live)
                )


def _drop_triggers(quarantine: Quarantine) -> Iterator[Step]:
    table = quarantine.table.identifier
    for name in quarantine.bound.triggers:
        yield Step(
            "Drop a quarantine trigger",
            sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(name), table),
            Lock.ACCESS_EXCLUSIVE,
        )


def _drop_functions(functions: Iterable[tuple[str, str]]) -> Iterator[Step]:
    for schema, name in functions:
        yield Step(
            "Drop a quarantine function",
            sql.SQL("DROP FUNCTION {}()").format(sql.Identifier(schema, name)),
            Lock.NONE,
        )


def _drop_sequences(quarantine: Quarantine) -> Iterator[Step]:
    own = (quarantine.object("hits"), quarantine.object("last"))
    for sequence in (
        *own,
        *(sql.Identifier(*each) for each in quarantine.bound.sequences.values()),
    ):
        yield Step(
            "Drop a count of stale writes",
            sql.SQL("DROP SEQUENCE IF EXISTS {}").format(sequence),
            Lock.NONE,
        )
