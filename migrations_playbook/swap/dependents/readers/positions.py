"""Code that may name the columns by position: not to be found for certain, so listed.

`SELECT * INTO a, b`, `INSERT INTO t VALUES (...)`, a history trigger's `INSERT ... SELECT OLD.*`:
the text of a function is nobody's business but its own until it runs. After the exchange the two
columns stand in each other's places. Functions that take or return the row, the table's triggers,
and columns that keep whole rows are named, for a person to look at.

Where the exchange changes the type, a function may declare the type of before, or `%TYPE`, which a
session that has run the function keeps to its end. So those whose text names the column are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.quarantine.base import FIRST
from migrations_playbook.swap.dependents.base import Dependent, DependentKind
from migrations_playbook.swap.dependents.definitions.reading import Reading

HOW = "perhaps by position, look yourself"
OF_THE_TYPE = "its text names the column; look whether it declares the type"


def read_positions(reading: Reading) -> Iterator[Dependent]:
    """Yield the functions over the table's row type, and the functions of its triggers; by name.

    Functions whose body is parsed are bound by number, and a kind of their own.
    """
    pair = reading.pair
    rows = fetch_all(
        reading.connection,
        sql.SQL("""
            WITH relation AS (
                SELECT c.oid, c.reltype FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s))
            SELECT DISTINCT p.oid::regprocedure::text
              FROM pg_catalog.pg_proc p
             WHERE p.prosqlbody IS NULL
               AND p.oid IN (
                    SELECT d.objid FROM pg_catalog.pg_depend d
                      JOIN relation ON d.refobjid = relation.reltype
                     WHERE d.classid = 'pg_catalog.pg_proc'::regclass
                       AND d.refclassid = 'pg_catalog.pg_type'::regclass
                    UNION
                    SELECT t.tgfoid FROM pg_catalog.pg_trigger t
                      JOIN relation ON t.tgrelid = relation.oid
                     WHERE NOT t.tgisinternal AND t.tgname <> ALL (%s)
                       AND NOT starts_with(ltrim(t.tgname, '~'), %s))
             ORDER BY 1"""),
        [pair.oids, list(pair.replacement.trigger_names), FIRST],
    )
    for (name,) in rows:
        yield Dependent("function", name, HOW)
    yield from _read_kept_rows(reading)
    if pair.changes_type:
        yield from _read_texts(reading, {name for (name,) in rows})


def _read_kept_rows(reading: Reading) -> Iterator[Dependent]:
    """Yield the columns of any table that keep whole rows, by the row's type; by name.

    A kept row has its values by position: the two names change places over it as well.
    """
    rows = fetch_all(
        reading.connection,
        sql.SQL("""
            WITH RECURSIVE kin (oid) AS (
                SELECT c.reltype FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s)
                UNION
                -- An array of it, a domain over it, a composite type with it.
                SELECT t.oid
                  FROM kin
                  JOIN pg_catalog.pg_type t
                    ON t.typelem = kin.oid OR t.typbasetype = kin.oid
                    OR t.typtype = 'c'
                       AND EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                    WHERE a.attrelid = t.typrelid AND a.atttypid = kin.oid))
            SELECT a.attname || ' of table ' || c.oid::regclass::text
              FROM kin
              JOIN pg_catalog.pg_attribute a ON a.atttypid = kin.oid AND NOT a.attisdropped
              JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'm')
             WHERE NOT pg_catalog.pg_is_other_temp_schema(c.relnamespace)
             ORDER BY 1"""),
        [reading.pair.oids],
    )
    for (name,) in rows:
        yield Dependent("column", name, HOW)


def _read_texts(reading: Reading, seen: set[str]) -> Iterator[Dependent]:
    """Yield the functions whose text names both the table and the live column; by name."""
    pair = reading.pair
    words = [rf"\m{re.escape(name)}\M" for name in (pair.table.name, pair.replacement.live)]
    rows = fetch_all(
        reading.connection,
        sql.SQL("""
            SELECT p.oid::regprocedure::text
              FROM pg_catalog.pg_proc p
             WHERE p.oid >= 16384 AND p.prosqlbody IS NULL AND p.prosrc ~* ALL (%s)
               AND p.oid NOT IN (SELECT t.tgfoid FROM pg_catalog.pg_trigger t
                                  WHERE t.tgname = ANY (%s))
             ORDER BY 1"""),
        [words, list(pair.replacement.trigger_names)],
    )
    for (name,) in rows:
        if name not in seen:
            yield Dependent("function", name, OF_THE_TYPE)


KIND = DependentKind(read_positions)
