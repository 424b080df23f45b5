"""The table's definition: what an exchange and the contract must leave of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

# What PostgreSQL writes otherwise of another type: casts, and the parentheses around them.
WORDS_OF_A_TYPE = re.compile(
    r"::(character varying|double precision|time(stamp)? with(out)? time zone|\w+)(\(\d+\))?|[()\s]"
)
# Django's second index of a text, for LIKE, which not every type has.
FOR_LIKE = re.compile(r"\w+_pattern_ops\b")


@dataclass(frozen=True)
class Definition:
    """A definition in the catalog: a column, a constraint, an index or a trigger.

    Arguments:
        line: as PostgreSQL writes it; of a column without its type.
        names: the columns that it is about; of a trigger its own name, too.
        kind: a column's type, with its collation; empty for anything else.
    """

    line: str
    names: frozenset[str]
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.line} {self.kind}".rstrip()


@dataclass(frozen=True)
class Schema:
    """The definitions of a table.

    Arguments:
        definitions: all of them.
        retyped: the two columns, where an exchange gives them each other's type.
    """

    definitions: frozenset[Definition] = frozenset()
    retyped: frozenset[str] = frozenset()

    def exchange(self, *columns: str) -> Schema:
        """Build what an exchange must leave: each of two columns has the other's type."""
        kinds = [each.kind for name in columns for each in self._find_column(name)]
        others = dict(zip(columns, reversed(kinds), strict=True))
        return Schema(
            frozenset(
                replace(each, kind=others[name])
                if each.kind and (name := next(iter(each.names))) in others
                else each
                for each in self.definitions
            ),
            frozenset(columns) if len(set(kinds)) > 1 else frozenset(),
        )

    def without(self, names: Iterable[str]) -> Schema:
        """Build what is left once columns and triggers of these names are dropped."""
        gone = set(names)
        return replace(
            self, definitions=frozenset(each for each in self.definitions if not each.names & gone)
        )

    def find_missing(self, found: Schema) -> set[str]:
        """Find the definitions that another schema lacks, a line each."""
        there = {self._loosen(each) for each in found.definitions}
        return {
            str(each)
            for each in self.definitions
            if self._loosen(each) not in there and not self._follows_the_type(each)
        }

    def find_differences(self, found: Schema) -> set[str]:
        """Find the definitions that either schema lacks, a line each."""
        return self.find_missing(found) | replace(found, retyped=self.retyped).find_missing(self)

    def _find_column(self, name: str) -> Iterable[Definition]:
        return (each for each in self.definitions if each.kind and each.names == {name})

    def _loosen(self, each: Definition) -> tuple[str, str]:
        """Build what two schemas have in common; of a column of another type without its words."""
        if each.names & self.retyped:
            return WORDS_OF_A_TYPE.sub("", each.line), each.kind
        return each.line, each.kind

    def _follows_the_type(self, each: Definition) -> bool:
        return bool(each.names & self.retyped and FOR_LIKE.search(each.line))


def read_schema(connection: psycopg.Connection[Any], table: sql.Identifier) -> Schema:
    """Read the table's columns, constraints, indexes and triggers.

    Lock: none that conflicts with anything.
    """
    rows = connection.execute(
        sql.SQL("""
            WITH it AS (SELECT {}::regclass AS oid),
            named AS (
                SELECT d.classid, d.objid, array_agg(a.attname::text) AS columns
                  FROM it JOIN pg_depend d ON d.refobjid = it.oid
                  JOIN pg_attribute a ON a.attrelid = it.oid AND a.attnum = d.refobjsubid
                 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
                 GROUP BY d.classid, d.objid)
            SELECT format('column %s %s %s', a.attname, a.attnotnull,
                          pg_get_expr(d.adbin, d.adrelid)), ARRAY[a.attname::text],
                   format_type(a.atttypid, a.atttypmod)
                   || CASE WHEN a.attcollation <> t.typcollation
                           THEN format(' COLLATE %s', a.attcollation::regcollation) ELSE '' END
              FROM it JOIN pg_attribute a ON a.attrelid = it.oid
              JOIN pg_type t ON t.oid = a.atttypid
              LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             WHERE a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT format('constraint %s %s', conname, pg_get_constraintdef(c.oid)),
                   ARRAY(SELECT attname::text FROM pg_attribute
                          WHERE attrelid = it.oid AND attnum = ANY (c.conkey)), ''
              FROM it JOIN pg_constraint c ON c.conrelid = it.oid
            UNION ALL
            SELECT pg_get_indexdef(i.indexrelid),
                   ARRAY(SELECT attname::text FROM pg_attribute
                          WHERE attrelid = it.oid AND attnum = ANY (i.indkey)) || named.columns, ''
              FROM it JOIN pg_index i ON i.indrelid = it.oid
              LEFT JOIN named
                ON named.classid = 'pg_class'::regclass AND named.objid = i.indexrelid
            UNION ALL
            SELECT pg_get_triggerdef(t.oid), ARRAY[t.tgname::text] || named.columns, ''
              FROM it JOIN pg_trigger t ON t.tgrelid = it.oid
              LEFT JOIN named ON named.classid = 'pg_trigger'::regclass AND named.objid = t.oid
             WHERE NOT t.tgisinternal
            """).format(table.as_string())
    ).fetchall()
    return Schema(frozenset(Definition(line, frozenset(names), kind) for line, names, kind in rows))
