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
# Lines with the names that they are about, and the types of columns.
DEFINITIONS = """
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
     WHERE NOT t.tgisinternal"""


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

    def loosen(self, retyped: frozenset[str]) -> tuple[str, str]:
        """Build what an exchange must keep: of columns of another type all but its words."""
        line = WORDS_OF_A_TYPE.sub("", self.line) if self.names & retyped else self.line
        return line, self.kind


@dataclass(frozen=True)
class Schema:
    """The definitions of a table.

    Arguments:
        definitions: all of them.
        pair: the names of the live and of the shadow column.
    """

    definitions: frozenset[Definition] = frozenset()
    pair: tuple[str, str] = ("", "")

    @property
    def kinds(self) -> dict[str, str]:
        """The types of the two columns, as far as they are there."""
        return {
            name: each.kind
            for each in self.definitions
            for name in each.names.intersection(self.pair)
            if each.kind
        }

    @property
    def retyped(self) -> frozenset[str]:
        """The two columns, where an exchange gives them another type."""
        return frozenset(self.pair) if len(set(self.kinds.values())) > 1 else frozenset()

    def exchange(self) -> Schema:
        """Build what an exchange must leave: each of the two columns has the other's type."""
        kinds = self.kinds
        others = dict(zip(self.pair, (kinds[name] for name in reversed(self.pair)), strict=True))
        return replace(
            self,
            definitions=frozenset(
                replace(each, kind=others.get(min(each.names), each.kind)) if each.kind else each
                for each in self.definitions
            ),
        )

    def without(self, names: Iterable[str]) -> Schema:
        """Build what is left once columns and triggers of these names are dropped."""
        gone = set(names)
        return replace(
            self, definitions=frozenset(each for each in self.definitions if not each.names & gone)
        )

    def find_missing(self, found: Schema, retyped: frozenset[str] = frozenset()) -> set[str]:
        """Find the definitions that another schema lacks, a line each.

        Arguments:
            found: the other schema.
            retyped: the columns of which the words of their type do not count.
        """
        there = {each.loosen(retyped) for each in found.definitions}
        return {
            str(each)
            for each in self.definitions
            if each.loosen(retyped) not in there
            and not (each.names & retyped and FOR_LIKE.search(each.line))
        }

    def find_differences(self, found: Schema, retyped: frozenset[str]) -> set[str]:
        """Find the definitions that either schema lacks, a line each; see `find_missing`."""
        return self.find_missing(found, retyped) | found.find_missing(self, retyped)


def read_schema(
    connection: psycopg.Connection[Any], table: sql.Identifier, pair: tuple[str, str]
) -> Schema:
    """Read the table's columns, constraints, indexes and triggers.

    Lock: none that conflicts with anything.

    Arguments:
        pair: the names of the live and of the shadow column.
    """
    rows = connection.execute(sql.SQL(DEFINITIONS).format(table.as_string())).fetchall()
    definitions = (Definition(line, frozenset(names), kind) for line, names, kind in rows)
    return Schema(frozenset(definitions), pair)
