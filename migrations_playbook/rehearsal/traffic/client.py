"""A client of a release, at work through Django's ORM; keeps its own books.

The models are the release's; the requests go through Django's ORM, as an application's would. Every
client has rows of its own, which nobody else writes. Its books have the values told, the values
written, and the values looked up in vain. At the end they are copied into the scratch database, to
be compared there; the values appear nowhere else.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db import Error as DatabaseError
from django.db import connections, models

from migrations_playbook.errors import primary_message
from migrations_playbook.rehearsal.script import Script, import_callable
from migrations_playbook.rehearsal.traffic.rows import RowFactory
from migrations_playbook.rehearsal.traffic.stamps import make_stamp
from migrations_playbook.replacement import Replacement

# Of a hundred requests.
MIX = {"look up": 50, "stamp": 15, "create": 10, "save": 15, "read": 10}
PAGE = 20
# How often a looked-up object takes the place of the one that is kept for a stale save.
RENEWED = 0.3


class WrongRowError(Exception):
    """A lookup found another row than the value's own."""


@dataclass
class Books:
    """A client's answers and deeds; times are of the machine's monotonic clock, in seconds."""

    told: list[tuple[str, str | None, float, float]] = field(default_factory=list)
    missed: list[tuple[str, float, float]] = field(default_factory=list)
    created: list[tuple[str, float, float]] = field(default_factory=list)
    wrote: dict[str, object] = field(default_factory=dict)


class Client:
    """A thread's requests.

    Arguments:
        model: the release's own model.
        script: the project's part, with its rows.
        replacement: the rehearsed replacement.
        alias: the database.
        keys: the primary keys of its own rows.
    """

    def __init__(
        self,
        model: type[models.Model],
        script: Script,
        replacement: Replacement,
        alias: str,
        keys: list[str],
    ) -> None:
        self.alias = alias
        self.rows = model._default_manager.using(alias)
        self.live: Any = model._meta.get_field(replacement.declaration.live)
        self.stamp: Any = model._meta.get_field(script.stamp) if script.stamp else None
        make = import_callable(script.row) if script.row else None
        self.factory = RowFactory(model, replacement, alias, make)
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
        """Make a request; return its kind, and the fault in words (without any value)."""
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
        """Find a row of our own by the value last told."""
        key = self.choose_key()
        value, since = self.known[key]
        asked = time.monotonic()
        found = self.find_rows(key, value).first()
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
        """Write to a row of our own, found by the value last told."""
        assert self.stamp is not None
        key = self.choose_key()
        value, since = self.known[key]
        stamp = make_stamp(self.stamp)
        touched = self.find_rows(key, value).update(**{self.stamp.name: stamp})
        if not touched:
            self.books.missed.append((key, since, time.monotonic()))
            self.fetch_row(key)
            if not self.rows.filter(pk=key).update(**{self.stamp.name: stamp}):
                raise WrongRowError
        self.books.wrote[key] = stamp

    def create_row(self) -> None:
        """Add a row; the row is our own from then on."""
        fields = self.factory.read_fields()
        asked = time.monotonic()
        made = self.rows.create(**fields)
        answered = time.monotonic()
        self.note_row(made, asked, answered)
        self.books.created.append((str(made.pk), asked, answered))
        self.kept[str(made.pk)] = made

    def save_stale(self) -> None:
        """Save all fields of an object loaded a while ago."""
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
        """Choose the rows to read: as the project says, or the newest."""
        if self.reads is None:
            return self.rows.order_by("-pk")[:PAGE]
        value, _ = self.known[self.choose_key()]
        rows: Iterable[models.Model] = self.reads(self.rows.all(), value)
        return rows

    def find_rows(self, key: str, value: Any) -> models.QuerySet[models.Model]:
        """Find by the live value; a row without a live value can only be found by its key."""
        return self.rows.filter(**({"pk": key} if value is None else {self.live.name: value}))

    def fetch_row(self, key: str) -> models.Model:
        """Read a row by its key, and believe the row."""
        asked = time.monotonic()
        found = self.rows.get(pk=key)
        self.note_row(found, asked, time.monotonic())
        return found

    def note_row(self, row: models.Model, asked: float, answered: float) -> None:
        """Enter a row's values, and remember its live value for the next look-up."""
        key = str(row.pk)
        self.known[key] = (getattr(row, self.live.attname), asked)
        self.books.told.append((key, self.read_live(row), asked, answered))

    def read_live(self, row: models.Model) -> str | None:
        """Give a row's live value in PostgreSQL's own spelling."""
        value = self.live.get_db_prep_value(
            getattr(row, self.live.attname), connections[self.alias], prepared=False
        )
        if value is None:
            return None
        is_binary = isinstance(value, bytes | memoryview)
        return f"\\x{bytes(value).hex()}" if is_binary else str(value)

    def choose_key(self) -> str:
        """Choose a row of our own."""
        return self.random.choice(list(self.kept))
