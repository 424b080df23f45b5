"""Play 2: fill the nulls. Yields events, and knows no terminal.

The null predicate is the only state: stop it anyhow, start it anywhere, run it twice at once.
It never waits for a live transaction: rows that somebody has locked are skipped, and come back
in the next sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook import catalog
from migrations_playbook.catalog import Phase, Table
from migrations_playbook.database import Row, fetch_one, postgresql, set_local
from migrations_playbook.errors import PlaybookError, RowsLeft, WrongPhase
from migrations_playbook.locks import holders
from migrations_playbook.shadow import BoundShadow

DEFAULT_BATCH_SIZE = 2000
# Between two sweeps that found only locked rows, in seconds; and for how long to come back.
PAUSE_FOR_LOCKED_ROWS = 0.2
PATIENCE_FOR_LOCKED_ROWS = 60.0


@dataclass(frozen=True)
class Started:
    """The work ahead.

    Arguments:
        total: rows to fill.
        exact: whether that was counted, or is the catalog's estimate.
    """

    total: int
    exact: bool


@dataclass(frozen=True)
class Batch:
    """One committed batch.

    Arguments:
        rows: rows filled.
        seconds: from its first statement to its commit.
    """

    rows: int
    seconds: float


@dataclass(frozen=True)
class Waiting:
    """Nothing could be done just now.

    Arguments:
        reason: why, in a few words.
    """

    reason: str


@dataclass(frozen=True)
class Finished:
    """The end: no null is left, or a stop was asked for.

    Arguments:
        rows_remaining: exact when `complete`; otherwise counted at the end.
        complete: whether no null is left.
    """

    rows_remaining: int
    complete: bool


Event = Started | Batch | Waiting | Finished


def backfill(
    bound: BoundShadow,
    *,
    using: str,
    batch_size: int = DEFAULT_BATCH_SIZE,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Fill every null of the shadow column, in keyset batches of one short transaction each.

    Lock: ROW EXCLUSIVE on the table; FOR NO KEY UPDATE on the rows of a batch, until it commits.
    Rows that another session has locked are skipped.

    Arguments:
        bound: what to fill.
        using: the database alias.
        batch_size: rows in a batch.
        stop: asked between batches; when it says True, the backfill ends.

    Raises:
        WrongPhase: there is no shadow column, or the columns are exchanged.
        RowsLeft: the rows that are left have been locked by others for too long.
        PlaybookError: the value expression makes nulls.
    """
    connection = postgresql(using)
    found = fillable(connection, bound)
    total, exact = catalog.estimate_nulls(connection, bound, found)
    yield Started(total, exact)
    first, following = (batch_statement(bound, found, comparison) for comparison in (">=", ">"))
    idle_since: float | None = None
    while not stop():
        filled = 0
        after = _before_first_null(connection, bound, found)
        if after is None:
            break
        statement = first
        while not stop():
            began = time.monotonic()
            rows, nulls, last = _fill_batch(connection, statement, after, batch_size)
            if last is None:
                break
            if nulls:
                raise PlaybookError(
                    f"The value expression of {bound.label}.{bound.declaration.shadow} makes "
                    "nulls, so the column can never be filled. Correct it in Meta.triggers, then "
                    'run "manage.py makemigrations" and "manage.py migrate".'
                )
            filled += rows
            after, statement = last, following
            yield Batch(rows, time.monotonic() - began)
        if filled:
            idle_since = None
        elif not stop():
            idle_since = idle_since or time.monotonic()
            left = catalog.count_nulls(connection, bound, found)
            if left and time.monotonic() - idle_since > PATIENCE_FOR_LOCKED_ROWS:
                raise RowsLeft(_locked(connection, found, left))
            if left:
                yield Waiting(f"{left:,} rows are locked by others")
                time.sleep(PAUSE_FOR_LOCKED_ROWS)
    remaining = catalog.count_nulls(connection, bound, found)
    yield Finished(remaining, complete=remaining == 0)


