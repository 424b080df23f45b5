"""The books are balanced: the clients' answers and deeds, against the table.

Everything is compared inside the scratch database, so no value leaves the server: only numbers do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from django.db import models
from psycopg import sql

from migrations_playbook.postgres.names import column_of
from migrations_playbook.rehearsal.traffic.witness import Exchange
from migrations_playbook.replacement import Replacement

# A book's entries, each with whether the columns were swapped when it was made; null when that
# was in the very moment of an exchange.
DATED = """(
    SELECT *, CASE WHEN before = during THEN before % 2 = 1 END AS swapped
      FROM (SELECT *, (SELECT count(*) FROM rehearsal.exchange WHERE ended <= asked) AS before,
                   (SELECT count(*) FROM rehearsal.exchange WHERE began <= answered) AS during
              FROM rehearsal.{}) AS counted)"""


@dataclass(frozen=True)
class AuditedColumns:
    """The table and the columns to compare, as PostgreSQL knows them.

    Arguments:
        stamp: the column that the clients write, or None.
    """

    table: sql.Identifier
    key: str
    live: str
    shadow: str
    stamp: str | None

    @classmethod
    def read(
        cls, replacement: Replacement, model: type[models.Model], stamp: str | None
    ) -> AuditedColumns:
        """Read the names from a model.

        Arguments:
            replacement: the rehearsed replacement.
            model: release N's model.
            stamp: the field that the clients write, or None.
        """
        return cls(
            table=replacement.identifier,
            key=replacement.key[0],
            live=replacement.live,
            shadow=replacement.shadow,
            stamp=None if stamp is None else column_of(model, stamp),
        )


class Audit:
    """The books, and the questions that they answer.

    A value told to a client while the columns are swapped must be in the new column at the end, and
    a value told otherwise in the old column: through a revert and a second swap. A value told in
    the very moment of an exchange may be in either. A row made while they are swapped keeps its
    value to the end.

    A lookup by a value exchanged since misses, rightly: such is the purpose of a rotation. Any
    other miss is a violation.

    Arguments:
        connection: of the scratch database, in autocommit.
        columns: the columns to compare.
    """

    def __init__(self, connection: psycopg.Connection[Any], columns: AuditedColumns) -> None:
        self.connection = connection
        self.columns = columns
        self._told_otherwise = 0
        self._changed = 0
        self._parts = {
            "table": columns.table,
            "key": sql.Identifier(columns.key),
            "live": sql.Identifier(columns.live),
            "shadow": sql.Identifier(columns.shadow),
            "stamp": sql.Identifier(columns.stamp) if columns.stamp else sql.NULL,
            "told": sql.SQL(DATED).format(sql.Identifier("told")),
            "created": sql.SQL(DATED).format(sql.Identifier("created")),
        }

    def open(self) -> int:
        """Open the books, and copy the leaked values; return the number of rows."""
        self._run("CREATE SCHEMA rehearsal")
        for columns in (
            "told (key text, value text, asked float8, answered float8)",
            "missed (key text, told float8, answered float8)",
            "created (key text, asked float8, answered float8)",
            "exchange (began float8, ended float8)",
        ):
            self._run("CREATE UNLOGGED TABLE rehearsal." + columns)
        self._run("""
            CREATE UNLOGGED TABLE rehearsal.leaked AS
            SELECT {key} AS key, {live} AS value FROM {table}""")
        self._run("""
            CREATE UNLOGGED TABLE rehearsal.wrote AS
            SELECT {key}::text AS key, {stamp} AS stamp FROM {table} WITH NO DATA""")
        self._run("ANALYZE rehearsal.leaked")
        return self._count("SELECT count(*) FROM rehearsal.leaked")

    def enter_exchanges(self, exchanges: Iterable[Exchange]) -> None:
        """Enter when the columns were exchanged."""
        for each in exchanges:
            self.connection.execute(
                "INSERT INTO rehearsal.exchange VALUES (%s, %s)", [each.began, each.ended]
            )

    def balance(self, *, rotated: bool) -> None:
        """Compare the values told so far with the table, and strike them out.

        A value of a missing (or dropped) column cannot be compared: so balance once before the
        contract.

        Arguments:
            rotated: whether the live column is the new column now.
        """
        self._add_leaked()
        self._changed += self._count("""
            SELECT count(*) FROM (
                SELECT key FROM {told} AS told
                 WHERE key IN (SELECT key FROM {created} AS created WHERE swapped)
                 GROUP BY key HAVING count(DISTINCT value) > 1) AS changed""")
        new, old = ("live", "shadow") if rotated else ("shadow", "live")
        there = {new, old} if self._has_shadow() else {"live"}
        for when, columns in (
            (sql.SQL("swapped"), {new}),
            (sql.SQL("NOT swapped"), {old}),
            (sql.SQL("swapped IS NULL"), {new, old}),
        ):
            if columns <= there:
                self._told_otherwise += self._count_otherwise(when, columns)
        self._run("TRUNCATE rehearsal.told")

    def _add_leaked(self) -> None:
        """Add the values told before the first exchange: they have leaked with the rest."""
        self._run("""
            INSERT INTO rehearsal.leaked
            SELECT DISTINCT l.key, l.value FROM rehearsal.told AS t
              CROSS JOIN LATERAL jsonb_populate_record(
                  NULL::rehearsal.leaked, jsonb_build_object('key', t.key, 'value', t.value)) AS l
             WHERE t.answered < (SELECT min(began) FROM rehearsal.exchange)""")

    def _count_otherwise(self, when: sql.SQL, columns: set[str]) -> int:
        """Count the values told at such a time that are in none of these columns."""
        found = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {key}::text, {}::text FROM {table}").format(
                self._parts[column], key=self._parts["key"], table=self._parts["table"]
            )
            for column in sorted(columns)
        )
        return self._count(
            """
            SELECT count(*) FROM (
                SELECT key, value FROM {told} AS told WHERE {when} EXCEPT ({found})) AS told""",
            when=when,
            found=found,
        )

    def read_checks(self, *, rows: int, rotated: bool) -> dict[str, int]:
        """Count the numbers that must be zero.

        Arguments:
            rows: how many there were at the start.
            rotated: whether the live column is the new column now.
        """
        found = {
            "lost_rows": self._count("""
                SELECT count(*) FROM (
                    SELECT key::text FROM rehearsal.leaked UNION SELECT key FROM rehearsal.created
                    EXCEPT SELECT {key}::text FROM {table}) AS lost"""),
            "duplicated_rows": max(
                0, self._count("SELECT count(*) FROM {table}") - rows - self._created()
            )
            + self._count("""
                SELECT count(*) FROM (
                    SELECT FROM {table} WHERE {live} IS NOT NULL
                     GROUP BY {live} HAVING count(*) > 1) AS repeated"""),
            "told_otherwise": self._told_otherwise,
            "changed_tokens": self._changed,
            "lost_writes": self._count("""
                SELECT count(*) FROM (
                    SELECT key, stamp FROM rehearsal.wrote
                    EXCEPT SELECT {key}::text, {stamp} FROM {table}) AS lost"""),
            "unexplained_misses": self._count("""
                SELECT count(*) FROM rehearsal.missed AS m
                 WHERE NOT EXISTS (SELECT FROM rehearsal.exchange AS e
                                    WHERE e.began <= m.answered AND e.ended >= m.told)"""),
        }
        if rotated:
            found["unrotated_rows"] = self._count("""
                SELECT count(*) FROM {table} AS t JOIN rehearsal.leaked AS l
                    ON l.key = t.{key} AND l.value = t.{live}""")
            found["leaked_values"] = self._count("""
                SELECT count(*) FROM {table} AS t
                 WHERE t.{live} IN (SELECT value FROM rehearsal.leaked)""")
        return found

    def read_schema(self) -> set[str]:
        """Read the table's columns, constraints, indexes and triggers, a line each."""
        rows = self.connection.execute(
            sql.SQL("""
                WITH it AS (SELECT {}::regclass AS oid)
                SELECT format('column %s %s %s %s', a.attname,
                              format_type(a.atttypid, a.atttypmod), a.attnotnull,
                              pg_get_expr(d.adbin, d.adrelid))
                  FROM it JOIN pg_attribute a ON a.attrelid = it.oid
                  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                 WHERE a.attnum > 0 AND NOT a.attisdropped
                UNION ALL
                SELECT format('constraint %s %s', conname, pg_get_constraintdef(c.oid))
                  FROM it JOIN pg_constraint c ON c.conrelid = it.oid
                UNION ALL
                SELECT pg_get_indexdef(i.indexrelid) FROM it JOIN pg_index i ON i.indrelid = it.oid
                UNION ALL
                SELECT pg_get_triggerdef(t.oid)
                  FROM it JOIN pg_trigger t ON t.tgrelid = it.oid WHERE NOT t.tgisinternal
                """).format(self.columns.table.as_string())
        ).fetchall()
        return {row[0] for row in rows}

    def read_fingerprints(self, keys: list[str]) -> list[tuple[str, str]]:
        """Read a few rows' keys, each with a fingerprint of its live value (never the value)."""
        return self.connection.execute(
            sql.SQL("""
                SELECT {key}::text, left(encode(sha256({live}::text::bytea), 'hex'), 12)
                  FROM {table} WHERE {key}::text = ANY (%s) ORDER BY {key}""").format(
                **self._parts
            ),
            [keys],
        ).fetchall()

    def draw_keys(self, count: int) -> list[str]:
        """Draw primary keys from all over the table, in no order."""
        return [
            row[0]
            for row in self.connection.execute(
                sql.SQL("SELECT {key}::text FROM {table} ORDER BY random() LIMIT %s").format(
                    **self._parts
                ),
                [count],
            )
        ]

    def read_filled_share(self, keys: list[str]) -> float:
        """Read which share of some rows has a shadow value, from 0 to 1; 1 of no rows."""
        if not keys:
            return 1.0
        filled = self._count(
            "SELECT count(*) FROM {table} WHERE {key} IN ({keys}) AND {shadow} IS NOT NULL",
            # Literals: of no type yet, so that the key's index serves.
            keys=sql.SQL(", ").join(map(sql.Literal, keys)),
        )
        return filled / len(keys)

    def is_rotated(self) -> bool:
        """Say whether the live column is the new column: after an odd number of exchanges."""
        return bool(self._count("SELECT count(*) FROM rehearsal.exchange") % 2)

    def _created(self) -> int:
        return self._count("SELECT count(*) FROM rehearsal.created")

    def _has_shadow(self) -> bool:
        return bool(
            self._count(
                "SELECT count(*) FROM pg_attribute WHERE attrelid = {name}::regclass "
                "AND attname = {column} AND NOT attisdropped",
                name=sql.Literal(self.columns.table.as_string()),
                column=sql.Literal(self.columns.shadow),
            )
        )

    def _run(self, statement: LiteralString) -> None:
        self.connection.execute(sql.SQL(statement).format(**self._parts))

    def _count(self, query: LiteralString, **parts: sql.Composable) -> int:
        row = self.connection.execute(sql.SQL(query).format(**self._parts, **parts)).fetchone()
        assert row is not None
        return int(row[0])
