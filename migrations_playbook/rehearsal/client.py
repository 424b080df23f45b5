"""One process of a release under load: `python -m migrations_playbook.rehearsal.client`.

Reads one JSON object from standard input, reports its requests as JSON lines on standard output,
and stops when standard input ends. The settings are the release's; the requests go through
Django's ORM, as an application's would.

The loop is open: requests are due at a fixed rate, and latency counts from when one was due. If
the server stalls, the requests that came due meanwhile show it too.

Every client is a thread with rows of its own, which nobody else writes. It keeps its own books: of
what it was told, what it wrote, and which values it looked up in vain. At the end they are copied
into the scratch database, to be compared there; the values appear nowhere else.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TextIO

import django
from django.apps import apps
from django.db import Error as DatabaseError
from django.db import connection, models
from django.utils import timezone

from migrations_playbook.errors import primary_message

# Of a hundred requests.
MIX = {"look up": 50, "redeem": 15, "create": 10, "save": 15, "list": 10}
PAGE = 20
# How often a looked-up object takes the place of the one that is kept for a stale save.
RENEWED = 0.3


class WrongRowError(Exception):
    """A lookup found another row than the one that its value was told for."""


@dataclass
class Books:
    """What a client was told and did; times are of the machine's monotonic clock, in seconds."""

    told: list[tuple[str, str, float, float]] = field(default_factory=list)
    missed: list[tuple[str, float, float]] = field(default_factory=list)
    created: list[tuple[str, float, float]] = field(default_factory=list)
    wrote: dict[str, datetime] = field(default_factory=dict)


class Client:
    """One thread's requests.

    Arguments:
        model: the release's own model.
        live: the live field.
        stamp: the field that it writes.
        keys: the primary keys of the rows that are its own.
    """

    def __init__(self, model: type[models.Model], live: str, stamp: str, keys: list[str]) -> None:
        self.rows = model._default_manager
        self.live = live
        self.stamp = stamp
        self.books = Books()
        self.random = random.Random(keys[0] if keys else 0)  # noqa: S311 - traffic, no secret
        self.kept: dict[str, models.Model] = {}
        self.known: dict[str, tuple[str, float]] = {}
        self.requests: dict[str, Callable[[], None]] = {
            "look up": self.look_up,
            "redeem": self.redeem,
            "create": self.create,
            "save": self.save,
            "list": self.list,
        }
        for key in keys:
            self.kept[key] = self.fetch(key)

    def request(self) -> tuple[str, str]:
        """Make one request; its kind, and what went wrong (without any value)."""
        kind = self.random.choices(list(MIX), list(MIX.values()))[0]
        if not self.kept:
            kind = "create"
        try:
            self.requests[kind]()
        except DatabaseError as error:
            return kind, f"{type(error).__name__}: {primary_message(error)}"
        except (WrongRowError, models.ObjectDoesNotExist) as error:
            return kind, type(error).__name__
        return kind, ""

    def look_up(self) -> None:
        """Find a row of our own by the value that we were last told."""
        key = self.any_key()
        value, since = self.known[key]
        asked = time.monotonic()
        found = self.rows.filter(**{self.live: value}).first()
        answered = time.monotonic()
        if found is None:
            self.books.missed.append((key, since, answered))
            found = self.fetch(key)
        elif str(found.pk) != key:
            raise WrongRowError
        else:
            self.note(found, asked, answered)
        if self.random.random() < RENEWED:
            self.kept[key] = found

    def redeem(self) -> None:
        """Write to a row of our own, found by the value that we were last told."""
        key = self.any_key()
        value, since = self.known[key]
        now = timezone.now()
        touched = self.rows.filter(**{self.live: value}).update(**{self.stamp: now})
        if not touched:
            self.books.missed.append((key, since, time.monotonic()))
            self.fetch(key)
            if not self.rows.filter(pk=key).update(**{self.stamp: now}):
                raise WrongRowError
        self.books.wrote[key] = now

    def create(self) -> None:
        """Add a row; it is our own from then on."""
        asked = time.monotonic()
        made = self.rows.create()
        answered = time.monotonic()
        self.note(made, asked, answered)
        self.books.created.append((str(made.pk), asked, answered))
        self.kept[str(made.pk)] = made

    def save(self) -> None:
        """Save all fields of an object that was loaded a while ago."""
        key = self.any_key()
        stale = self.kept[key]
        now = timezone.now()
        setattr(stale, self.stamp, now)
        stale.save()
        self.books.wrote[key] = now

    def list(self) -> None:
        """Read the page of the newest rows, whoever made them."""
        asked = time.monotonic()
        page = list(self.rows.order_by("-pk")[:PAGE])
        answered = time.monotonic()
        for each in page:
            self.books.told.append((str(each.pk), str(getattr(each, self.live)), asked, answered))

    def fetch(self, key: str) -> models.Model:
        """Read a row by its key, and believe what it says."""
        asked = time.monotonic()
        found = self.rows.get(pk=key)
        self.note(found, asked, time.monotonic())
        return found

    def note(self, row: models.Model, asked: float, answered: float) -> None:
        value = str(getattr(row, self.live))
        self.known[str(row.pk)] = (value, asked)
        self.books.told.append((str(row.pk), value, asked, answered))

    def any_key(self) -> str:
        return self.random.choice(list(self.kept))


