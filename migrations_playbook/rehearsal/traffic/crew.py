"""A process of a release: its threads, each a client, and their reports.

Requests are reported as JSON lines on standard output; the process stops when standard input ends.

The loop is open: requests are due at a fixed rate, and latency counts from the due time. If the
server stalls, the requests due meanwhile show the stall too.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TextIO

from django.db import connections

from migrations_playbook.rehearsal.script import Script
from migrations_playbook.rehearsal.states import Release, ReleaseStates
from migrations_playbook.rehearsal.traffic.client import Client
from migrations_playbook.replacement import find_replacement

# How long the clients of a process may take to read their rows, in seconds.
COMING_UP = 60.0


class Schedule:
    """Hands out the times at which requests are due; shared by the threads of a process."""

    def __init__(self, rate: float) -> None:
        self.interval = 1 / rate
        self.began = time.monotonic()
        self.number = 0
        self.lock = threading.Lock()

    def next(self) -> float:
        """Tell when the next request is due, in seconds of the monotonic clock."""
        with self.lock:
            self.number += 1
            return self.began + self.number * self.interval


class Reporter:
    """Collects the threads' reports, and writes them out a few times a second."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lines: list[str] = []
        self.lock = threading.Lock()

    def add(self, report: object) -> None:
        """Add a report."""
        with self.lock:
            self.lines.append(json.dumps(report))

    def flush(self) -> None:
        """Write out the reports added since the last time."""
        with self.lock:
            lines, self.lines = self.lines, []
        if lines:
            self.stream.write("\n".join(lines) + "\n")
        self.stream.flush()


@dataclass
class Crew:
    """The threads of a process, and their shared state.

    Arguments:
        ready: all have read their rows.
        stop: all finish their last request.
        reporter: collects their reports.
        schedule: set before the first request.
    """

    ready: threading.Barrier
    stop: threading.Event
    reporter: Reporter
    schedule: Schedule
    failures: list[Exception] = field(default_factory=list)

    def work(self, make: Callable[[], Client]) -> None:
        """Work through a client's requests from the first to the last; then file its books."""
        try:
            client = make()
        except Exception as error:
            self.failures.append(error)
            self.ready.abort()
            raise
        self.ready.wait()
        while not self.stop.is_set():
            due = self.schedule.next()
            if self.stop.wait(max(0.0, due - time.monotonic())):
                break
            kind, wrong = client.request()
            self.reporter.add([kind, due, (time.monotonic() - due) * 1000, wrong])
        file_books(client)
        connections[client.alias].close()

    def await_all(self) -> None:
        """Wait until every client has read its rows.

        Raises:
            Exception: the failure of a client to read its rows.
        """
        try:
            self.ready.wait(timeout=COMING_UP)
        except threading.BrokenBarrierError as error:
            raise (self.failures or [error])[0] from None

    def stop_at_end_of(self, stream: TextIO) -> None:
        """Let all finish their last request once a stream has ended."""
        stream.read()
        self.stop.set()


def file_books(client: Client) -> None:
    """Copy a client's books into the scratch database."""
    books, connection = client.books, connections[client.alias]
    stamps = [
        (key, client.stamp.get_db_prep_save(stamp, connection))
        for key, stamp in books.wrote.items()
        if client.stamp is not None
    ]
    with connection.cursor() as cursor:
        for table, rows in (
            ("told", books.told),
            ("missed", books.missed),
            ("created", books.created),
            ("written", books.written),
            ("wrote", stamps),
        ):
            with cursor.copy(f"COPY rehearsal.{table} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)


def run_client(
    script: Script, alias: str, *, release: Release, keys: list[list[str]], rate: float
) -> None:
    """Be a process of a release, until standard input ends.

    Arguments:
        script: the script to rehearse.
        alias: the database.
        release: whose models are used.
        keys: a list for each thread: the primary keys of its own rows.
        rate: requests a second of all threads together.
    """
    # The terminal's ^C is the rehearsal's business, which then ends our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replacement = find_replacement(script.model, script.shadow)
    model = ReleaseStates(connections[alias], replacement).read_model(release)
    reporter = Reporter(sys.stdout)
    crew = Crew(threading.Barrier(len(keys) + 1), threading.Event(), reporter, Schedule(rate))
    threads = [
        threading.Thread(
            target=crew.work, args=(partial(Client, model, script, replacement, alias, own),)
        )
        for own in keys
    ]
    for thread in threads:
        thread.start()
    crew.await_all()
    crew.schedule.began = time.monotonic()
    reporter.add("ready")
    reporter.flush()
    threading.Thread(target=crew.stop_at_end_of, args=(sys.stdin,), daemon=True).start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
            reporter.flush()
    reporter.flush()
