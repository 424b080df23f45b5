"""Functions with a parsed body; a body of text goes by names anyhow."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.roles import may_not_create, not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.parse_trees import ALIAS_LIST, MERGE_ACTION
from migrations_playbook.swap.dependents.reading import Reading
from migrations_playbook.swap.dependents.views import BY_POSITION
from migrations_playbook.swap.pair import COLUMNS

FUNCTIONS = sql.SQL("""
    SELECT o.oid, o.oid::regprocedure::text, pg_catalog.pg_get_userbyid(o.proowner), n.nspname,
           pg_catalog.pg_get_functiondef(o.oid), bound.names,
           o.prosqlbody::text ~ replace(%s, '%%s', '[0-9]+')
      FROM (SELECT d.objid,
                   coalesce(array_agg(DISTINCT col.name)
                                FILTER (WHERE col.name IS NOT NULL), '{{}}') AS names
              FROM pg_catalog.pg_depend d
              LEFT JOIN {columns}
                     ON col.relation = d.refobjid AND col.number = d.refobjsubid
             WHERE d.classid = 'pg_catalog.pg_proc'::regclass
               AND d.refclassid = 'pg_catalog.pg_class'::regclass
               AND d.refobjid = ANY (%s)
             GROUP BY d.objid) AS bound
      JOIN pg_catalog.pg_proc o ON o.oid = bound.objid
      JOIN pg_catalog.pg_namespace n ON n.oid = o.pronamespace
     WHERE bound.names <> '{{}}' OR position(%s IN o.prosqlbody::text) > 0
     ORDER BY 2""")


def read_functions(reading: Reading) -> Iterator[Dependent]:
    """Yield the functions whose body is parsed (BEGIN ATOMIC); by name.

    A function with a MERGE into the table is restated whatever its columns are: pg_depend has no
    column that a MERGE writes. CREATE OR REPLACE keeps the owner, the privileges and the comment.

    Lock: none on a table.
    """
    rows = fetch_all(
        reading.connection,
        FUNCTIONS.format(columns=COLUMNS),
        [ALIAS_LIST, *reading.pair.columns, reading.pair.oids, MERGE_ACTION],
    )
    for oid, label, owner, schema, definition, names, alias in rows:
        refused = not_owned(reading.connection, "function", label, owner)
        if refused is None:
            refused = may_not_create(reading.connection, schema)
        if refused is None and alias:
            refused = BY_POSITION
        step = Step(
            f"Let the function {label} read the new columns",
            sql.SQL(definition.rstrip()),
            Lock.NONE,
        )
        yield Dependent(
            "function",
            label,
            describe_columns(reading.pair, names) if names else "by a MERGE",
            frozenset(names),
            frozenset({("pg_proc", oid)}),
            Steps(after_rename=(step,)),
            refused,
        )


KIND = DependentKind(
    read_functions,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'function', oid, xmin) FROM pg_catalog.pg_proc
         WHERE oid IN (SELECT objid FROM bound)"""),
)
