"""A column's own properties: default, comment, statistics, storage, compression, options.

All belong to the attribute number, and all are exchanged by name; in each partition separately,
whose settings need not be the table's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.postgres.tables import Column
from migrations_playbook.swap.dependents.base import Dependent, DependentKind, Steps
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.dependents.definitions.restate import try_default
from migrations_playbook.swap.pair import COLUMNS, Member, Object, Pair

STORAGES = {"p": "PLAIN", "e": "EXTERNAL", "x": "EXTENDED", "m": "MAIN"}
COMPRESSIONS = {"p": "pglz", "l": "lz4", "": "default"}


@dataclass(frozen=True)
class Settings:
    """A column's own settings, as pg_attribute has them.

    Arguments:
        statistics: the statistics target; -1 is the default.
        options: `n_distinct=...` and the like.
        labels: security labels, which no statement can carry over without their provider.
        default: the default's row in pg_attrdef, if there is one.
    """

    statistics: int
    storage: str
    compression: str
    options: list[str]
    comment: str | None
    identity: str
    generated: str
    labels: int
    default: int | None


# Settings that not every type has.
OF_THE_TYPE = {"storage", "compression"}
# How ALTER COLUMN writes a setting, by its name for a person.
ACTIONS: dict[str, Callable[[Settings], sql.Composable]] = {
    "statistics target": lambda each: sql.SQL("SET STATISTICS {}").format(
        sql.Literal(each.statistics)
    ),
    "storage": lambda each: sql.SQL("SET STORAGE {}").format(sql.SQL(STORAGES[each.storage])),
    "compression": lambda each: sql.SQL("SET COMPRESSION {}").format(
        sql.SQL(COMPRESSIONS[each.compression])
    ),
}


def read_settings(connection: BaseDatabaseWrapper, pair: Pair) -> dict[tuple[int, str], Settings]:
    """Read the settings of the columns, by relation and name."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT a.attrelid, col.name, coalesce(a.attstattarget, -1), a.attstorage::text,
                   a.attcompression::text,
                   -- Some servers keep an option of their own on every column, pg_...
                   ARRAY(SELECT o FROM unnest(a.attoptions) o
                          WHERE NOT pg_catalog.starts_with(o, 'pg_')),
                   pg_catalog.col_description(a.attrelid, a.attnum),
                   a.attidentity::text, a.attgenerated::text,
                   (SELECT count(*) FROM pg_catalog.pg_seclabel l
                     WHERE l.classoid = 'pg_catalog.pg_class'::regclass
                       AND l.objoid = a.attrelid AND l.objsubid = a.attnum),
                   d.oid
              FROM {columns}
              JOIN pg_catalog.pg_attribute a
                ON a.attrelid = col.relation AND a.attnum = col.number
              LEFT JOIN pg_catalog.pg_attrdef d
                     ON d.adrelid = a.attrelid AND d.adnum = a.attnum""").format(columns=COLUMNS),
        pair.columns,
    )
    return {(relation, name): Settings(*rest) for relation, name, *rest in rows}


def read_columns(reading: Reading) -> Iterator[Dependent]:
    """Yield the columns' properties, relation by relation. Lock: ACCESS EXCLUSIVE on each."""
    found = read_settings(reading.connection, reading.pair)
    for member in reading.pair.members:
        failures = _failing_defaults(reading, member)
        for pair in reading.pair.relations:
            each = pair.member(member.replacement)
            live, shadow = (
                found[pair.table.oid, column.name] for column in (each.live, each.shadow)
            )
            failure = failures.get(each.live.default)
            refused = list(_refused(pair, each, live, shadow, failure))
            yield from refused
            if not any(one.covers for one in refused):
                yield from _carried(pair, each, live, shadow)


def _failing_defaults(reading: Reading, member: Member) -> dict[str | None, str | None]:
    """Find out which defaults the other column cannot have, where its type is another."""
    pair = reading.pair
    if not member.changes_type or not reading.may_restate:
        return {}
    defaults = {each.table.columns[member.live.name].default for each in pair.relations}
    return {
        default: try_default(reading.connection, pair, member.shadow.name, default)
        for default in defaults
        if default is not None
    }


