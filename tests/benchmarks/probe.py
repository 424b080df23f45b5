"""What the site feels meanwhile: lookups by token, and the longest transaction that holds rows."""

from __future__ import annotations

import random
import threading
import time
from types import TracebackType

from tests.benchmarks.server import Server

LOOKUPS_A_SECOND = 200
SAMPLES = 5000


class Probe:
    """Within this context, looks tickets up by token, and watches the transactions beside it.

    Arguments:
        server: where.
        busy: threads that update single rows all the while, as a live site does.
    """

    def __init__(self, server: Server, *, busy: int = 0) -> None:
        self.server = server
        self.lookups_ms: list[float] = []
        self.longest_hold_ms = 0.0
        self._end = threading.Event()
        work = [self._look_up, self._watch] + [self._write] * busy
        self._threads = [threading.Thread(target=each) for each in work]

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    @property
    def p99_ms(self) -> float:
        ordered = sorted(self.lookups_ms)
        return ordered[int(len(ordered) * 0.99)] if ordered else 0.0

    def _look_up(self) -> None:
        with self.server.connect() as connection:
            tokens = connection.execute(
                "SELECT token FROM tickets_ticket TABLESAMPLE SYSTEM (5) LIMIT %s", [SAMPLES]
            ).fetchall()
            while tokens and not self._end.wait(1 / LOOKUPS_A_SECOND):
                began = time.perf_counter()
                connection.execute(
                    "SELECT id FROM tickets_ticket WHERE token = %s",
                    random.choice(tokens),  # noqa: S311 - a sample, not a secret
                )
                self.lookups_ms.append((time.perf_counter() - began) * 1000)

    def _watch(self) -> None:
        """Sample how long transactions that have written have been open."""
        with self.server.connect("postgres") as connection:
            while not self._end.wait(0.02):
                row = connection.execute("""
                    SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) * 1000
                      FROM pg_stat_activity
                     WHERE datname = 'bench' AND backend_xid IS NOT NULL""").fetchone()
                if row and row[0] is not None:
                    self.longest_hold_ms = max(self.longest_hold_ms, float(row[0]))

    def _write(self) -> None:
        with self.server.connect() as connection:
            row = connection.execute("SELECT max(id) FROM tickets_ticket").fetchone()
            assert row is not None
            while not self._end.wait(1 / LOOKUPS_A_SECOND):
                connection.execute(
                    "UPDATE tickets_ticket SET redeemed_at = now() WHERE id = %s",
                    [random.randint(1, row[0])],  # noqa: S311 - a sample, not a secret
                )
