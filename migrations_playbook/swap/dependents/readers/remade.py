"""Views that another type reaches: dropped and made again in the exchange, with all they have.

A view keeps its columns' types for life. So the views whose columns change, and the views above
them, are dropped together and made again one by one, each after those that it reads: options,
owner, privileges, defaults, rules, triggers and comments. A policy, a rule of another table or a
parsed function that reads such a view lets it go first, and is told to read it again by its own
kind. What else stands on such a view would go with it, and is refused by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from migrations_playbook.postgres.query import Row, fetch_all
from migrations_playbook.postgres.roles import current_role, may_not_create, not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.postgres.tables import READ_BY
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    comment_steps,
    with_options,
    without_semicolon,
)
from migrations_playbook.swap.dependents.definitions.chains import View
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.dependents.own.privileges import Grant, find_barred, grant_steps
from migrations_playbook.swap.dependents.readers.views import VIEW, lock_step

# A view's parts: the name and the text of each, and its address.
PARTS = """
    SELECT a.adrelid, 'default', t.attname, pg_catalog.pg_get_expr(a.adbin, a.adrelid),
           'pg_attrdef', a.oid, 1
      FROM pg_catalog.pg_attrdef a
      JOIN pg_catalog.pg_attribute t ON t.attrelid = a.adrelid AND t.attnum = a.adnum
     WHERE a.adrelid = ANY (%s)
    UNION ALL
    SELECT r.ev_class, 'rule', r.rulename, pg_catalog.pg_get_ruledef(r.oid),
           'pg_rewrite', r.oid, 2
      FROM pg_catalog.pg_rewrite r
     WHERE r.ev_class = ANY (%s) AND r.rulename <> '_RETURN'
    UNION ALL
    SELECT t.tgrelid, 'trigger', t.tgname, pg_catalog.pg_get_triggerdef(t.oid),
           'pg_trigger', t.oid, 3
      FROM pg_catalog.pg_trigger t
     WHERE t.tgrelid = ANY (%s) AND NOT t.tgisinternal
     ORDER BY 7, 3"""

COMMENTS = """
    SELECT c.oid, CASE WHEN d.objsubid = 0 THEN 'VIEW' ELSE 'COLUMN' END, a.attname, d.description
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_description d
        ON d.classoid = 'pg_catalog.pg_class'::regclass AND d.objoid = c.oid
      LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid
                                         AND d.objsubid <> 0
     WHERE c.oid = ANY (%s)
    UNION ALL
    SELECT r.ev_class, 'RULE', r.rulename, d.description
      FROM pg_catalog.pg_rewrite r
      JOIN pg_catalog.pg_description d
        ON d.classoid = 'pg_catalog.pg_rewrite'::regclass AND d.objoid = r.oid
     WHERE r.ev_class = ANY (%s)
    UNION ALL
    SELECT t.tgrelid, 'TRIGGER', t.tgname, d.description
      FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_description d
        ON d.classoid = 'pg_catalog.pg_trigger'::regclass AND d.objoid = t.oid
     WHERE t.tgrelid = ANY (%s)
     ORDER BY 2, 3"""

# Of its owner a view's privileges are told only where the owner has fewer than an owner has.
GRANTS = """
    SELECT c.oid, NULL, pg_catalog.pg_get_userbyid(x.grantor),
           CASE WHEN x.grantee <> 0 THEN pg_catalog.pg_get_userbyid(x.grantee) END,
           x.privilege_type, x.is_grantable, 0 AS number, x.nth
      FROM pg_catalog.pg_class c
     CROSS JOIN pg_catalog.aclexplode(c.relacl)
                WITH ORDINALITY AS x (grantor, grantee, privilege_type, is_grantable, nth)
     WHERE c.oid = ANY (%s)
    UNION ALL
    SELECT a.attrelid, a.attname, pg_catalog.pg_get_userbyid(x.grantor),
           CASE WHEN x.grantee <> 0 THEN pg_catalog.pg_get_userbyid(x.grantee) END,
           x.privilege_type, x.is_grantable, a.attnum, x.nth
      FROM pg_catalog.pg_attribute a
     CROSS JOIN pg_catalog.aclexplode(a.attacl)
                WITH ORDINALITY AS x (grantor, grantee, privilege_type, is_grantable, nth)
     WHERE a.attrelid = ANY (%s)
     ORDER BY number, nth"""

# What else stands on a view or its row type: PostgreSQL would drop it by CASCADE alone. A policy, a
# rule and a parsed function can let the view go, but not its row type.
ABOVE = """
    SELECT view.oid, i.type || ' ' || i.identity
      FROM pg_catalog.pg_class view
      JOIN pg_catalog.pg_type t ON t.oid = view.reltype
      JOIN pg_catalog.pg_depend d
        ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = view.oid
        OR d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray)
      LEFT JOIN pg_catalog.pg_rewrite r
             ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
      LEFT JOIN pg_catalog.pg_class whose ON whose.oid = r.ev_class
     CROSS JOIN LATERAL pg_catalog.pg_identify_object(
                CASE WHEN whose.relkind IN ('v', 'm') THEN 'pg_catalog.pg_class'::regclass
                     ELSE d.classid END,
                CASE WHEN whose.relkind IN ('v', 'm') THEN whose.oid ELSE d.objid END,
                CASE WHEN whose.relkind IN ('v', 'm') THEN 0 ELSE d.objsubid END) AS i
     WHERE view.oid = ANY (%s) AND d.deptype = 'n'
       AND (r.oid IS NULL OR r.ev_class <> ALL (%s))
       AND NOT (d.refclassid = 'pg_catalog.pg_class'::regclass
                AND (d.classid IN ('pg_catalog.pg_policy'::regclass,
                                   'pg_catalog.pg_proc'::regclass)
                     OR r.rulename <> '_RETURN') IS TRUE)
     GROUP BY 1, 2 ORDER BY 1, 2"""

VIEWS = sql.SQL("""
    SELECT c.oid, pg_catalog.pg_get_userbyid(c.relowner), coalesce(c.reloptions, '{}'),
           pg_catalog.pg_get_viewdef(c.oid),
           c.relpersistence = 't' AND c.relnamespace <> pg_catalog.pg_my_temp_schema(),
           (SELECT e.extname FROM pg_catalog.pg_depend d
              JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
             WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
               AND d.deptype = 'e'),
           EXISTS (SELECT FROM pg_catalog.pg_seclabel l
                    WHERE l.classoid = 'pg_catalog.pg_class'::regclass AND l.objoid = c.oid),
           NOT EXISTS (SELECT x.* FROM pg_catalog.aclexplode(
                              pg_catalog.acldefault('r', c.relowner)) AS x
                       EXCEPT SELECT x.* FROM pg_catalog.aclexplode(
                              coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) AS x),
           pg_catalog.has_schema_privilege(c.relowner, c.relnamespace, 'CREATE'),
           ARRAY(SELECT DISTINCT CASE WHEN x.grantee = 0 THEN NULL
                                      ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END
                   FROM pg_catalog.pg_default_acl d
                  CROSS JOIN pg_catalog.aclexplode(d.defaclacl) AS x
                  WHERE d.defaclobjtype = 'r' AND d.defaclrole = current_user::regrole
                    AND d.defaclnamespace IN (0, c.relnamespace)
                    AND x.grantee <> d.defaclrole),
           ARRAY(SELECT r.oid FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid)
      FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s)""")


@dataclass(frozen=True)
class Holding:
    """What a view has besides its query.

    Arguments:
        owner: its owner.
        options: security_barrier and the like.
        text: its query.
        foreign: whether the view is another session's temporary one.
        extension: the extension that it belongs to, or None.
        labelled: whether the view or a column has a security label.
        owned_in_full: whether the owner has all the privileges of an owner.
        may_belong: whether its owner may create in its schema, as ALTER VIEW OWNER demands.
        strangers: who would get privileges by default on a new view; None for PUBLIC.
        rules: the oids of its rules.
    """

    owner: str
    options: list[str]
    text: str
    foreign: bool
    extension: str | None
    labelled: bool
    owned_in_full: bool
    may_belong: bool
    strangers: list[str | None]
    rules: list[int]


def read_remade_views(reading: Reading) -> Iterator[Dependent]:
    """Yield the views to be dropped and made again, each after the views that it reads.

    Lock: ACCESS EXCLUSIVE on each, the topmost first, as their readers lock them.
    """
    views, connection = reading.chain.remade, reading.connection
    if not views:
        return
    oids = reading.chain.oids
    held = {oid: Holding(*rest) for oid, *rest in fetch_all(connection, VIEWS, [oids])}
    above, parts, comments, grants = (
        _by_view(fetch_all(connection, sql.SQL(query), [oids] * query.count("%s")))
        for query in (ABOVE, PARTS, COMMENTS, GRANTS)
    )
    me = current_role(connection)
    drop = Step(
        "Drop the views whose columns change their type, to make them again",
        sql.SQL("DROP VIEW {}").format(sql.SQL(", ").join(each.identifier for each in views)),
        Lock.ACCESS_EXCLUSIVE,
    )
    for view in views:
        mine = held[view.oid]
        granted = [(column, Grant(*grant)) for column, *grant, _, _ in grants[view.oid]]
        named = [str(name) for (name,) in above[view.oid]]
        refused = next(_refusals(reading, view, mine, named, parts[view.oid]), None)
        if refused is None:
            refused = find_barred(connection, mine.owner, [grant for _, grant in granted])
        first = view is views[0]
        yield Dependent(
            "view",
            str(view),
            "of another type afterwards, so it is made again",
            covers=frozenset(("pg_rewrite", oid) for oid in mine.rules),
            refused=refused,
            steps=Steps(
                locked_before=tuple(
                    lock_step(str(each), each.identifier, VIEW, held[each.oid].owner)
                    for each in reversed(views if first else ())
                ),
                after_rename=(
                    # By then what reads them has let them go.
                    *((drop,) if first else ()),
                    *_make(view, mine, me),
                    *_define(view, parts[view.oid]),
                    *_grant(view, mine, granted, me),
                    *_comment(view, comments[view.oid]),
                ),
            ),
        )


def _by_view(rows: list[Row]) -> dict[int, list[list[Any]]]:
    found: dict[int, list[list[Any]]] = defaultdict(list)
    for oid, *rest in rows:
        found[oid].append(rest)
    return found


def _refusals(
    reading: Reading, view: View, mine: Holding, above: list[str], parts: list[list[Any]]
) -> Iterator[str]:
    """Yield why a view cannot be made again, the first reason first."""
    connection, chain = reading.connection, reading.chain
    if mine.foreign:
        yield "it is a temporary view of another session; end that session first"
    if mine.extension is not None:
        yield (
            f"it belongs to the extension {mine.extension}, which alone makes it; drop the "
            "extension, and create it again after the swap"
        )
    if mine.labelled:
        yield "only its provider can set its security label; take it off first"
    if above:
        yield f"{', '.join(above)} would go with it; drop that, and create it again after the swap"
    yield from filter(None, (chain.refuse(("pg_class", view.oid)),))
    for kind, name, _, catalog, oid, _ in parts:
        if (failure := chain.refuse((catalog, oid))) is not None:
            yield f"its {kind} {name}: {failure}"
    rights = (
        not_owned(connection, "view", str(view), mine.owner),
        may_not_create(connection, view.schema),
    )
    yield from filter(None, rights)
    if not mine.may_belong:
        grant = f"GRANT CREATE ON SCHEMA {sql.Identifier(view.schema).as_string(None)}"
        yield (
            "to make it again takes its owner's right to create in its schema: run "
            f"{grant} TO {sql.Identifier(mine.owner).as_string(None)}"
        )


def _make(view: View, mine: Holding, me: str) -> Iterator[Step]:
    yield Step(
        f"Make the view {view} again",
        sql.SQL("CREATE VIEW {}{} AS\n{}").format(
            view.identifier,
            with_options(mine.options),
            sql.SQL(without_semicolon(mine.text)),
        ),
        Lock.NONE,
    )
    if mine.owner != me:
        yield Step(
            f"Give {view} to its owner",
            sql.SQL("ALTER VIEW {} OWNER TO {}").format(
                view.identifier, sql.Identifier(mine.owner)
            ),
            Lock.NONE,
        )


def _define(view: View, parts: list[list[Any]]) -> Iterator[Step]:
    """Give a view its columns' defaults, its rules and its triggers."""
    for kind, name, text, *_ in parts:
        statement = sql.SQL(without_semicolon(str(text)))
        yield Step(
            f"Give {view} its {kind} {name}",
            sql.SQL("ALTER VIEW {} ALTER COLUMN {} SET DEFAULT {}").format(
                view.identifier, sql.Identifier(str(name)), statement
            )
            if kind == "default"
            else statement,
            Lock.NONE,
        )


