"""A site's requests, due at a fixed rate whatever the answers take: an open loop.

    python -m tests.benchmarks.traffic '{"reads": 100, "writes": 50}'

In a process of its own; ends when its standard input does, and prints its latencies as JSON.
Latency counts from when a request was due, so that a stall shows in full.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import conninfo

# Threads of each kind, each with a connection and a schedule of its own.
THREADS = 4
READ = "SELECT id, redeemed_at FROM tickets_ticket WHERE id = %s"
WRITE = "UPDATE tickets_ticket SET redeemed_at = now() WHERE id = %s"
# What a filling session does now, and rows that it is about to fill: those of the next pages, or
# keys.
FILLING = """
    SELECT query FROM pg_stat_activity WHERE query ~ 'claimed|BETWEEN' AND pid <> pg_backend_pid()
       AND datname = current_database() ORDER BY state_change DESC LIMIT 1"""
AHEAD = """
    SELECT id FROM tickets_ticket
     WHERE ctid > %s::tid AND ctid < %s::tid AND new_token IS NULL LIMIT 500"""


@dataclass(frozen=True)
class Load:
    """What the site asks for.

    Arguments:
        reads: reads by key, a second.
        writes: single-row updates by key, a second.
        burners: processes beside that do nothing but take a core.
        meeting: whether the writes go to rows that are just being filled.
        django: whether the requests go through Django's ORM.
    """

    reads: float = 100
    writes: float = 50
    burners: int = 0
    meeting: bool = False
    django: bool = False


class Site:
    """The requests of a load.

    Arguments:
        load: what is asked for.
        url: of the database.
    """

    def __init__(self, load: Load, url: str) -> None:
        self.load = load
        self.url = conninfo.make_conninfo(url, application_name="site")
        self.stop = threading.Event()
        # Seconds of the monotonic clock, and milliseconds.
        self.took: dict[str, list[tuple[float, float]]] = {"reads": [], "writes": []}
        self.ahead: list[int] = []
        with psycopg.connect(self.url) as connection:
            row = connection.execute("SELECT max(id) FROM tickets_ticket").fetchone()
        assert row is not None
        self.most: int = row[0]

    def run(self) -> None:
        """Ask until standard input ends."""
        threads = [
            threading.Thread(target=self._ask, args=(kind, rate / THREADS))
            for kind, rate in (("reads", self.load.reads), ("writes", self.load.writes))
            for _ in range(THREADS)
        ]
        if self.load.meeting:
            threads.append(threading.Thread(target=self._look_ahead))
        for thread in threads:
            thread.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()
        self.stop.set()
        for thread in threads:
            thread.join()

    def _ask(self, kind: str, rate: float) -> None:
        asking = self._by_django(kind) if self.load.django else self._by_driver(kind)
        due = time.monotonic()
        for request in asking:
            due += random.expovariate(rate)
            if self.stop.wait(max(0.0, due - time.monotonic())):
                return
            request(self._choose(kind))
            self.took[kind].append((due, (time.monotonic() - due) * 1000))

    def _by_driver(self, kind: str) -> Iterator[Callable[[int], object]]:
        statement = READ if kind == "reads" else WRITE
        with psycopg.connect(self.url, autocommit=True) as connection:
            while True:
                yield lambda key: connection.execute(statement, [key], prepare=False)

    def _by_django(self, kind: str) -> Iterator[Callable[[int], object]]:
        from django.db import connection  # noqa: PLC0415 - where Django is set up
        from django.utils import timezone  # noqa: PLC0415

        from tickets.models import Ticket  # noqa: PLC0415

        rows = Ticket.objects
        try:
            while True:
                if kind == "reads":
                    yield lambda key: rows.filter(pk=key).first()
                else:
                    yield lambda key: rows.filter(pk=key).update(redeemed_at=timezone.now())
        finally:
            connection.close()

    def _choose(self, kind: str) -> int:
        if kind == "writes" and self.ahead:
            return random.choice(self.ahead)  # noqa: S311
        return random.randint(1, self.most)  # noqa: S311

    def _look_ahead(self) -> None:
        """Find the rows that are about to be filled, by what the filling session says it does."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not self.stop.wait(0.02):
                row = connection.execute(FILLING).fetchone()
                if row is None:
                    continue
                if place := re.search(r"ctid > '\((\d+),\d+\)'", row[0]):
                    block = int(place[1])
                    rows = connection.execute(AHEAD, [f"({block},0)", f"({block + 40},0)"])
                    self.ahead = [each[0] for each in rows]
                elif keys := re.search(r"BETWEEN (\d+) AND (\d+)", row[0]):
                    self.ahead = list(range(int(keys[1]), int(keys[2]) + 1000))


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * len(ordered) * 1000) // 1000) - 1)] if ordered else 0.0


def main() -> None:
    told: dict[str, Any] = json.loads(sys.argv[1])
    load = Load(**told)
    if load.django:
        import django  # noqa: PLC0415

        django.setup()
    site = Site(load, os.environ["DATABASE_URL"])
    site.run()
    sys.stdout.write(json.dumps(site.took))


if __name__ == "__main__":
    main()
