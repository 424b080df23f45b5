"""Materialized views: they hold copies of the leaked values, and are bound by attribute number.

One that reads the column itself is built anew beside the old one after the exchange, from its own
text, and then takes its place; one that reads it through a view is refreshed.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.database import Row, fetch_all, name_of
from migrations_playbook.dependents.base import (
    COLUMNS,
    Dependent,
    Pair,
    comment,
    how_bound,
    not_owned,
)
from migrations_playbook.dependents.views import with_options
from migrations_playbook.steps import Lock, Step

COPIES = (
    "it holds copies of the leaked values; run the swap with --refresh-materialized-views, which "
    "builds it anew afterwards"
)


def dependents(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """The materialized views that read either column, directly or through views.

    Lock: none on the table but ACCESS SHARE; ACCESS EXCLUSIVE on the materialized view for the
    moment in which it is replaced, or for a refresh that cannot be concurrent.
    """
    for row in _rows(connection, pair):
        _, rule, schema, name, owner, direct, names, dependants, granted, *_ = row
        shown = f"{schema}.{name}"
        how = how_bound(pair, names) if direct else "through a view"
        covers = frozenset({("pg_rewrite", rule)}) if direct else frozenset()
        refused = not_owned(connection, "materialized view", shown, owner)
        if refused is None and not pair.refresh:
            refused = COPIES
        if refused is None and direct and dependants:
            refused = f"{dependants} would have to be created again with it; drop it first"
        if refused is None and direct and granted:
            refused = "its columns have privileges of their own; drop it first"
        after: Iterator[Step] = iter(())
        if refused is None:
            after = _replace(connection, row) if direct else _refresh(row)
        yield Dependent(
            "materialized view", shown, how, covers, refused=refused, after=tuple(after)
        )


def _rows(connection: BaseDatabaseWrapper, pair: Pair) -> list[Row]:
    return fetch_all(
        connection,
        sql.SQL("""
            WITH RECURSIVE reader (oid, rule, direct) AS (
                SELECT r.ev_class, r.oid, true
                  FROM pg_catalog.pg_depend d
                  JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
                  JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN'
                 WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
                   AND d.refclassid = 'pg_catalog.pg_class'::regclass
                UNION
                SELECT r.ev_class, r.oid, false
                  FROM reader
                  JOIN pg_catalog.pg_depend d
                    ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = reader.oid
                   AND d.classid = 'pg_catalog.pg_rewrite'::regclass
                  JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN'
                 WHERE r.ev_class <> reader.oid)
            SELECT c.oid, r.rule, n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner),
                   r.direct,
                   ARRAY(SELECT DISTINCT col.name FROM pg_catalog.pg_depend d
                           JOIN {columns} ON col.relation = d.refobjid
                                         AND col.number = d.refobjsubid
                          WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
                            AND d.refclassid = 'pg_catalog.pg_class'::regclass
                            AND d.objid = r.rule),
                   (SELECT string_agg(DISTINCT x.ev_class::regclass::text, ', ')
                      FROM pg_catalog.pg_depend d
                      JOIN pg_catalog.pg_rewrite x ON x.oid = d.objid
                     WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
                       AND d.refclassid = 'pg_catalog.pg_class'::regclass
                       AND d.refobjid = c.oid AND x.ev_class <> c.oid),
                   EXISTS (SELECT FROM pg_catalog.pg_attribute a
                            WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL),
                   EXISTS (SELECT FROM pg_catalog.pg_index i
                            WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
                              AND i.indpred IS NULL AND i.indexprs IS NULL)
                       AND c.relispopulated,
                   pg_catalog.pg_get_viewdef(c.oid), m.amname, s.spcname,
                   coalesce(c.reloptions, '{{}}'), pg_catalog.obj_description(c.oid, 'pg_class')
              FROM (SELECT oid, rule, bool_or(direct) AS direct FROM reader
                     GROUP BY oid, rule) AS r
              JOIN pg_catalog.pg_class c ON c.oid = r.oid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
              LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
             WHERE c.relkind = 'm' ORDER BY c.oid""").format(columns=COLUMNS),
        [*pair.columns, *pair.columns],
    )


def _refresh(row: Row) -> Iterator[Step]:
    schema, name, concurrently = row[2], row[3], row[9]
    yield Step(
        f"Refresh {schema}.{name}",
        sql.SQL("REFRESH MATERIALIZED VIEW {}{}").format(
            sql.SQL("CONCURRENTLY " if concurrently else ""), sql.Identifier(schema, name)
        ),
        Lock.NONE,
    )


def _replace(connection: BaseDatabaseWrapper, row: Row) -> Iterator[Step]:
    oid, _, schema, name, owner, *_ = row
    text, method, tablespace, options, note = row[10:]
    shown, old, twin = f"{schema}.{name}", sql.Identifier(schema, name), name_of(name, "renewed")
    new = sql.Identifier(schema, twin)
    yield Step(
        f"Clear away what an interrupted run has left of {shown}",
        sql.SQL("DROP MATERIALIZED VIEW IF EXISTS {}").format(new),
        Lock.NONE,
    )
    yield Step(
        f"Build {shown} anew, beside the old one",
        sql.SQL("CREATE MATERIALIZED VIEW {} USING {}{}{} AS\n{}").format(
            new,
            sql.Identifier(method),
            with_options(options),
            sql.SQL(" TABLESPACE {}").format(sql.Identifier(tablespace))
            if tablespace
            else sql.SQL(""),
            sql.SQL(text.rstrip().removesuffix(";")),
        ),
        Lock.NONE,
    )
    last: list[sql.Composable] = [
        sql.SQL("DROP MATERIALIZED VIEW {}").format(old),
        sql.SQL("ALTER MATERIALIZED VIEW {} RENAME TO {}").format(new, sql.Identifier(name)),
    ]
    for index, definition, clustered, index_note in _indexes(connection, oid):
        renewed = name_of(index, "renewed")
        yield Step(
            f"Build the index {index} of {shown} anew",
            sql.SQL(definition[0]) + sql.Identifier(renewed) + sql.SQL(" ON ") + new
            + sql.SQL(definition[1]),
            Lock.NONE,
        )  # fmt: skip
        last.append(
            sql.SQL("ALTER INDEX {} RENAME TO {}").format(
                sql.Identifier(schema, renewed), sql.Identifier(index)
            )
        )
        if clustered:
            last.append(
                sql.SQL("ALTER MATERIALIZED VIEW {} CLUSTER ON {}").format(
                    old, sql.Identifier(index)
                )
            )
        last += [
            step.statement
            for step in comment(
                index, sql.SQL("INDEX {}").format(sql.Identifier(schema, index)), index_note
            )
        ]
    last.append(
        sql.SQL("ALTER MATERIALIZED VIEW {} OWNER TO {}").format(old, sql.Identifier(owner))
    )
    last += _grants(connection, oid, owner, old)
    last += [
        step.statement for step in comment(shown, sql.SQL("MATERIALIZED VIEW {}").format(old), note)
    ]
    yield Step(
        f"Let it take the place of {shown}",
        # One string is one transaction.
        sql.SQL(";\n").join(last),
        Lock.NONE,
    )


def _indexes(
    connection: BaseDatabaseWrapper, oid: int
) -> Iterator[tuple[str, tuple[str, str], bool, str | None]]:
    """The indexes of a materialized view: the name, and the definition before and after it."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT c.relname, i.indisunique, pg_catalog.pg_get_indexdef(c.oid),
                   pg_catalog.quote_ident(c.relname), pg_catalog.quote_ident(n.nspname),
                   pg_catalog.quote_ident(r.relname), i.indisclustered,
                   pg_catalog.obj_description(c.oid, 'pg_class')
              FROM pg_catalog.pg_index i
              JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
              JOIN pg_catalog.pg_class r ON r.oid = i.indrelid
              JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
             WHERE i.indrelid = %s ORDER BY c.relname"""),
        [oid],
    )
    for name, unique, text, quoted, schema, table, clustered, note in rows:
        start = f"CREATE {'UNIQUE ' if unique else ''}INDEX "
        prefix = f"{start}{quoted} ON {schema}.{table}"
        assert text.startswith(prefix), "pg_get_indexdef has changed its form"
        yield name, (start, text[len(prefix) :]), clustered, note


def _grants(
    connection: BaseDatabaseWrapper, oid: int, owner: str, view: sql.Identifier
) -> Iterator[sql.Composable]:
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT CASE WHEN x.grantee <> 0 THEN pg_catalog.pg_get_userbyid(x.grantee) END,
                   x.privilege_type, x.is_grantable
              FROM pg_catalog.pg_class c
             CROSS JOIN pg_catalog.aclexplode(c.relacl) AS x
             WHERE c.oid = %s AND x.grantee <> c.relowner"""),
        [oid],
    )
    for grantee, privilege, grantable in rows:
        yield sql.SQL("GRANT {} ON {} TO {}{}").format(
            sql.SQL(privilege),
            view,
            sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee),
            sql.SQL(" WITH GRANT OPTION" if grantable else ""),
        )
