"""How many rows are left to fill: counted, counted for a while, or told from a sample.

Lock: ACCESS SHARE, as any SELECT takes, in every function of this file.
"""

from __future__ import annotations

from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.postgres.query import fetch_value, set_local
from migrations_playbook.postgres.tables import Table, read_leaves
from migrations_playbook.replacement import Replacement

# Counting exactly is cheap while it stays under this, in milliseconds.
EXACT_COUNT_MS = 2000
# And how many pages a sample has, when it may not.
SAMPLE_PAGES = 1000


def count_nulls(connection: BaseDatabaseWrapper, replacement: Replacement, table: Table) -> int:
    """How many rows' shadow is null, exactly.

    One sequential scan by one process: parallel ones would take the site's cores.
    """
    with transaction.atomic(using=connection.alias):
        set_local(connection, "max_parallel_workers_per_gather", "0")
        return int(
            fetch_value(
                connection,
                sql.SQL("SELECT count(*) FROM {} WHERE {} IS NULL").format(
                    table.identifier, sql.Identifier(replacement.shadow)
                ),
            )
        )


def count_nulls_within(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table, limit_ms: int
) -> int | None:
    """How many rows' shadow is null, or None when counting takes longer than `limit_ms`."""
    try:
        with transaction.atomic(using=connection.alias):
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
    limit_ms: int = EXACT_COUNT_MS,
) -> tuple[int, bool]:
    """How many rows' shadow is null, and whether that is exact.

    Counts for up to `limit_ms`, then takes a sample.
    """
    exact = count_nulls_within(connection, replacement, table, limit_ms)
    if exact is not None:
        return exact, True
    return sample_nulls(connection, replacement, table), False


def sample_nulls(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    table: Table,
    pages: int = SAMPLE_PAGES,
) -> int:
    """About how many rows' shadow is null, from pages at random: a few per cent off.

    The planner's statistics do not know a column that was just added, and are of yesterday.
    """
    in_all = sum(leaf.blocks for leaf in read_leaves(connection, table))
    share = min(1.0, pages / max(1, in_all))
    seen = fetch_value(
        connection,
        sql.SQL("SELECT count(*) FROM {} TABLESAMPLE SYSTEM (%s) WHERE {} IS NULL").format(
            table.identifier, sql.Identifier(replacement.shadow)
        ),
        [100 * share],
    )
    return round(float(seen) / share)
