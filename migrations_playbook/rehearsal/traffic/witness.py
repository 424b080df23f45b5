"""The times of the exchanges, as seen by a bystander who trusts nobody's report."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

# Between two looks, in seconds. A look reads the catalog alone, and waits for no lock.
EVERY = 0.005


@dataclass(frozen=True)
class Exchange:
    """An exchange; times in seconds of the monotonic clock.

    Arguments:
        began: the last moment at which the exchange was certainly not visible yet.
        ended: the first moment at which the exchange was certainly visible.
    """

    began: float
    ended: float


class Witness:
    """A context that watches the two columns' attribute numbers.

    Arguments:
        conninfo: the scratch database.
        table: the table.
        live: the live column's name.
        shadow: the shadow column's name.
    """

    def __init__(self, conninfo: str, table: sql.Identifier, live: str, shadow: str) -> None:
        self.exchanges: list[Exchange] = []
        self._conninfo = conninfo
        self._query = sql.SQL("""
            SELECT max(attnum) FILTER (WHERE attname = {}) > max(attnum) FILTER (WHERE attname = {})
              FROM pg_catalog.pg_attribute
             WHERE attrelid = pg_catalog.to_regclass({})""").format(live, shadow, table.as_string())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Look once more, and be done."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            before = time.monotonic()
            swapped = self._look(connection)
            while True:
                stopping = self._stop.wait(EVERY)
                asked = time.monotonic()
                now = self._look(connection)
                if now is not swapped:
                    self.exchanges.append(Exchange(before, time.monotonic()))
                before, swapped = asked, now
                if stopping:
                    return

    def _look(self, connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute(self._query).fetchone()
        return bool(row and row[0])
