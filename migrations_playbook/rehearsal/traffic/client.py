"""A client of a release, at work through Django's ORM; keeps its own books.

The models are the release's; the requests go through Django's ORM, as an application's would. Every
client has rows of its own, which nobody else writes. Its books have the values told, the values
and stamps written, and the values looked up in vain. At the end they are copied into the scratch
database, to be compared there; the values appear nowhere else.
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
from migrations_playbook.rehearsal.plots.base import Role
from migrations_playbook.rehearsal.plots.kinds import plot_of
from migrations_playbook.rehearsal.script import Script, import_callable
from migrations_playbook.rehearsal.traffic.rows import RowFactory
from migrations_playbook.rehearsal.traffic.stamps import make_stamp
from migrations_playbook.replacement import Replacement

# Of a hundred requests.
MIX = {"look up": 30, "write": 20, "stamp": 15, "create": 10, "save": 15, "read": 10}
PAGE = 20
# How often a looked-up object takes the place of the one that is kept for a stale save.
RENEWED = 0.3
# How often a value is written by save().
SAVED = 0.5


class WrongRowError(Exception):
    """A lookup found another row than the value's own."""


@dataclass
class Books:
    """A client's answers and deeds; times are of the machine's monotonic clock, in seconds."""

    told: list[tuple[str, Role, str | None, float, float]] = field(default_factory=list)
    missed: list[tuple[str, float, float]] = field(default_factory=list)
    created: list[tuple[str, float, float]] = field(default_factory=list)
    written: list[tuple[str, Role, str | None, bool, float, float]] = field(default_factory=list)
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
        self.plot = plot_of(replacement)
        self.fields = self.plot.list_fields(model)
        # The field by which rows are looked up.
        self.role, self.field = next(iter(self.fields.items()))
        if len(self.fields) > 1:
            replacement.declaration.follow_saves(model)
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
            "write": self.write_value if self.plot.writes else self.look_up,
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
            self.believe_row(found, asked, answered)
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

    def write_value(self) -> None:
        """Write a new value to a row of our own, by itself or with all fields of a kept object."""
        key = self.choose_key()
        role, written = self.random.choice(list(self.fields.items()))
        value = self.factory.draw_value(role)
        asked = time.monotonic()
        # A save() writes the first field as it was loaded, so it may bring the first field alone.
        saved = role == self.role and self.random.random() < SAVED
        if saved:
            setattr(self.kept[key], written.attname, value)
            self.save_kept(key)
        elif not self.rows.filter(pk=key).update(**{written.name: value}):
            raise WrongRowError
        self.note_written(key, role, value, asked)
        found = self.fetch_row(key)
        if not saved:  # an object that was saved is saved again one day, as it is
            self.kept[key] = found

    def create_row(self) -> None:
        """Add a row; the row is our own from then on."""
        fields = self.factory.read_fields()
        asked = time.monotonic()
        made = self.rows.create(**fields)
        answered = time.monotonic()
        key, value = str(made.pk), getattr(made, self.field.attname)
        self.note_told(key, self.role, value, asked, answered)
        self.known[key] = (value, asked)
        self.books.created.append((key, asked, answered))
        if self.plot.writes:
            self.note_written(key, self.role, value, asked)
        self.kept[key] = made

    def save_stale(self) -> None:
        """Save all fields of an object loaded a while ago."""
        key = self.choose_key()
        asked = time.monotonic()
        self.save_kept(key)
        if self.plot.writes:
            value = getattr(self.kept[key], self.field.attname)
            self.note_written(key, self.role, value, asked, stale=True)
            self.fetch_row(key)

    def save_kept(self, key: str) -> None:
        """Save a kept object, with a new stamp."""
        kept = self.kept[key]
        if self.stamp is None:
            kept.save(using=self.alias)
            return
        stamp = make_stamp(self.stamp)
        setattr(kept, self.stamp.attname, stamp)
        kept.save(using=self.alias)
        self.books.wrote[key] = stamp

    def read_rows(self) -> None:
        """Read rows, whoever made them: as the project says, or the page of the newest."""
        asked = time.monotonic()
        page = list(self.choose_rows())
        answered = time.monotonic()
        for each in page:
            self.note_row(each, asked, answered)

    def choose_rows(self) -> Iterable[models.Model]:
        """Choose the rows to read: as the project says, or the newest."""
        if self.reads is None:
            return self.rows.order_by("-pk")[:PAGE]
        value, _ = self.known[self.choose_key()]
        rows: Iterable[models.Model] = self.reads(self.rows.all(), value)
        return rows

    def find_rows(self, key: str, value: Any) -> models.QuerySet[models.Model]:
        """Find by a value; by the key too where the value is none, or may be of several rows."""
        found = self.rows.all() if value is None else self.rows.filter(**{self.field.name: value})
        if value is None or not self.plot.identifies(self.field):
            return found.filter(pk=key)
        return found

    def fetch_row(self, key: str) -> models.Model:
        """Read a row by its key, and believe the row."""
        asked = time.monotonic()
        found = self.rows.get(pk=key)
        self.believe_row(found, asked, time.monotonic())
        return found

    def believe_row(self, row: models.Model, asked: float, answered: float) -> None:
        """Enter a row's values, and remember one for the next look-up."""
        self.note_row(row, asked, answered)
        self.known[str(row.pk)] = (getattr(row, self.field.attname), asked)

    def note_row(self, row: models.Model, asked: float, answered: float) -> None:
        """Enter the values that a row tells."""
        for role, told in self.fields.items():
            self.note_told(str(row.pk), role, getattr(row, told.attname), asked, answered)

    def note_told(self, key: str, role: Role, value: Any, asked: float, answered: float) -> None:
        """Enter a value that we were told."""
        self.books.told.append((key, role, self.spell(role, value), asked, answered))

    def note_written(
        self, key: str, role: Role, value: Any, asked: float, *, stale: bool = False
    ) -> None:
        """Enter a value that we have written by now."""
        answered = time.monotonic()
        self.books.written.append((key, role, self.spell(role, value), stale, asked, answered))

    def spell(self, role: Role, value: Any) -> str | None:
        """Spell a value as PostgreSQL reads it."""
        value = self.fields[role].get_db_prep_value(value, connections[self.alias], prepared=False)
        if value is None:
            return None
        is_binary = isinstance(value, bytes | memoryview)
        return f"\\x{bytes(value).hex()}" if is_binary else str(value)

    def choose_key(self) -> str:
        """Choose a row of our own."""
        return self.random.choice(list(self.kept))
