"""The cost of a backfill for the server: WAL, heap, indexes; and whether the disk has room.

A model of a few lines, to tell a WAL volume of a gigabyte from one of a terabyte. The result of
each backfill puts the real cost beside the prediction. The model assumes prunable pages: where an
old snapshot keeps the old versions alive, heap and indexes grow to about twice their size.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.backfill.pacing.signals import REFUSED
from migrations_playbook.backfill.walk import SHARES
from migrations_playbook.errors import PlaybookError
from migrations_playbook.postgres.query import engine_transaction, fetch_row, fetch_value
from migrations_playbook.postgres.server import wal_position
from migrations_playbook.postgres.tables import Table, measure_sizes
from migrations_playbook.units import megabytes

# Bytes of WAL: the record of a row's lock, of an update beside the row itself, and of an index
# entry.
LOCK_WAL, UPDATE_WAL, ENTRY_WAL = 54, 50, 72
# Bytes of the shadow's value in a row, and of the line pointer of a new version.
NEW_VALUE, POINTER = 16, 4
# Bytes a row that the heap keeps besides: dead line pointers, and room that nothing fits into.
WITH_SLICES, WITHOUT = 2, 8
# The free room of a newly built index, as a share.
INDEX_ROOM = 0.1


@dataclass(frozen=True)
class Prediction:
    """Bytes, beforehand.

    Arguments:
        rows: rows to fill.
        wal: WAL to be written.
        heap_growth: the heap's growth.
        index_growth: the indexes' growth.
        disk_free: bytes free where the data lie; None when the server cannot tell.
    """

    rows: int
    wal: int
    heap_growth: int
    index_growth: int
    disk_free: int | None

    @property
    def fits(self) -> bool:
        """False only when the disk is known to be too small for the table's growth."""
        return self.disk_free is None or self.heap_growth + self.index_growth < self.disk_free

    def as_json(self) -> dict[str, Any]:
        """Build the form of the prediction in the JSON result."""
        return dict(vars(self))

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows, {megabytes(self.wal)} of WAL, heap "
            f"+{megabytes(self.heap_growth)}, indexes +{megabytes(self.index_growth)}; "
            f"free on the server's disk: {megabytes(self.disk_free)}"
        )


@dataclass(frozen=True)
class Cost:
    """The prediction, and meanwhile the whole server's writes and the whole table's growth.

    Arguments:
        predicted: see `predict_cost`.
        wal: bytes of WAL; None where the server does not tell.
        heap_growth: bytes.
        index_growth: bytes.
    """

    predicted: Prediction
    wal: int | None
    heap_growth: int
    index_growth: int

    def as_json(self) -> dict[str, Any]:
        """Build the form of the cost in the JSON result."""
        actual = {name: value for name, value in vars(self).items() if name != "predicted"}
        return {"predicted": self.predicted.as_json(), "actual": actual}

    def __str__(self) -> str:
        said = [
            f"{title} {megabytes(getattr(self, name))} "
            f"(predicted {getattr(self.predicted, name) / 1e6:,.0f})"
            for title, name in (
                ("WAL", "wal"),
                ("heap grown by", "heap_growth"),
                ("indexes grown by", "index_growth"),
            )
        ]
        return "; ".join(said) + "."


class Meter:
    """The meter of a backfill's cost, from the making of the meter on.

    Arguments:
        connection: the supervisor's.
        table: the table to fill.
        predicted: see `predict_cost`.
    """

    def __init__(
        self, connection: BaseDatabaseWrapper, table: Table, predicted: Prediction
    ) -> None:
        self.connection = connection
        self.table = table
        self.predicted = predicted
        self._sizes = measure_sizes(connection, table)
        self._wal = _read_log(connection)

    def refuse_without_room(self) -> None:
        """Refuse to begin a backfill that could not end.

        Raises:
            PlaybookError: the table would outgrow the server's disk.
        """
        if not self.predicted.fits:
            raise PlaybookError(
                f"The table would outgrow the server's disk: {self.predicted}. Make room first."
            )

    def written(self) -> int | None:
        """Read the bytes of WAL since the beginning; None where the server does not tell."""
        now = None if self._wal is None else _read_log(self.connection)
        return None if now is None or self._wal is None else now - self._wal

    def read_cost(self) -> Cost:
        """Read the cost so far."""
        heap, indexes = measure_sizes(self.connection, self.table)
        before_heap, before_indexes = self._sizes
        return Cost(self.predicted, self.written(), heap - before_heap, indexes - before_indexes)


def predict_cost(
    connection: BaseDatabaseWrapper, table: Table, rows: int, *, vacuum_every: float
) -> Prediction:
    """Predict the cost of filling `rows` rows.

    Lock: ACCESS SHARE on the table; reads the catalog.

    Arguments:
        rows: rows to fill.
        vacuum_every: the share of the rows after which a slice is vacuumed; 0 for never.
    """
    heap, indexes = measure_sizes(connection, table)
    row = fetch_row(
        connection,
        sql.SQL("""
            SELECT (SELECT count(*) FROM pg_catalog.pg_index WHERE indrelid = %s),
                   pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size'))"""),
        [table.oid],
    )
    count, max_wal_size = row
    in_all = max(rows, int(table.estimate), 1)
    share = rows / in_all
    width = min(heap / in_all, 8192)
    moved = moved_share(width)
    plain = rows * (LOCK_WAL + UPDATE_WAL + width + NEW_VALUE + moved * count * ENTRY_WAL)
    # After each checkpoint a page's first change logs the whole page. The heap is walked once; an
    # index in random order is met all over again.
    checkpoints = 1 + plain / (max_wal_size / 2)
    wal = plain + share * (heap + indexes * checkpoints)
    # Without slices an index keeps the entries of both versions. With slices the index keeps only
    # the pages that split before the first slice has freed any.
    entries = moved * (min(1.0, 2 * vacuum_every) or 1.0)
    return Prediction(
        rows=rows,
        wal=round(wal),
        heap_growth=round(rows * (NEW_VALUE + (WITH_SLICES if vacuum_every else WITHOUT))),
        index_growth=round(share * indexes * max(0.0, entries - INDEX_ROOM)),
        disk_free=read_disk_free(connection),
    )


def _read_log(connection: BaseDatabaseWrapper) -> int | None:
    """Read the end of the log; None where the server has no function, or the role no right."""
    try:
        return wal_position(connection)
    except DatabaseError as error:
        if not isinstance(error.__cause__, REFUSED):
            raise
        return None


def moved_share(width: float) -> float:
    """Tell the share of the rows whose new version finds no room on its page (see `walk`).

    From a full page a single pass's share goes elsewhere. Of the others, rows go elsewhere when the
    smaller old versions leave too little room.

    Arguments:
        width: bytes of a row, with its line pointer.
    """
    old = max(1.0, width - POINTER)
    first = 1 / SHARES
    return first + (1 - first) * (1 - old / (old + NEW_VALUE + POINTER))


def read_disk_free(connection: BaseDatabaseWrapper) -> int | None:
    """Read the bytes free where the data folder lies; None if the server is not here to ask.

    SQL has no function for the free disk, so only a server behind a Unix socket can be asked.
    """
    try:
        with engine_transaction(connection):
            folder = fetch_value(
                connection,
                sql.SQL("""
                    SELECT CASE WHEN pg_catalog.inet_server_addr() IS NULL
                           THEN pg_catalog.current_setting('data_directory') END"""),
            )
        return None if folder is None else shutil.disk_usage(Path(folder)).free
    except (DatabaseError, OSError):
        # data_directory is for superusers and pg_read_all_settings.
        return None
