"""How many rows are left to fill: counted, counted for a while, or estimated from a sample.

Lock: ACCESS SHARE, as any SELECT takes, in every function of this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.postgres.query import engine_transaction, fetch_row, fetch_value, set_local
from migrations_playbook.postgres.tables import Table, read_leaves
from migrations_playbook.replacement import Replacement

# How long the first batch may wait for an exact count, and a later count may take, in ms.
COUNT_FIRST_MS, COUNT_AGAIN_MS = 100, 1000
# The pages of a sample, where a count would take longer.
SAMPLE_PAGES = 1000
# By how much a sample may be off, as a share.
SAMPLE_ERROR = 0.1
# The share of the time for counting the remaining rows, and the least seconds between two counts.
COUNT_SHARE, COUNT_EVERY = 0.01, 5.0

# Counts the rows to fill, or knows their number already: the rows (None where nobody knows), and
# whether they are counted.
Count: TypeAlias = Callable[[BaseDatabaseWrapper, Replacement, Table], tuple[int | None, bool]]


def count_nulls(connection: BaseDatabaseWrapper, replacement: Replacement, table: Table) -> int:
    """Count the rows whose shadow is null.

    A sequential scan by a single process: parallel scans would take the site's cores.
    """
    with engine_transaction(connection):
        set_local(connection, "max_parallel_workers_per_gather", "0")
        return int(
            fetch_value(
                connection,
                sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
                    table.identifier, replacement.meaning.to_do
                ),
                [],
            )
        )


def count_nulls_within(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table, limit_ms: int
) -> int | None:
    """Count the rows whose shadow is null; None when the count takes longer than `limit_ms`."""
    try:
        with engine_transaction(connection):
            set_local(connection, "statement_timeout", f"{limit_ms}ms")
            return count_nulls(connection, replacement, table)
    except OperationalError as error:
        if not isinstance(error.__cause__, pg_errors.QueryCanceled):
            raise
    return None


def estimate_nulls(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    table: Table,
    limit_ms: int,
) -> tuple[int, bool]:
    """Tell how many rows' shadow is null, and whether the number is exact.

    Counts for up to `limit_ms`, then takes a sample.
    """
    exact = count_nulls_within(connection, replacement, table, limit_ms)
    if exact is not None:
        return exact, True
    return sample_nulls(connection, replacement, table), False


def count_rows(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
) -> tuple[int, bool]:
    """Count the rows to fill. Lock: ACCESS SHARE; a sequential scan."""
    return count_nulls(connection, replacement, table), True


def estimate_rows(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
) -> tuple[int, bool]:
    """Count the rows to fill for a second at most, then take a sample. Lock: ACCESS SHARE."""
    return estimate_nulls(connection, replacement, table, COUNT_AGAIN_MS)


@dataclass(frozen=True)
class Sample:
    """The rows of some of a table's pages, and by them of the whole table.

    Arguments:
        nulls: rows whose shadow is null.
        rows: all rows.
        exact: whether every page was read.
    """

    nulls: int
    rows: int
    exact: bool


def sample_rows(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    table: Table,
    pages: int = SAMPLE_PAGES,
    seed: int | None = None,
) -> Sample:
    """Estimate how many rows there are, and how many with a null shadow: a few per cent off.

    From pages at random: the planner's statistics do not know a new column, and are of yesterday.

    Arguments:
        pages: how many to read.
        seed: reads the same pages again and again, so that a series of samples runs smoothly.
    """
    in_all = sum(leaf.blocks for leaf in read_leaves(connection, table))
    share = min(1.0, pages / max(1, in_all))
    nulls, rows = fetch_row(
        connection,
        sql.SQL(
            "SELECT count(*) FILTER (WHERE {}), count(*) FROM {} TABLESAMPLE SYSTEM (%s) {}"
        ).format(
            replacement.meaning.to_do,
            table.identifier,
            sql.SQL("" if seed is None else "REPEATABLE ({})").format(seed),
        ),
        [100 * share],
    )
    return Sample(round(nulls / share), round(rows / share), exact=share == 1)


def sample_nulls(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    table: Table,
    pages: int = SAMPLE_PAGES,
) -> int:
    """Estimate how many rows' shadow is null; see `sample_rows`."""
    return sample_rows(connection, replacement, table, pages).nulls


class Remaining:
    """The remaining rows, as far as known.

    Counted once before the first batch, then less with each batch, then counted again now and then,
    for the fills of others.

    Arguments:
        connection: the supervisor's.
        replacement: the replacement to fill.
        table: its table.
    """

    def __init__(
        self, connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
    ) -> None:
        self._where = (connection, replacement, table)
        began = time.monotonic()
        self.rows, self.exact = estimate_nulls(*self._where, COUNT_FIRST_MS)
        self._countable = True
        self._counted = time.monotonic()
        self._took = self._counted - began

    @property
    def due(self) -> bool:
        """Whether the time to count again has come."""
        return time.monotonic() - self._counted > max(COUNT_EVERY, self._took / COUNT_SHARE)

    def recount(self) -> bool:
        """Count again, or sample where a count takes too long; return whether `rows` is news."""
        began = time.monotonic()
        if self._countable:
            rows, self._countable = estimate_nulls(*self._where, COUNT_AGAIN_MS)
        else:
            rows = sample_nulls(*self._where)
        self._counted = time.monotonic()
        self._took = self._counted - began
        # A sample is believed where its result exceeds its own error.
        if not self._countable and rows >= self.rows * (1 - SAMPLE_ERROR):
            return False
        self.rows, self.exact = rows, self._countable
        return True
