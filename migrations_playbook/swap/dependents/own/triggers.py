"""Triggers of the table: `UPDATE OF` and `WHEN` are bound by attribute number.

Their text is taken before the exchange and said again afterwards, when its names mean the other
columns. The partitions' clones of a trigger come and go with the trigger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from migrations_playbook.postgres.query import Row, fetch_all
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.quarantine.base import FIRST
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    comment_steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.pair import COLUMNS, Pair

TRIGGERS = sql.SQL("""
    SELECT t.oid, t.tgrelid, t.tgparentid, t.tgname,
           pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled::text,
           pg_catalog.obj_description(t.oid, 'pg_trigger'), array_agg(DISTINCT col.name)
      FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_depend d
        ON d.classid = 'pg_catalog.pg_trigger'::regclass AND d.objid = t.oid
       AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = t.tgrelid
      JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
     -- PostgreSQL 14 has clones as internal.
     WHERE NOT t.tgisinternal OR t.tgparentid <> 0
     GROUP BY t.oid ORDER BY t.tgname, t.tgrelid""")


@dataclass(frozen=True)
class Clone:
    """A trigger where it stands: on its own table, or as a clone on a partition.

    Arguments:
        oid: the trigger.
        on: the columns there.
        enabled: its `tgenabled`.
    """

    oid: int
    on: Pair
    enabled: str


def read_triggers(reading: Reading) -> Iterator[Dependent]:
    """Yield the triggers bound to either column, a partition's own too; by name.

    Lock: DROP TRIGGER takes ACCESS EXCLUSIVE on the table, CREATE TRIGGER SHARE ROW EXCLUSIVE.
    """
    pair = reading.pair
    rows = fetch_all(
        reading.connection,
        TRIGGERS.format(columns=COLUMNS),
        pair.columns,
    )
    declared = _declared_conditions(pair)
    relations = {each.table.oid: each for each in pair.relations}
    clones = _with_clones(rows, relations)
    for oid, relation, parent, name, definition, _, note, names in rows:
        if parent:
            continue
        if definition is None:
            # pg_get_triggerdef() reads the catalog as it is now, the query as it was when it began:
            # another process, such as a second swap, has dropped the trigger in between.
            continue
        on, label = relations[relation], relations[relation].labelled(name)
        covers = frozenset(("pg_trigger", clone.oid) for clone in clones[oid])
        if name.lstrip("~").startswith(FIRST):
            # Each exchange drops the quarantine's triggers, and makes the triggers for the names
            # afterwards.
            yield Dependent("trigger", label, "quarantine", frozenset(names), covers)
            continue
        restated = _with_condition(definition, declared.get((name, note)))
        yield Dependent(
            "trigger",
            label,
            describe_columns(pair, names),
            frozenset(names),
            covers,
            _say_again(on, name, restated, note, clones[oid]),
            reading.chain.refuse(("pg_trigger", oid)),
        )


def _with_clones(rows: list[Row], relations: Mapping[int, Pair]) -> dict[int, list[Clone]]:
    """Group the triggers by their originals' oids: each original, and the partitions' clones."""
    original = {oid: parent for oid, _, parent, *_ in rows if parent}
    clones: dict[int, list[Clone]] = {}
    for oid, relation, _, _, _, enabled, *_ in rows:
        first = oid
        while first in original:
            first = original[first]
        clones.setdefault(first, []).append(Clone(oid, relations[relation], enabled))
    return clones


def _say_again(
    on: Pair, name: str, definition: str, note: str | None, clones: list[Clone]
) -> Steps:
    """Build the steps to drop a trigger, and to make the trigger again as it was."""
    identifier, label = sql.Identifier(name), on.labelled(name)
    commented = sql.SQL("TRIGGER {} ON {}").format(identifier, on.identifier)
    return Steps(
        before_rename=(
            Step(
                f"Take the trigger {label} off the old columns",
                sql.SQL("DROP TRIGGER {} ON {}").format(identifier, on.identifier),
                Lock.ACCESS_EXCLUSIVE,
            ),
        ),
        after_rename=(
            Step(
                f"Put the trigger {label} on the new columns",
                sql.SQL(definition),
                Lock.ACCESS_EXCLUSIVE,
            ),
            *(step for each in clones for step in _enabled(each.on, name, each.enabled)),
            *comment_steps(label, commented, note),
        ),
    )


def _declared_conditions(pair: Pair) -> dict[tuple[str, str | None], str]:
    """Render the WHEN of each declared trigger, by its name and the hash that its comment is.

    As declared it names no type. Its text may: PostgreSQL compares a varchar as a text, and what
    it writes of that would stay a cast for good.
    """
    found: dict[tuple[str, str | None], str] = {}
    for each in pair.members:
        model: Any = each.replacement.model
        for trigger in each.replacement.declaration.triggers if each.changes_type else ():
            named = trigger.get_pgid(model), trigger.compile(model).hash
            found[named] = trigger.render_condition(model)
    return found


def _with_condition(definition: str, condition: str | None) -> str:
    """Put another WHEN into a trigger's definition; None for the same."""
    if not condition:
        return definition
    before, _, rest = definition.partition(" WHEN (")
    _, function, called = rest.rpartition(" EXECUTE FUNCTION ")
    return f"{before} {condition}{function}{called}"


def _enabled(pair: Pair, name: str, enabled: str) -> Iterator[Step]:
    how = {"D": "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}.get(enabled)
    if how:
        yield pair.alter_only(
            f"Keep the trigger {pair.labelled(name)} as it was set",
            sql.SQL("{} TRIGGER {}").format(sql.SQL(how), sql.Identifier(name)),
        )


KIND = DependentKind(
    read_triggers,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'trigger', oid, xmin) FROM pg_catalog.pg_trigger
         WHERE tgrelid IN (SELECT oid FROM relation)"""),
)
