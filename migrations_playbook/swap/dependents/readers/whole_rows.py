"""Indexes, statistics and CHECKs over whole rows: made of the leaked values.

A whole row, as in `CREATE INDEX ON t (search(t))`, is bound to no column. Its names are looked up
when the expression runs: the content of an index or a sample of statistics stays as it was, and the
demand of a CHECK on the new values has never been proven. (A view, a policy or a trigger runs the
expression anew each time, and so reads the new values.)
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.swap.dependents.base import Dependent, DependentKind
from migrations_playbook.swap.dependents.definitions.parse_trees import WHOLE_ROW
from migrations_playbook.swap.dependents.definitions.reading import Reading

REFUSED = (
    "the exchange would leave it as it was made, of the other values; drop it, and create it again "
    "after the swap"
)


def read_whole_rows(reading: Reading) -> Iterator[Dependent]:
    """Yield the indexes, statistics and CHECKs with a whole row in an expression; by name."""
    rows = fetch_all(
        reading.connection,
        sql.SQL("""
            WITH relation (oid) AS (SELECT unnest(%s::oid[]))
            SELECT 'index', 'pg_class', i.indexrelid, c.relname
              FROM pg_catalog.pg_index i
              JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
             WHERE i.indrelid IN (SELECT oid FROM relation)
               AND position(%s IN concat(i.indexprs::text, i.indpred::text)) > 0
            UNION ALL
            SELECT 'statistics', 'pg_statistic_ext', s.oid,
                   s.stxnamespace::regnamespace::text || '.' || s.stxname
              FROM pg_catalog.pg_statistic_ext s
             WHERE s.stxrelid IN (SELECT oid FROM relation)
               AND position(%s IN s.stxexprs::text) > 0
            UNION ALL
            SELECT 'check', 'pg_constraint', k.oid, k.conname
              FROM pg_catalog.pg_constraint k
             WHERE k.conrelid IN (SELECT oid FROM relation) AND k.coninhcount = 0
               AND position(%s IN k.conbin::text) > 0
             ORDER BY 4, 3"""),
        [reading.pair.oids, *[WHOLE_ROW] * 3],
    )
    for kind, catalog, oid, name in rows:
        covers = frozenset({(catalog, oid)})
        yield Dependent(kind, name, "by the whole row", covers=covers, refused=REFUSED)


# The stamps of indexes, statistics and constraints tell.
KIND = DependentKind(read_whole_rows)