def _grant(
    view: View, mine: Holding, granted: list[tuple[str | None, Grant]], me: str
) -> Iterator[Step]:
    """Give a view the privileges it had, and take away what it got by default."""
    strangers: list[str | None] = [*mine.strangers]
    if not mine.owned_in_full:
        strangers.append(mine.owner)
    for role in strangers:
        yield Step(
            f"Take from {view} what a new view has",
            sql.SQL("REVOKE ALL ON {} FROM {}").format(
                view.identifier, sql.SQL("PUBLIC") if role is None else sql.Identifier(role)
            ),
            Lock.NONE,
        )
    for column, grant in granted:
        if column is None and grant.grantee == mine.owner and mine.owned_in_full:
            continue
        yield from grant_steps(view.identifier, mine.owner, column, [grant], me)


def _comment(view: View, comments: list[list[Any]]) -> Iterator[Step]:
    for kind, name, text in comments:
        part = None if name is None else sql.Identifier(str(name))
        on: sql.Composable = view.identifier
        if kind == "COLUMN":
            on = sql.Identifier(view.schema, view.name, str(name))
        elif part is not None:
            on = sql.SQL("{} ON {}").format(part, view.identifier)
        what = str(view) if part is None else f"{name} of {view}"
        yield from comment_steps(what, sql.SQL("{} {}").format(sql.SQL(str(kind)), on), str(text))


