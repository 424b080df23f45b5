"""What a column carries itself: default, comment, statistics, storage, compression, privileges.

All of it belongs to the attribute number, and all of it is exchanged by name; in each partition by
itself, whose settings need not be the table's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import fetch_all, fetch_value
from migrations_playbook.postgres.roles import current_role
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.postgres.tables import Column
from migrations_playbook.swap.dependents.base import Dependent, Object
from migrations_playbook.swap.pair import COLUMNS, Pair

# The first server version that tells the right to SET ROLE from membership.
SET_OPTION = 160000
STORAGES = {"p": "PLAIN", "e": "EXTERNAL", "x": "EXTENDED", "m": "MAIN"}
COMPRESSIONS = {"p": "pglz", "l": "lz4", "": "default"}


@dataclass(frozen=True)
class Settings:
    """A column's own settings, as pg_attribute has them.

    Arguments:
        statistics: the statistics target; -1 is the default.
        options: `n_distinct=...` and the like.
        labels: security labels, which no statement can carry over without their provider.
        privileges: as aclexplode tells them, in their order.
        default: the default's row in pg_attrdef, if there is one.
    """

    statistics: int
    storage: str
    compression: str
    options: list[str]
    comment: str | None
    identity: str
    generated: str
    collation: int
    labels: int
    default: int | None


@dataclass(frozen=True)
class Grant:
    """One privilege on a column.

    Arguments:
        grantee: the role, or None for PUBLIC.
    """

    grantor: str
    grantee: str | None
    privilege: str
    grantable: bool

    def role(self) -> sql.Composable:
        return sql.SQL("PUBLIC") if self.grantee is None else sql.Identifier(self.grantee)


def read(connection: BaseDatabaseWrapper, pair: Pair) -> dict[tuple[int, str], Settings]:
    """The settings of both columns, by relation and name."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT a.attrelid, col.name, coalesce(a.attstattarget, -1), a.attstorage::text,
                   a.attcompression::text, coalesce(a.attoptions, '{{}}'),
                   pg_catalog.col_description(a.attrelid, a.attnum),
                   a.attidentity::text, a.attgenerated::text, a.attcollation,
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


def dependents(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """What the swap does about the columns' settings.

    Lock: ACCESS EXCLUSIVE on the table for what changes.
    """
    found = read(connection, pair)
    granted = grants(connection, pair)
    for each in pair.relations:
        settings = [
            found[each.table.oid, name] for name in (pair.replacement.live, pair.replacement.shadow)
        ]
        yield from _of_relation(each, *settings)
        yield from _privileges(
            connection,
            each,
            *(
                granted.get((each.table.oid, name), [])
                for name in (pair.replacement.live, pair.replacement.shadow)
            ),
        )


def _of_relation(pair: Pair, live: Settings, shadow: Settings) -> Iterator[Dependent]:
    name = pair.labelled(pair.replacement.live)
    covers: frozenset[Object] = frozenset(
        ("pg_attrdef", each.default) for each in (live, shadow) if each.default is not None
    )
    if live.identity or live.generated or shadow.identity or shadow.generated:
        yield Dependent(
            "column", name, "by its definition", covers,
            refused="an identity or generated column makes its own values",
        )  # fmt: skip
        return
    if pair.live.type != pair.shadow.type or live.collation != shadow.collation:
        yield Dependent(
            "column", name, "by its definition",
            refused=f"{pair.replacement.shadow} has another type or collation; give it the same "
            "one",
        )  # fmt: skip
    if live.labels or shadow.labels:
        yield Dependent(
            "security label", name, f"on {pair.replacement.live}",
            refused="only its provider can set it; take it off, and set it again after the swap",
        )  # fmt: skip
    give = list(_default(pair, pair.live, pair.shadow))
    if give or covers:
        yield Dependent(
            "default",
            name,
            f"of {pair.replacement.live}",
            covers,
            give=tuple(give),
            moves=bool(give),
        )
    for kind, steps in (
        ("comment", _comment(pair, live, shadow)),
        ("statistics target", _statistics(pair, live, shadow)),
        ("storage", _storage(pair, live, shadow)),
        ("compression", _compression(pair, live, shadow)),
        ("options", _options(pair, live, shadow)),
    ):
        give = list(steps)
        if give:
            yield Dependent(kind, name, f"of {pair.replacement.live}", give=tuple(give))


def _default(pair: Pair, live: Column, shadow: Column) -> Iterator[Step]:
    if live.default == shadow.default:
        return
    for column, default in ((live.name, live.default), (shadow.name, shadow.default)):
        action = (
            sql.SQL("DROP DEFAULT")
            if default is None
            else sql.SQL("SET DEFAULT {}").format(sql.SQL(default))
        )
        yield pair.alter_column(f"Keep the default of {column}", column, action)


def _comment(pair: Pair, live: Settings, shadow: Settings) -> Iterator[Step]:
    if live.comment == shadow.comment:
        return
    for column, each in ((pair.replacement.live, live), (pair.replacement.shadow, shadow)):
        yield Step(
            f"Keep the comment of {column}",
            sql.SQL("COMMENT ON COLUMN {} IS {}").format(
                sql.Identifier(pair.table.schema, pair.table.name, column),
                sql.Literal(each.comment),
            ),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def _statistics(pair: Pair, live: Settings, shadow: Settings) -> Iterator[Step]:
    if live.statistics == shadow.statistics:
        return
    for column, each in ((pair.replacement.live, live), (pair.replacement.shadow, shadow)):
        yield pair.alter_column(
            f"Keep the statistics target of {column}",
            column,
            sql.SQL("SET STATISTICS {}").format(sql.Literal(each.statistics)),
        )


def _storage(pair: Pair, live: Settings, shadow: Settings) -> Iterator[Step]:
    if live.storage == shadow.storage:
        return
    for column, each in ((pair.replacement.live, live), (pair.replacement.shadow, shadow)):
        yield pair.alter_column(
            f"Keep the storage of {column}",
            column,
            sql.SQL("SET STORAGE {}").format(sql.SQL(STORAGES[each.storage])),
        )


def _compression(pair: Pair, live: Settings, shadow: Settings) -> Iterator[Step]:
    if live.compression == shadow.compression:
        return
    for column, each in ((pair.replacement.live, live), (pair.replacement.shadow, shadow)):
        yield pair.alter_column(
            f"Keep the compression of {column}",
            column,
            sql.SQL("SET COMPRESSION {}").format(sql.SQL(COMPRESSIONS[each.compression])),
        )


def _options(pair: Pair, live: Settings, shadow: Settings) -> Iterator[Step]:
    if live.options == shadow.options:
        return
    names = sorted({option.split("=", 1)[0] for option in live.options + shadow.options})
    for column, each in ((pair.replacement.live, live), (pair.replacement.shadow, shadow)):
        values = dict(option.split("=", 1) for option in each.options)
        for name in names:
            action = (
                sql.SQL("SET ({} = {})").format(sql.Identifier(name), sql.SQL(values[name]))
                if name in values
                else sql.SQL("RESET ({})").format(sql.Identifier(name))
            )
            yield pair.alter_column(f"Keep the option {name} of {column}", column, action)


def grants(connection: BaseDatabaseWrapper, pair: Pair) -> dict[tuple[int, str], list[Grant]]:
    """The columns' privileges by relation and name, in the order in which they were granted."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT col.relation, col.name, pg_catalog.pg_get_userbyid(x.grantor),
                   CASE WHEN x.grantee <> 0 THEN pg_catalog.pg_get_userbyid(x.grantee) END,
                   x.privilege_type, x.is_grantable
              FROM {columns}
              JOIN pg_catalog.pg_attribute a
                ON a.attrelid = col.relation AND a.attnum = col.number
             CROSS JOIN pg_catalog.aclexplode(a.attacl)
                        WITH ORDINALITY AS x (grantor, grantee, privilege_type, is_grantable, nth)
             ORDER BY x.nth""").format(columns=COLUMNS),
        pair.columns,
    )
    found: dict[tuple[int, str], list[Grant]] = {}
    for relation, name, *rest in rows:
        found.setdefault((relation, name), []).append(Grant(*rest))
    return found


