"""One worker's way through a table: which rows come next, and the statement that fills them.

It walks by block, not by key. `ctid` ranges are read in the order they lie on disk (PostgreSQL
14+), so it makes no difference whether the key is a number with gaps, a UUID or composite.
`tests.benchmarks.walk` compares the two walks, and docs/explanation-update-cost.md has the figures.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook import catalog
from migrations_playbook.catalog import Leaf, Table
from migrations_playbook.database import fetch_all, fetch_one
from migrations_playbook.shadow import BoundShadow

# One statement reads no more than this many blocks (128 MB), so that a stretch that is filled
# already neither runs into a statement_timeout nor keeps a stop waiting.
SPAN = 16_384


@dataclass(frozen=True)
class Filled:
    """What one statement did.

    Arguments:
        rows: rows filled; 0 where a stretch of the table had nothing to fill.
        nulls: rows that the value expression has left null.
        seconds: from the transaction's begin to its commit.
    """

    rows: int
    nulls: int
    seconds: float


class Walk:
    """Sweeps over the table, each from its first block to the block that was last at its start.

    Rows that come in behind that are filled by the trigger. A row that somebody has locked is
    passed over, and is there in the next sweep: a null row never moves, since to move is to be
    updated, and then the fill trigger fires.

    Arguments:
        bound: what is filled.
        found: its table.
    """

    def __init__(self, bound: BoundShadow, found: Table) -> None:
        self.bound = bound
        self.found = found
        self.application = application_name(bound)
        self._leaves: deque[Leaf] = deque()
        self._after = "(0,0)"

    def begin(self, connection: BaseDatabaseWrapper) -> None:
        """Begin a sweep."""
        self._leaves = deque(catalog.leaves(connection, self.found))
        self._after = "(0,0)"

    def fill(self, connection: BaseDatabaseWrapper, size: int) -> Filled | None:
        """Fill the next `size` unlocked null rows; None at the end of the sweep.

        Lock: ROW EXCLUSIVE on the table; FOR NO KEY UPDATE on the rows, until the commit.

        Arguments:
            connection: outside a transaction.
            size: rows, at most.
        """
        while self._leaves:
            leaf = self._leaves[0]
            block = int(self._after[1:].split(",")[0])
            if block >= leaf.blocks:
                self._leaves.popleft()
                self._after = "(0,0)"
                continue
            end = min(block + SPAN, leaf.blocks)
            began = time.monotonic()
            rows, nulls, last = self._statement(connection, leaf, f"({end},0)", size)
            # A full batch goes on behind its last row. In one that is not full, the stretch is
            # at its end: what is left in it is locked, and waits for the next sweep.
            self._after = last if rows == size and last is not None else f"({end},0)"
            return Filled(rows, nulls, time.monotonic() - began)
        return None

    def _statement(
        self, connection: BaseDatabaseWrapper, leaf: Leaf, until: str, size: int
    ) -> tuple[int, int, str | None]:
        with transaction.atomic(using=connection.alias):
            # Asynchronous commit is safe for these batches only: WAL is sequential, so the swap's
            # synchronous commit makes them durable, and a crash before that leaves nulls to fill
            # again. The name tells an administrator, and our own throttles, who this is. The
            # planner has no statistics of a column that was just added, and must not read the
            # table from its beginning for every batch.
            fetch_all(
                connection,
                sql.SQL("""
                    SELECT pg_catalog.set_config('synchronous_commit', 'off', true),
                           pg_catalog.set_config('application_name', %s, true),
                           pg_catalog.set_config('enable_seqscan', 'off', true),
                           pg_catalog.set_config('enable_indexscan', 'off', true),
                           pg_catalog.set_config('enable_bitmapscan', 'off', true),
                           pg_catalog.set_config('jit', 'off', true)"""),
                [self.application],
            )
            row = fetch_one(
                connection, batch_statement(self.bound, leaf), [self._after, until, size]
            )
        assert row is not None
        return int(row[0]), int(row[1]), row[2]


def batch_statement(bound: BoundShadow, leaf: Leaf) -> sql.Composed:
    """The statement that claims and fills one batch; its parameters are the place to begin
    behind, the place to end before, and a size.

    That a null row never moves makes `ctid` safe between the SELECT and the UPDATE of one
    statement. FOR NO KEY UPDATE does not block an insert that references the row by foreign key.
    A value equal to the live one is nulled again, for the fill trigger to draw another.
    """
    return sql.SQL("""
        WITH claimed AS MATERIALIZED (
            SELECT ctid FROM ONLY {table}
             WHERE ctid > %s::tid AND ctid < %s::tid AND {shadow} IS NULL
             LIMIT %s FOR NO KEY UPDATE SKIP LOCKED),
        filled AS (
            UPDATE ONLY {table} SET {shadow} = NULLIF({value}, {live})
             WHERE ctid = ANY (ARRAY(SELECT ctid FROM claimed))
            RETURNING {shadow} IS NULL AS still_null)
        SELECT count(*), count(*) FILTER (WHERE still_null),
               (SELECT max(ctid)::text FROM claimed)
          FROM filled""").format(
        table=leaf.identifier,
        shadow=sql.Identifier(bound.shadow),
        live=sql.Identifier(bound.live),
        value=bound.value,
    )


def application_name(bound: BoundShadow) -> str:
    """What the batches call themselves in pg_stat_activity, on every host."""
    return bound.name_of("backfill")
