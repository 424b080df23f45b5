"""What else is bound by attribute number and can be said again: policies, extended statistics,
publications' column lists and row filters, and functions with a parsed body.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import Row, fetch_all
from migrations_playbook.postgres.roles import current_role, not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import Dependent, comment, how_bound
from migrations_playbook.swap.dependents.views import lock
from migrations_playbook.swap.pair import COLUMNS, Pair

# A rename does not replicate: see docs/dependents.md.
SUBSCRIBERS = "its subscribers keep what they have"

# The objects of one catalog that are bound to either column, of the table or of a partition.
BOUND = """
      JOIN (SELECT d.objid, array_agg(DISTINCT col.name) AS names
              FROM pg_catalog.pg_depend d
              JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
             WHERE d.classid = {catalog}::regclass
               AND d.refclassid = 'pg_catalog.pg_class'::regclass
             GROUP BY d.objid) AS bound ON bound.objid = o.oid"""


def _rows(connection: BaseDatabaseWrapper, pair: Pair, catalog: str, query: str) -> list[Row]:
    return fetch_all(
        connection,
        sql.SQL(query).format(
            bound=sql.SQL(BOUND).format(
                catalog=sql.Literal(f"pg_catalog.{catalog}"), columns=COLUMNS
            )
        ),
        pair.columns,
    )


def policies(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """Row-security policies, of this table and of others that look at it; by name.

    ALTER POLICY keeps the command, the roles and the comment.

    Lock: ACCESS EXCLUSIVE on the policy's table.
    """
    for oid, name, relation, schema, table, owner, using, check, names in _rows(
        connection,
        pair,
        "pg_policy",
        """
        SELECT o.oid, o.polname, c.oid, n.nspname, c.relname,
               pg_catalog.pg_get_userbyid(c.relowner),
               pg_catalog.pg_get_expr(o.polqual, o.polrelid),
               pg_catalog.pg_get_expr(o.polwithcheck, o.polrelid), bound.names
          FROM pg_catalog.pg_policy o
          JOIN pg_catalog.pg_class c ON c.oid = o.polrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace {bound}
         ORDER BY o.polname, c.relname""",
    ):
        on = sql.Identifier(schema, table)
        shown = f"{schema}.{table}"
        label = f"{name} on {shown}"
        parts = [
            sql.SQL("{} ({})").format(sql.SQL(clause), sql.SQL(expression))
            for clause, expression in (("USING", using), ("WITH CHECK", check))
            if expression is not None
        ]
        yield Dependent(
            "policy",
            label,
            how_bound(pair, names),
            frozenset({("pg_policy", oid)}),
            refused=not_owned(connection, "table", shown, owner),
            lock_first=(lock(shown, on, "r", owner),) if relation not in pair.oids else (),
            give=(
                Step(
                    f"Let the policy {label} look at the new columns",
                    sql.SQL("ALTER POLICY {} ON {} {}").format(
                        sql.Identifier(name), on, sql.SQL(" ").join(parts)
                    ),
                    Lock.ACCESS_EXCLUSIVE,
                ),
            ),
        )


def statistics(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """Extended statistics; by name. They are empty until the ANALYZE that follows.

    Lock: SHARE UPDATE EXCLUSIVE on the table.
    """
    for oid, on_schema, on_table, schema, name, owner, definition, target, note, names in _rows(
        connection,
        pair,
        "pg_statistic_ext",
        """
        SELECT o.oid, m.nspname, c.relname, n.nspname, o.stxname,
               pg_catalog.pg_get_userbyid(o.stxowner),
               pg_catalog.pg_get_statisticsobjdef(o.oid), o.stxstattarget,
               pg_catalog.obj_description(o.oid, 'pg_statistic_ext'), bound.names
          FROM pg_catalog.pg_statistic_ext o
          JOIN pg_catalog.pg_class c ON c.oid = o.stxrelid
          JOIN pg_catalog.pg_namespace m ON m.oid = c.relnamespace
          JOIN pg_catalog.pg_namespace n ON n.oid = o.stxnamespace {bound}
         ORDER BY o.stxname, n.nspname""",
    ):
        identifier = sql.Identifier(schema, name)
        label = f"{schema}.{name}"
        weak = Lock.SHARE_UPDATE_EXCLUSIVE
        give = [
            Step(f"Put the statistics {label} on the new columns", sql.SQL(definition), weak),
            Step(
                f"Keep the owner of {label}",
                sql.SQL("ALTER STATISTICS {} OWNER TO {}").format(
                    identifier, sql.Identifier(owner)
                ),
                weak,
            ),
        ]
        if target is not None and target != -1:
            give.append(
                Step(
                    f"Keep the target of {label}",
                    sql.SQL("ALTER STATISTICS {} SET STATISTICS {}").format(
                        identifier, sql.Literal(target)
                    ),
                    weak,
                )
            )
        give += comment(label, sql.SQL("STATISTICS {}").format(identifier), note)
        yield Dependent(
            "statistics",
            label,
            how_bound(pair, names),
            frozenset({("pg_statistic_ext", oid)}),
            refused=not_owned(connection, "statistics", label, owner),
            take=(
                Step(
                    f"Take the statistics {label} off the old columns",
                    sql.SQL("DROP STATISTICS {}").format(identifier),
                    weak,
                ),
            ),
            give=tuple(give),
            after=(
                Step(
                    f"Collect the statistics {label}",
                    sql.SQL("ANALYZE {}").format(sql.Identifier(on_schema, on_table)),
                    weak,
                ),
            ),
        )


def publications(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """Publications that list the columns, or filter rows by them; then those of the whole table.

    Lock: SHARE UPDATE EXCLUSIVE on the table.
    """
    listed_names = set()
    for oid, on_schema, on_table, name, owner, columns, condition, names in _rows(
        connection,
        pair,
        "pg_publication_rel",
        """
        SELECT o.oid, n.nspname, c.relname, p.pubname, pg_catalog.pg_get_userbyid(p.pubowner),
               ARRAY(SELECT a.attname
                       FROM unnest(o.prattrs) WITH ORDINALITY AS k (attnum, nth)
                       JOIN pg_catalog.pg_attribute a
                         ON a.attrelid = o.prrelid AND a.attnum = k.attnum ORDER BY k.nth),
               pg_catalog.pg_get_expr(o.prqual, o.prrelid), bound.names
          FROM pg_catalog.pg_publication_rel o
          JOIN pg_catalog.pg_publication p ON p.oid = o.prpubid
          JOIN pg_catalog.pg_class c ON c.oid = o.prrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace {bound}
         ORDER BY p.pubname, o.prrelid""",
    ):
        listed_names.add(name)
        publication, table = sql.Identifier(name), sql.Identifier(on_schema, on_table)
        listed = (
            sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns)))
            if columns
            else sql.SQL("")
        )
        where = (
            sql.SQL(" WHERE ({})").format(sql.SQL(condition))
            if condition is not None
            else sql.SQL("")
        )
        yield Dependent(
            "publication",
            name,
            f"{how_bound(pair, names)}; {SUBSCRIBERS}",
            frozenset({("pg_publication_rel", oid)}),
            refused=not_owned(connection, "publication", name, owner),
            take=(
                Step(
                    f"Take the table out of the publication {name}",
                    sql.SQL("ALTER PUBLICATION {} DROP TABLE ONLY {}").format(publication, table),
                    Lock.SHARE_UPDATE_EXCLUSIVE,
                ),
            ),
            give=(
                Step(
                    f"Publish the new columns in {name}",
                    sql.SQL("ALTER PUBLICATION {} ADD TABLE ONLY {}{}{}").format(
                        publication, table, listed, where
                    ),
                    Lock.SHARE_UPDATE_EXCLUSIVE,
                ),
            ),
        )

    for (name,) in fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT p.pubname
              FROM pg_catalog.pg_publication_tables p
              JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
              JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
             WHERE c.oid = ANY (%s) ORDER BY p.pubname"""),
        [pair.oids],
    ):
        if name not in listed_names:
            yield Dependent(
                "publication", name, f"with the whole table; {SUBSCRIBERS}", moves=False
            )


def functions(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """Functions whose body is parsed (BEGIN ATOMIC); a body that is text goes by names anyhow.

    CREATE OR REPLACE keeps the owner, the privileges and the comment.

    Lock: none on a table.
    """
    for oid, label, owner, may_create, definition, names in _rows(
        connection,
        pair,
        "pg_proc",
        """
        SELECT o.oid, o.oid::regprocedure::text, pg_catalog.pg_get_userbyid(o.proowner),
               pg_catalog.has_schema_privilege(o.pronamespace, 'CREATE'),
               pg_catalog.pg_get_functiondef(o.oid), bound.names
          FROM pg_catalog.pg_proc o {bound}
         ORDER BY 2""",
    ):
        refused = not_owned(connection, "function", label, owner)
        if refused is None and not may_create:
            refused = (
                "to replace it takes the right to create in its schema: GRANT CREATE ON SCHEMA "
                f"to {current_role(connection)}"
            )
        yield Dependent(
            "function",
            label,
            how_bound(pair, names),
            frozenset({("pg_proc", oid)}),
            refused=refused,
            give=(
                Step(
                    f"Let the function {label} read the new columns",
                    sql.SQL(definition.rstrip()),
                    Lock.NONE,
                ),
            ),
        )