def _privileges(
    connection: BaseDatabaseWrapper, pair: Pair, live: list[Grant], shadow: list[Grant]
) -> Iterator[Dependent]:
    """Column privileges: the application's role would be told "permission denied" without them.

    A role with a grant option may have granted on; its grants are made in its name again, in the
    order of the first ones.
    """
    if live == shadow:
        return
    owner = pair.table.owner
    grantors = dict.fromkeys(each.grantor for each in live + shadow if each.grantor != owner)
    barred = [role for role in grantors if not _may_become(connection, role)]
    me = current_role(connection)
    what = f"column privileges on {pair.labelled(pair.replacement.live)}"
    if barred:
        names = ", ".join(sql.Identifier(role).as_string(None) for role in barred)
        yield Dependent(
            "privileges", what, "by grant option",
            refused=f"they were granted on by others: run GRANT {names} TO {me}",
        )  # fmt: skip
        return
    give: list[Step] = []
    for column, had in ((pair.replacement.live, shadow), (pair.replacement.shadow, live)):
        # Under its new name a column still has the privileges of its old one.
        give += _revoke(pair, column, [each for each in had if each.grantor == owner])
    for column, has in ((pair.replacement.live, live), (pair.replacement.shadow, shadow)):
        give += _grant(pair, column, has, me)
    yield Dependent("privileges", what, f"of {_grantees(live + shadow)}", give=tuple(give))


def _revoke(pair: Pair, column: str, had: list[Grant]) -> Iterator[Step]:
    for grantee in {each.grantee: each for each in had}.values():
        yield Step(
            f"Take the privileges on {column} back",
            sql.SQL("REVOKE ALL ({}) ON {} FROM {} CASCADE").format(
                sql.Identifier(column), pair.identifier, grantee.role()
            ),
            Lock.NONE,
        )


def _grant(pair: Pair, column: str, has: list[Grant], me: str) -> Iterator[Step]:
    for each in has:
        other = each.grantor != pair.table.owner
        if other:
            yield Step(
                f"As {each.grantor}",
                sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(each.grantor)),
                Lock.NONE,
            )
        yield Step(
            f"Grant {each.privilege} on {column} again",
            sql.SQL("GRANT {} ({}) ON {} TO {}{}").format(
                sql.SQL(each.privilege),
                sql.Identifier(column),
                pair.identifier,
                each.role(),
                sql.SQL(" WITH GRANT OPTION" if each.grantable else ""),
            ),
            Lock.NONE,
        )
        if other:
            yield Step("As before", sql.SQL("SET LOCAL ROLE {}").format(sql.SQL(me)), Lock.NONE)


def _grantees(granted: list[Grant]) -> str:
    return ", ".join(sorted({each.grantee or "PUBLIC" for each in granted}))


def _may_become(connection: BaseDatabaseWrapper, role: str) -> bool:
    right = "SET" if connection.pg_version >= SET_OPTION else "MEMBER"  # type: ignore[attr-defined]
    return bool(
        fetch_value(
            connection, sql.SQL("SELECT pg_catalog.pg_has_role(%s::name, %s)"), [role, right]
        )
    )