class Schedule:
    """Hands out the times at which requests are due; shared by the threads of a process."""

    def __init__(self, rate: float) -> None:
        self.interval = 1 / rate
        self.began = time.monotonic()
        self.number = 0
        self.lock = threading.Lock()

    def next(self) -> float:
        """When the next request is due, in seconds of the monotonic clock."""
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
        with self.lock:
            self.lines.append(json.dumps(report))

    def flush(self) -> None:
        with self.lock:
            lines, self.lines = self.lines, []
        if lines:
            self.stream.write("\n".join(lines) + "\n")
        self.stream.flush()


def work(
    make: Callable[[], Client],
    ready: threading.Barrier,
    schedule: list[Schedule],
    stop: threading.Event,
    reporter: Reporter,
) -> None:
    """A thread: one client from its first request to its last; then its books are filed."""
    client = make()
    ready.wait()
    while not stop.is_set():
        due = schedule[0].next()
        if stop.wait(max(0.0, due - time.monotonic())):
            break
        kind, wrong = client.request()
        reporter.add([kind, due, (time.monotonic() - due) * 1000, wrong])
    file_books(client.books)
    connection.close()


def file_books(books: Books) -> None:
    """Copy a client's books into the scratch database."""
    with connection.cursor() as cursor:
        for table, rows in (
            ("told", books.told),
            ("missed", books.missed),
            ("created", books.created),
            ("wrote", list(books.wrote.items())),
        ):
            with cursor.copy(f"COPY rehearsal.{table} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)


def main() -> None:
    # The terminal's ^C is the rehearsal's business, which then ends our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    django.setup()
    model = apps.get_model(told["model"])
    hands: list[list[str]] = told["keys"]
    ready = threading.Barrier(len(hands) + 1)
    schedule: list[Schedule] = []
    stop, reporter = threading.Event(), Reporter(sys.stdout)

    def make(keys: list[str]) -> Callable[[], Client]:
        return lambda: Client(model, told["live"], told["stamp"], keys)

    threads = [
        threading.Thread(target=work, args=(make(keys), ready, schedule, stop, reporter))
        for keys in hands
    ]
    for thread in threads:
        thread.start()
    schedule.append(Schedule(told["rate"]))
    ready.wait(timeout=60)
    schedule[0].began = time.monotonic()
    reporter.add("ready")
    reporter.flush()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
            reporter.flush()
    reporter.flush()


if __name__ == "__main__":
    main()