def fillable(connection: BaseDatabaseWrapper, bound: BoundShadow) -> Table:
    """The table, when its shadow column can be filled now.

    Raises:
        WrongPhase: there is no shadow column, its triggers are not at work, or the columns are
            exchanged.
    """
    state = catalog.state(connection, bound)
    if state.table is None or state.phase is Phase.NONE:
        raise WrongPhase(
            f'{bound.label} has no column "{bound.shadow}" in the database "{connection.alias}". '
            'Run "manage.py migrate" first.'
        )
    if state.swapped:
        raise WrongPhase(
            f'{bound.label} is swapped: "{bound.live}" has its new values, and "{bound.shadow}" '
            'holds the retired ones. There is nothing to fill; "manage.py playbook_status" shows '
            "what comes next."
        )
    if state.problem is not None:
        raise WrongPhase(state.problem)
    return state.table


def batch_statement(
    bound: BoundShadow, found: Table, comparison: Literal[">=", ">"]
) -> sql.Composed:
    """The statement that claims and fills one batch; its parameters are a key and a size.

    A null row never moves while it is null (to move is to be updated, and then the fill trigger
    fires), which makes `ctid` safe between the inner SELECT and the UPDATE of one statement.
    FOR NO KEY UPDATE does not block an insert that references the row by foreign key.
    A value equal to the live one is nulled again, for the fill trigger to draw another.
    """
    key = sql.SQL(", ").join(sql.Identifier(column) for column in bound.key)
    return sql.SQL("""
        WITH filled AS (
            UPDATE {table} SET {shadow} = NULLIF({value}, {live})
            WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {table}
                WHERE ({key}) {comparison} ({after}) AND {shadow} IS NULL
                ORDER BY {key} LIMIT %s
                FOR NO KEY UPDATE SKIP LOCKED))
            RETURNING {key}, {shadow} IS NULL AS still_null)
        SELECT count(*) OVER (), count(*) FILTER (WHERE still_null) OVER (), {key}
        FROM filled ORDER BY {descending} LIMIT 1
    """).format(
        table=found.identifier,
        shadow=sql.Identifier(bound.shadow),
        live=sql.Identifier(bound.live),
        value=bound.value,
        comparison=sql.SQL(comparison),
        after=sql.SQL(", ").join(sql.Placeholder() * len(bound.key)),
        key=key,
        descending=sql.SQL(", ").join(
            sql.SQL("{} DESC").format(sql.Identifier(column)) for column in bound.key
        ),
    )


def _fill_batch(
    connection: BaseDatabaseWrapper, statement: sql.Composed, after: Row, size: int
) -> tuple[int, int, Row | None]:
    """Fill the next `size` unlocked null rows; return how many, how many stayed null, and the
    last key, or None when there was no row left to claim.
    """
    with transaction.atomic(using=connection.alias):
        # Safe for these batches only: WAL is sequential, so the swap's synchronous commit makes
        # them durable, and a crash before that leaves nulls to fill again.
        set_local(connection, "synchronous_commit", "off")
        # A column that was just added has no statistics: PostgreSQL takes 1 row in 200 to be
        # null, and would read and sort the whole table for every batch rather than walk the key.
        set_local(connection, "enable_sort", "off")
        row = fetch_one(connection, statement, [*after, size])
    if row is None:
        return 0, 0, None
    return int(row[0]), int(row[1]), tuple(row[2:])


def _before_first_null(
    connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table
) -> Row | None:
    """The first key whose shadow is null, or None when no row's is.

    OFFSET 0 keeps the planner from walking the key's index past every filled row (4 s at five
    million rows, nine tenths filled): a sequential scan finds it in a fraction of that.
    """
    key = sql.SQL(", ").join(sql.Identifier(column) for column in bound.key)
    return fetch_one(
        connection,
        sql.SQL("""
            SELECT {key} FROM (SELECT {key} FROM {table} WHERE {shadow} IS NULL OFFSET 0) AS nulls
            ORDER BY {key} LIMIT 1""").format(
            key=key, table=found.identifier, shadow=sql.Identifier(bound.shadow)
        ),
    )


def _locked(connection: BaseDatabaseWrapper, found: Table, left: int) -> str:
    named = "; ".join(str(holder) for holder in holders(connection, found.identifier)[:5])
    return (
        f"{left:,} rows of {found} are left: other transactions have kept them locked for "
        f"{PATIENCE_FOR_LOCKED_ROWS:.0f} s ({named or 'none of them visible'}). End those "
        "transactions, then run the same command again."
    )
