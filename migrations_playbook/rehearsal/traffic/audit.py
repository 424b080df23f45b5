"""The books are balanced: the clients' answers and deeds, against the table.

Everything is compared inside the scratch database, so no value leaves the server: only numbers do.
What the books must say of the two columns depends on the meaning of the shadow: see `plots`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from django.db import models
from psycopg import sql

from migrations_playbook.postgres.names import column_of
from migrations_playbook.rehearsal.plots.base import Plot
from migrations_playbook.rehearsal.traffic.witness import Exchange
from migrations_playbook.replacement import Replacement

# The books, each with its entries' columns. The key of a row is a text; a time is of the machine's
# monotonic clock, in seconds; the role says which of the two fields a value is of.
BOOKS = {
    "told": "key text, role text, value text, asked float8, answered float8",
    "missed": "key text, told float8, answered float8",
    "created": "key text, asked float8, answered float8",
    # Values written; a stale one is of an object that was loaded a while ago, and saved unchanged.
    "written": "key text, role text, value text, stale boolean, asked float8, answered float8",
    "exchange": "began float8, ended float8",
}
# The books whose entries are asked whether the columns were swapped at that time; null for an entry
# that was made in the very moment of an exchange.
DATED = ("told", "created", "written")


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

    A lookup by a value exchanged since may miss. Any other miss is a violation.

    Arguments:
        connection: of the scratch database, in autocommit.
        columns: the columns to compare.
        plot: what the books must say of the two columns.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], columns: AuditedColumns, plot: Plot
    ) -> None:
        self.connection = connection
        self.columns = columns
        # When the backfill was done, in seconds of the monotonic clock.
        self.filled = float("inf")
        self._plot = plot
        self._found: Counter[str] = Counter()
        self.parts: dict[str, sql.Composable] = {
            "table": columns.table,
            "key": sql.Identifier(columns.key),
            "live": sql.Identifier(columns.live),
            "shadow": sql.Identifier(columns.shadow),
            "stamp": sql.Identifier(columns.stamp) if columns.stamp else sql.NULL,
        }

    def open(self) -> int:
        """Open the books, and copy the live values; return the number of rows."""
        self.run("CREATE SCHEMA rehearsal")
        for name, columns in BOOKS.items():
            self.run(
                "CREATE UNLOGGED TABLE rehearsal.{name} ({columns})",
                name=sql.Identifier(name),
                columns=sql.SQL(columns),
            )
        for name in DATED:
            self.run(
                """
                CREATE VIEW rehearsal.{view} AS
                SELECT *, CASE WHEN before = during THEN before % 2 = 1 END AS swapped
                  FROM (SELECT *, (SELECT count(*) FROM rehearsal.exchange
                                    WHERE ended <= asked) AS before,
                               (SELECT count(*) FROM rehearsal.exchange
                                 WHERE began <= answered) AS during
                          FROM rehearsal.{name}) AS counted""",
                view=sql.Identifier(f"dated_{name}"),
                name=sql.Identifier(name),
            )
        self.run("""
            CREATE UNLOGGED TABLE rehearsal.opened AS
            SELECT {key} AS key, {live} AS value FROM {table}""")
        self.run("""
            CREATE UNLOGGED TABLE rehearsal.wrote AS
            SELECT {key}::text AS key, {stamp} AS stamp FROM {table} WITH NO DATA""")
        self._plot.open_books(self)
        self.run("ANALYZE rehearsal.opened")
        return self.count("SELECT count(*) FROM rehearsal.opened")

    def enter_exchanges(self, exchanges: Iterable[Exchange]) -> None:
        """Enter when the columns were exchanged."""
        for each in exchanges:
            self.connection.execute(
                "INSERT INTO rehearsal.exchange VALUES (%s, %s)", [each.began, each.ended]
            )

    def balance(self, at_work: Iterable[str] = ()) -> None:
        """Compare the books so far with the table.

        A value of a missing (or dropped) column cannot be compared: so balance once before the
        contract.

        Lock: ACCESS SHARE on the table.

        Arguments:
            at_work: the keys whose rows others write meanwhile.
        """
        # A Counter's + would leave out what is zero.
        self._found.update(self._plot.balance(self, at_work))

    def read_checks(self, *, rows: int) -> dict[str, int]:
        """Count the numbers that must be zero, once everybody has gone home.

        Lock: ACCESS SHARE on the table.

        Arguments:
            rows: how many there were at the start.
        """
        found = Counter(
            lost_rows=self.count("""
                SELECT count(*) FROM (
                    SELECT key::text FROM rehearsal.opened UNION SELECT key FROM rehearsal.created
                    EXCEPT SELECT {key}::text FROM {table}) AS lost"""),
            duplicated_rows=max(
                0,
                self.count("SELECT count(*) FROM {table}")
                - rows
                - self.count("SELECT count(*) FROM rehearsal.created"),
            ),
            lost_writes=self.count("""
                SELECT count(*) FROM (
                    SELECT key, stamp FROM rehearsal.wrote
                    EXCEPT SELECT {key}::text, {stamp} FROM {table}) AS lost"""),
            unexplained_misses=self.count("""
                SELECT count(*) FROM rehearsal.missed AS m
                 WHERE NOT EXISTS (SELECT FROM rehearsal.exchange AS e
                                    WHERE e.began <= m.answered AND e.ended >= m.told)"""),
        )
        found.update(self._found)
        found.update(self._plot.read_checks(self))
        return dict(found)

    def read_fingerprints(self, keys: list[str]) -> list[tuple[str, str]]:
        """Read a few rows' keys, each with a fingerprint of its live value (never the value)."""
        column = self.parts["live" if "live" in self.list_roles() else "shadow"]
        return self.connection.execute(
            sql.SQL("""
                SELECT {key}::text, left(encode(sha256({column}::text::bytea), 'hex'), 12)
                  FROM {table} WHERE {key}::text = ANY (%s) ORDER BY {key}""").format(
                column=column, **self.parts
            ),
            [keys],
        ).fetchall()

    def draw_keys(self, count: int) -> list[str]:
        """Draw primary keys from all over the table, in no order."""
        return [
            row[0]
            for row in self.connection.execute(
                sql.SQL("SELECT {key}::text FROM {table} ORDER BY random() LIMIT %s").format(
                    **self.parts
                ),
                [count],
            )
        ]

    def read_filled_share(self, keys: list[str]) -> float:
        """Read which share of some rows has a shadow value, from 0 to 1; 1 of no rows."""
        if not keys:
            return 1.0
        filled = self.count(
            "SELECT count(*) FROM {table} WHERE {key} IN ({keys}) AND {shadow} IS NOT NULL",
            # Literals: of no type yet, so that the key's index serves.
            keys=sql.SQL(", ").join(map(sql.Literal, keys)),
        )
        return filled / len(keys)

    def is_swapped(self) -> bool:
        """Say whether the live column is the new column: after an odd number of exchanges."""
        return bool(self.count("SELECT count(*) FROM rehearsal.exchange") % 2)

    @property
    def is_filled(self) -> bool:
        """Whether the backfill has been done."""
        return self.filled < float("inf")

    def list_roles(self) -> set[str]:
        """List which of the two columns the table has: the contract drops one."""
        return {
            role
            for role in ("live", "shadow")
            if self.count(
                "SELECT count(*) FROM pg_attribute WHERE attrelid = {name}::regclass "
                "AND attname = {column} AND NOT attisdropped",
                name=sql.Literal(self.columns.table.as_string()),
                column=sql.Literal(getattr(self.columns, role)),
            )
        }

    def run(self, statement: LiteralString, **parts: sql.Composable) -> None:
        """Run a statement that names the table and its columns by their parts."""
        self.connection.execute(sql.SQL(statement).format(**(self.parts | parts)))

    def count(self, query: LiteralString, **parts: sql.Composable) -> int:
        """Read the one number of a query, composed as in `run`."""
        return self.fetch(query, **parts)[0]

    def fetch(self, query: LiteralString, **parts: sql.Composable) -> tuple[int, ...]:
        """Read the numbers of a query, composed as in `run`."""
        composed = sql.SQL(query).format(**(self.parts | parts))
        row = self.connection.execute(composed).fetchone()
        assert row is not None
        return tuple(map(int, row))