def _refused(
    pair: Pair, member: Member, live: Settings, shadow: Settings, failure: str | None
) -> Iterator[Dependent]:
    name, column = pair.labelled(member.live.name), frozenset({member.live.name})
    if live.identity or live.generated or shadow.identity or shadow.generated:
        yield Dependent(
            "column",
            name,
            "by its definition",
            column,
            _defaults(live, shadow),
            refused="an identity or generated column makes its own values",
        )
        return
    if member.has_two_types and not member.changes_type:
        yield Dependent(
            "column",
            name,
            "by its definition",
            column,
            refused=f"{member.shadow.name} has another type or collation; give it the same one",
        )
    if failure is not None:
        yield Dependent(
            "default",
            name,
            f"of {member.live.name}",
            column,
            _defaults(live, shadow),
            refused=f"{failure}; drop it, and set it again after the swap",
        )
    if live.labels or shadow.labels:
        yield Dependent(
            "security label",
            name,
            f"on {member.live.name}",
            column,
            refused="only its provider can set it; take it off, and set it again after the swap",
        )


def _carried(pair: Pair, member: Member, live: Settings, shadow: Settings) -> Iterator[Dependent]:
    name, how = pair.labelled(member.live.name), f"of {member.live.name}"
    column, covers = frozenset({member.live.name}), _defaults(live, shadow)
    same_type = member.live.type == member.shadow.type
    steps = tuple(_keep(pair, member, "default", _default(member.live), _default(member.shadow)))
    if steps or covers:
        carried = Steps(after_rename=steps) if steps else None
        yield Dependent("default", name, how, column, covers, carried)
    for kind, found in (
        ("comment", _comment(pair, member, live, shadow)),
        *(
            (what, _keep(pair, member, what, write(live), write(shadow)))
            for what, write in ACTIONS.items()
            # Of another type the storage is the type's.
            if same_type or what not in OF_THE_TYPE
        ),
        ("options", _options(pair, member, live, shadow)),
    ):
        steps = tuple(found)
        if steps:
            yield Dependent(kind, name, how, column, steps=Steps(after_rename=steps))


def _defaults(live: Settings, shadow: Settings) -> frozenset[Object]:
    found = (each.default for each in (live, shadow))
    return frozenset(("pg_attrdef", oid) for oid in found if oid is not None)


def _default(column: Column) -> sql.Composable:
    if column.default is None:
        return sql.SQL("DROP DEFAULT")
    return sql.SQL("SET DEFAULT {}").format(sql.SQL(column.default))


def _keep(
    pair: Pair, member: Member, what: str, live: sql.Composable, shadow: sql.Composable
) -> Iterator[Step]:
    """Yield the steps that give each column what goes with its name; none where both are alike.

    Arguments:
        what: the setting, for a person.
        live: the action of ALTER COLUMN for the live column.
        shadow: the same for the shadow column.
    """
    if live == shadow:
        return
    for column, action in ((member.live.name, live), (member.shadow.name, shadow)):
        yield pair.alter_column(f"Keep the {what} of {column}", column, action)


def _comment(pair: Pair, member: Member, live: Settings, shadow: Settings) -> Iterator[Step]:
    if live.comment == shadow.comment:
        return
    for column, each in ((member.live.name, live), (member.shadow.name, shadow)):
        yield Step(
            f"Keep the comment of {column}",
            sql.SQL("COMMENT ON COLUMN {} IS {}").format(
                sql.Identifier(pair.table.schema, pair.table.name, column),
                sql.Literal(each.comment),
            ),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def _options(pair: Pair, member: Member, live: Settings, shadow: Settings) -> Iterator[Step]:
    if live.options == shadow.options:
        return
    names = sorted({option.split("=", 1)[0] for option in live.options + shadow.options})
    for column, each in ((member.live.name, live), (member.shadow.name, shadow)):
        values = dict(option.split("=", 1) for option in each.options)
        for name in names:
            action = (
                sql.SQL("SET ({} = {})").format(sql.Identifier(name), sql.SQL(values[name]))
                if name in values
                else sql.SQL("RESET ({})").format(sql.Identifier(name))
            )
            yield pair.alter_column(f"Keep the option {name} of {column}", column, action)


KIND = DependentKind(
    read_columns,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'comment', objoid, objsubid, xmin) FROM pg_catalog.pg_description
         WHERE classoid = 'pg_catalog.pg_class'::regclass
           AND objoid IN (SELECT oid FROM relation)"""),
)