KIND = DependentKind(
    read_remade_views,
    for_another_type=True,
    # A view above such a view is bound to no column of the table.
    stamp=sql.SQL("""
        SELECT line FROM (
            WITH RECURSIVE reader (oid) AS (
                SELECT r.ev_class FROM pg_catalog.pg_rewrite r
                 WHERE r.oid IN (SELECT objid FROM bound) AND r.rulename = '_RETURN'
                UNION
                SELECT r.ev_class
                  FROM {read_by})
            SELECT concat_ws(' ', 'remade', c.oid, c.xmin) AS line
              FROM reader JOIN pg_catalog.pg_class c ON c.oid = reader.oid
            UNION ALL
            SELECT concat_ws(' ', 'column', a.attrelid, a.attnum, a.xmin)
              FROM reader JOIN pg_catalog.pg_attribute a ON a.attrelid = reader.oid
            UNION ALL
            SELECT concat_ws(' ', 'part', d.classid, d.objid, d.objsubid, d.xmin)
              FROM reader
              JOIN pg_catalog.pg_depend d
                ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = reader.oid
            UNION ALL
            SELECT concat_ws(' ', 'comment', d.objoid, d.objsubid, d.xmin)
              FROM reader
              JOIN pg_catalog.pg_description d
                ON d.classoid = 'pg_catalog.pg_class'::regclass AND d.objoid = reader.oid
        ) AS remade""").format(read_by=READ_BY),
)
