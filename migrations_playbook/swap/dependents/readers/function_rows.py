"""Readers of rows that a function returns: PostgreSQL 14 binds them to no column of these.

`SELECT token FROM all_of()`, where the function returns rows of the table, has the column by number
and would stay with the leaked values. Since PostgreSQL 15 pg_depend binds such a view to the
column, and the view is carried over as any other.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.query import fetch_all, server_version
from migrations_playbook.swap.dependents.base import Dependent, DependentKind
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.pair import COLUMNS

BOUND_SINCE = 150000
REFUSED = (
    "PostgreSQL 14 does not bind it to the column, and it would stay with the {}; drop it, and "
    "create it again after the swap"
)


def read_function_rows(reading: Reading) -> Iterator[Dependent]:
    """Yield the views, rules, policies and functions that read a column of such rows; by name.

    Any of the query's relations may have a column of that number, so a reader of the other columns
    may be refused with them.
    """
    if server_version(reading.connection) >= BOUND_SINCE:
        return
    rows = fetch_all(
        reading.connection,
        sql.SQL("""
            WITH reader (kind, catalog, oid, name, tree) AS (
                SELECT CASE r.rulename WHEN '_RETURN' THEN 'view' ELSE 'rule' END, 'pg_rewrite',
                       r.oid, r.ev_class::regclass::text, r.ev_action::text
                  FROM pg_catalog.pg_rewrite r
                UNION ALL
                SELECT 'function', 'pg_proc', p.oid, p.oid::regprocedure::text, p.prosqlbody::text
                  FROM pg_catalog.pg_proc p
                UNION ALL
                SELECT 'policy', 'pg_policy', o.oid,
                       concat(o.polname, ' on ', o.polrelid::regclass),
                       concat(o.polqual::text, o.polwithcheck::text)
                  FROM pg_catalog.pg_policy o)
            SELECT kind, catalog, reader.oid, reader.name
              FROM reader
             -- The first oid that is not PostgreSQL's own.
             WHERE reader.oid >= 16384
               AND EXISTS (
                   SELECT FROM {columns}
                     JOIN pg_catalog.pg_class c ON c.oid = col.relation
                    WHERE position(concat(':funcresulttype ', c.reltype, ' ') IN tree) > 0
                      AND position(concat(':varattno ', col.number, ' ') IN tree) > 0)
             ORDER BY 4, 3""").format(columns=COLUMNS),
        reading.pair.columns,
    )
    refused = REFUSED.format(reading.pair.replacement.meaning.words.retired)
    for kind, catalog, oid, name in rows:
        covers = frozenset({(catalog, oid)})
        yield Dependent(kind, name, "through a function's rows", covers=covers, refused=refused)


KIND = DependentKind(read_function_rows)
