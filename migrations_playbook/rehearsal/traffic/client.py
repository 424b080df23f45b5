"""One process of a release under load.

Reports its requests as JSON lines on standard output, and stops when standard input ends. The
models are the release's; the requests go through Django's ORM, as an application's would.

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TextIO

from django.db import Error as DatabaseError
from django.db import connections, models

from migrations_playbook.errors import primary_message
from migrations_playbook.rehearsal.history import History, Release
from migrations_playbook.rehearsal.script import Script, import_callable
from migrations_playbook.rehearsal.traffic.stamps import make_stamp
from migrations_playbook.replacement import find_replacement

# Of a hundred requests.
MIX = {"look up": 50, "stamp": 15, "create": 10, "save": 15, "read": 10}
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
    wrote: dict[str, object] = field(default_factory=dict)


class Client:
    """One thread's requests.

    Arguments:
        model: the release's own model.
        script: what the project says of its rows.
        live: the live field.
        alias: the database.
        keys: the primary keys of the rows that are its own.
    """

    def __init__(
        self, model: type[models.Model], script: Script, live: str, alias: str, keys: list[str]
    ) -> None:
        self.alias = alias
        self.rows = model._default_manager.using(alias)
        self.live: Any = model._meta.get_field(live)
        self.stamp: Any = model._meta.get_field(script.stamp) if script.stamp else None
        self.make = import_callable(script.row) if script.row else None
        self.reads = import_callable(script.read) if script.read else None
        self.books = Books()
        self.random = random.Random(keys[0] if keys else 0)  # noqa: S311 - traffic, no secret
        self.kept: dict[str, models.Model] = {}
        self.known: dict[str, tuple[Any, float]] = {}
        self.requests: dict[str, Callable[[], None]] = {
            "look up": self.look_up,
            "stamp": self.stamp_row if self.stamp else self.look_up,
            "create": self.create_row,
            "save": self.save_stale,
            "read": self.read_rows,
        }
        for key in keys:
            self.kept[key] = self.fetch_row(key)

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
        key = self.choose_key()
        value, since = self.known[key]
        asked = time.monotonic()
        found = self.rows.filter(**{self.live.name: value}).first()
        answered = time.monotonic()
        if found is None:
            self.books.missed.append((key, since, answered))
            found = self.fetch_row(key)
        elif str(found.pk) != key:
            raise WrongRowError
        else:
            self.note_row(found, asked, answered)
        if self.random.random() < RENEWED:
            self.kept[key] = found

    def stamp_row(self) -> None:
        """Write to a row of our own, found by the value that we were last told."""
        assert self.stamp is not None
        key = self.choose_key()
        value, since = self.known[key]
        stamp = make_stamp(self.stamp)
        touched = self.rows.filter(**{self.live.name: value}).update(**{self.stamp.name: stamp})
        if not touched:
            self.books.missed.append((key, since, time.monotonic()))
            self.fetch_row(key)
            if not self.rows.filter(pk=key).update(**{self.stamp.name: stamp}):
                raise WrongRowError
        self.books.wrote[key] = stamp

    def create_row(self) -> None:
        """Add a row; the row is our own from then on."""
        asked = time.monotonic()
        made = self.rows.create(**(self.make(self.rows.model) if self.make else {}))
        answered = time.monotonic()
        self.note_row(made, asked, answered)
        self.books.created.append((str(made.pk), asked, answered))
        self.kept[str(made.pk)] = made

    def save_stale(self) -> None:
        """Save all fields of an object that was loaded a while ago."""
        key = self.choose_key()
        stale = self.kept[key]
        if self.stamp is None:
            stale.save(using=self.alias)
            return
        stamp = make_stamp(self.stamp)
        setattr(stale, self.stamp.attname, stamp)
        stale.save(using=self.alias)
        self.books.wrote[key] = stamp

    def read_rows(self) -> None:
        """Read rows, whoever made them: as the project says, or the page of the newest."""
        asked = time.monotonic()
        page = list(self.choose_rows())
        answered = time.monotonic()
        for each in page:
            self.books.told.append((str(each.pk), self.read_live(each), asked, answered))

    def choose_rows(self) -> Iterable[models.Model]:
        if self.reads is None:
            return self.rows.order_by("-pk")[:PAGE]
        value, _ = self.known[self.choose_key()]
        rows: Iterable[models.Model] = self.reads(self.rows.all(), value)
        return rows

    def fetch_row(self, key: str) -> models.Model:
        """Read a row by its key, and believe what it says."""
        asked = time.monotonic()
        found = self.rows.get(pk=key)
        self.note_row(found, asked, time.monotonic())
        return found

    def note_row(self, row: models.Model, asked: float, answered: float) -> None:
        """Enter what a row said, and remember its live value for the next look-up."""
        key = str(row.pk)
        self.known[key] = (getattr(row, self.live.attname), asked)
        self.books.told.append((key, self.read_live(row), asked, answered))

    def read_live(self, row: models.Model) -> str:
        """Give a row's live value as PostgreSQL writes it."""
        value = self.live.get_db_prep_value(
            getattr(row, self.live.attname), connections[self.alias], prepared=False
        )
        is_binary = isinstance(value, bytes | memoryview)
        return f"\\x{bytes(value).hex()}" if is_binary else str(value)

    def choose_key(self) -> str:
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


@dataclass
class Crew:
    """The threads of a process, and what they share.

    Arguments:
        ready: all have read their rows.
        stop: all finish their last request.
        reporter: collects what they report.
        schedule: set before the first request.
    """

    ready: threading.Barrier
    stop: threading.Event
    reporter: Reporter
    schedule: Schedule
    failures: list[Exception] = field(default_factory=list)

    def work(self, make: Callable[[], Client]) -> None:
        """Work through one client's requests from the first to the last; then file its books."""
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
            ("wrote", stamps),
        ):
            with cursor.copy(f"COPY rehearsal.{table} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)


def run_client(
    script: Script, alias: str, *, release: Release, keys: list[list[str]], rate: float
) -> None:
    """Be one process of a release, until standard input ends.

    Arguments:
        script: what is rehearsed.
        alias: the database.
        release: whose models are used.
        keys: a list for each thread: the primary keys of the rows that are its own.
        rate: requests a second of all threads together.
    """
    # The terminal's ^C is the rehearsal's business, which then ends our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replacement = find_replacement(script.model, script.shadow)
    model = History(connections[alias], replacement).read_model(release)
    live = replacement.declaration.live
    crew = Crew(
        threading.Barrier(len(keys) + 1), threading.Event(), Reporter(sys.stdout), Schedule(rate)
    )

    def hire(own: list[str]) -> threading.Thread:
        return threading.Thread(
            target=crew.work, args=(lambda: Client(model, script, live, alias, own),)
        )

    threads = [hire(own) for own in keys]
    for thread in threads:
        thread.start()
    try:
        crew.ready.wait(timeout=60)
    except threading.BrokenBarrierError as error:
        raise (crew.failures or [error])[0] from None
    crew.schedule.began = time.monotonic()
    crew.reporter.add("ready")
    crew.reporter.flush()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        crew.stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
            crew.reporter.flush()
    crew.reporter.flush()
