"""Values that a function has taken from the columns, and that somebody else keeps.

A materialized view of what a function returns reads no column of the table: the function does. One
with a parsed body is bound to the column, and pg_depend leads from there to its callers. A body of
text is bound to nothing, so a function counts whose text reads from the table, and names the column
or a star. An index or a generated column may be made by such a function, of any table, where the
function says that it is immutable and is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.swap.dependents.base import Dependent, DependentKind
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.pair import COLUMNS, EXPRESSION, Pair

REFUSED = "it keeps what {} has made of the {}; drop it, and create it again after the swap"

# A part of WITH RECURSIVE: everything that shows a value of either column, by catalog and oid. A
# view has its rule; `called` says that a function stands in between.
SEEN = sql.SQL("""
    seen (class, oid, rule, direct, called) AS (
        (SELECT 'pg_catalog.pg_class'::regclass::oid, r.ev_class, r.oid, col.name IS NOT NULL, false
           FROM pg_catalog.pg_depend d
           JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN'
           JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
           LEFT JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
          WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
            AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = ANY (%s)
            -- A whole row, as in to_json(t), is in the query's tree but not in pg_depend.
            AND (col.name IS NOT NULL
                 OR r.ev_action::text LIKE '%%:varattno 0 :vartype ' || t.reltype || ' %%')
         UNION
         SELECT 'pg_catalog.pg_proc'::regclass, p.oid, 0, false, true
           FROM pg_catalog.pg_proc p
           JOIN pg_catalog.pg_depend d
             ON d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_catalog.pg_class'::regclass
           JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
           LEFT JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
          WHERE d.refobjid = ANY (%s)
            AND (col.name IS NOT NULL
                 OR p.prosqlbody::text LIKE '%%:varattno 0 :vartype ' || t.reltype || ' %%')
         UNION
         SELECT 'pg_catalog.pg_proc'::regclass, p.oid, 0, false, true
           FROM pg_catalog.pg_proc p
          -- The first oid that is not PostgreSQL's own.
          WHERE p.oid >= 16384 AND p.prosqlbody IS NULL AND p.prosrc ~* ALL (%s)
            AND p.prorettype <> 'pg_catalog.trigger'::regtype)
        UNION
        SELECT next.class, next.oid, next.rule, false, seen.called OR next.rule = 0
          FROM seen CROSS JOIN LATERAL (
              SELECT 'pg_catalog.pg_class'::regclass, r.ev_class, r.oid
                FROM pg_catalog.pg_depend d
                JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN'
               WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
                 AND d.refclassid = seen.class AND d.refobjid = seen.oid
                 AND r.ev_class <> seen.oid
              UNION ALL
              -- An aggregate is a function too, and an operator stands on one.
              SELECT d.classid, d.objid, 0
                FROM pg_catalog.pg_depend d
               WHERE d.classid IN ('pg_catalog.pg_proc'::regclass,
                                   'pg_catalog.pg_operator'::regclass)
                 AND d.refclassid = seen.class AND d.refobjid = seen.oid
          ) AS next (class, oid, rule))""").format(columns=COLUMNS)


def seen_parameters(pair: Pair) -> list[Any]:
    """List the parameters of `SEEN`."""
    tables = "|".join(re.escape(each.table.name) for each in pair.relations)
    lives = "|".join(re.escape(name) for name in sorted(pair.lives))
    # A word alone may be another thing's: many a table is called "order", or "value".
    reads = rf'(?:\m(?:from|join)|,)\s*(?:only\s+)?(?:[^\s,;()]+\.)?"?(?:{tables})"?(?!\w)'
    words = [reads, rf"\m({lives})\M|\*"]
    return [*pair.columns, pair.oids, *pair.columns, pair.oids, words]


def read_stored(reading: Reading) -> Iterator[Dependent]:
    """Yield the indexes and generated columns made by a function that reads either column; by name.

    Those of any table, bound to the function and to no column of this one.
    """
    rows = fetch_all(
        reading.connection,
        sql.SQL("""
            WITH RECURSIVE {seen}
            SELECT DISTINCT CASE WHEN f.oid IS NULL THEN 'index' ELSE 'generated column' END,
                   CASE WHEN f.oid IS NULL THEN c.relname ELSE 'pg_attrdef' END,
                   coalesce(f.oid, d.objid),
                   coalesce(a.attname || ' of table ' || f.adrelid::regclass::text,
                            d.objid::regclass::text),
                   (pg_catalog.pg_identify_object(seen.class, seen.oid, 0)).identity
              FROM seen
              JOIN pg_catalog.pg_depend d
                ON d.refclassid = seen.class AND d.refobjid = seen.oid
              JOIN pg_catalog.pg_class c ON c.oid = d.classid
              LEFT JOIN pg_catalog.pg_index i
                ON d.classid = 'pg_catalog.pg_class'::regclass AND i.indexrelid = d.objid
              {expression}
              LEFT JOIN pg_catalog.pg_attribute a
                ON a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attgenerated = 's'
             WHERE seen.called AND seen.rule = 0
               AND (i.indexrelid IS NOT NULL OR a.attname IS NOT NULL)
             ORDER BY 4, 3""").format(seen=SEEN, expression=EXPRESSION),
        seen_parameters(reading.pair),
    )
    retired = reading.pair.replacement.meaning.words.retired
    for kind, catalog, oid, name, function in rows:
        covers = frozenset({(catalog, oid)})
        refused = REFUSED.format(function, retired)
        yield Dependent(kind, name, f"through {function}", covers=covers, refused=refused)


KIND = DependentKind(read_stored)
