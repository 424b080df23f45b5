"""Conversions that a history is made of: a model each, and in Python what PostgreSQL makes.

Values are texts, as PostgreSQL shows them to a session with its standard settings.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TypeAlias

from django.db import models
from django.db.models import F
from django.db.models.functions import MD5, Cast, Lower, Trim

from migrations_playbook import Shadow
from tests.fixtures.models_zoo import Noted

Value: TypeAlias = str | None
Way: TypeAlias = Callable[[str], str]


class Unfit(Exception):
    """A value that a type, or a way, does not take."""


@dataclass(frozen=True)
class Subject:
    """A conversion, and what it makes.

    Arguments:
        model: the model; its columns are `value` and `value_new`.
        shadow: its declaration.
        older: reads a text as a value of the older column's type.
        newer: reads a text as a value of the newer column's type.
        up: makes a newer value of an older one.
        down: the way back; None for no way.
        texts: what is written into the older column, and into the newer one.
        alike: whether the two types are the same.
    """

    model: type[models.Model]
    shadow: Shadow
    older: Way
    newer: Way
    up: Way
    down: Way | None
    texts: tuple[tuple[str, ...], tuple[str, ...]]
    alike: bool = False
    # Of values that the older type calls equal, one.
    key: Way = str

    @property
    def may_be_null(self) -> bool:
        field: Any = self.model._meta.get_field("value")
        return bool(field.null)

    def go_up(self, value: Value) -> Value:
        """Make a newer value; None where that is impossible."""
        return _try(self.up, self.newer, value)

    def agree(self, older: Value, newer: Value) -> bool:
        """Tell whether one of the two is what is made of the other."""
        down = self.go_down(newer)
        same = down is not None and older is not None and self.key(down) == self.key(older)
        return self.go_up(older) == newer or same or older is down is None

    def go_down(self, value: Value) -> Value:
        return None if self.down is None else _try(self.down, self.older, value)


def _try(way: Way, kind: Way, value: Value) -> Value:
    try:
        return None if value is None else kind(way(value))
    except Unfit:
        return None


def same(text: str) -> str:
    return text


def number(bits: int) -> Way:
    def read(text: str) -> str:
        if not -(2 ** (bits - 1)) <= int(text) < 2 ** (bits - 1):
            raise Unfit
        return str(int(text))

    return read


def decimals(places: int) -> Way:
    return lambda text: str(Decimal(text).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def identity(text: str) -> str:
    if re.fullmatch(r"\{?[0-9a-fA-F-]{32,36}\}?", text) is None:
        raise Unfit
    return str(uuid.UUID(text.strip("{}")))


def instant(text: str) -> str:
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S+00")
    except ValueError:
        raise Unfit from None


def duration(text: str) -> str:
    known = {each: each for each in ("30 days", "1 mon", "24:00:00", "1 day")} | {"P1M": "1 mon"}
    if text not in known:
        raise Unfit
    return known[text]


def octets(text: str) -> str:
    if text.startswith("\\x"):
        if re.fullmatch(r"\\x([0-9a-fA-F]{2})*", text) is None:
            raise Unfit
        return text.lower()
    return "\\x" + text.encode().hex()


def digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def short(text: str) -> str:
    """Of a text that is too long PostgreSQL leaves out spaces alone."""
    if text[5:].strip(" "):
        raise Unfit
    return text[:5]


def made_of(
    name: str, older: Any, newer: Any, up: Any, down: Any, *, moves: bool = False
) -> tuple[type[models.Model], Shadow]:
    """Make a model of two columns, and its declaration."""
    fields: dict[str, Any] = {"value": older, "value_new": newer, "__module__": __name__}
    meta = type("Meta", (Noted.Meta,), {"abstract": False, "db_table": f"soak_{name}"})
    model: Any = type(f"Soak{name.title()}", (Noted,), fields | {"Meta": meta})
    return model, Shadow(live="value", shadow="value_new", up=up, down=down, moves=moves)


def text(**options: Any) -> models.TextField[Any, Any]:
    return models.TextField(**options)


VALUE, NEW = F("value"), F("value_new")
BOTH_WAYS = Cast(VALUE, models.TextField())
UUIDS = tuple(f"8a8f8a52-0000-4000-8000-00000000000{each}" for each in range(3))
INSTANTS = ("2026-02-01 12:00:00+00", "2026-02-01 13:00:00+01", "2026-07-01 00:30:00+00")
WORDS = ("Ann", "ann", " Ann ", "ANN", "bob", "")

SUBJECTS = {
    "a wider number": Subject(
        *made_of(
            "number", models.IntegerField(default=1), models.BigIntegerField(null=True), VALUE, NEW
        ),
        number(32), number(64), same, same,
        (("-1", "7", "2147483647"), ("7", "8", "5000000000", "-5000000000")),
    ),
    "a text without its case": Subject(
        *made_of("case", text(null=True), text(null=True), Lower(Trim("value")), NEW),
        same, same, lambda value: value.strip(" ").lower(), same, (WORDS, WORDS), alike=True,
    ),
    "a text to a uuid": Subject(
        *made_of(
            "uuid", text(default=UUIDS[0]), models.UUIDField(null=True),
            Cast("value", models.UUIDField()), Cast("value_new", models.TextField()),
        ),
        same, identity, identity, same,
        ((*UUIDS, UUIDS[1].upper(), f"{{{UUIDS[2]}}}", "none"), (*UUIDS, UUIDS[2].upper())),
    ),
    "a digest": Subject(
        *made_of("digest", text(default="open"), text(null=True), MD5("value"), None),
        same, same, digest, None, (("open", "sesame"), (digest("open"), "made up")), alike=True,
    ),
    "an instant to a text": Subject(
        *made_of(
            "instant", models.DateTimeField(default=datetime(2026, 1, 1, tzinfo=UTC)),
            text(null=True), BOTH_WAYS, Cast("value_new", models.DateTimeField()),
        ),
        instant, same, same, instant, (INSTANTS, (*INSTANTS, "some day")),
    ),
    "a duration to a text": Subject(
        *made_of(
            "duration", models.DurationField(null=True), text(null=True), BOTH_WAYS,
            Cast("value_new", models.DurationField()),
        ),
        duration, same, same, duration,
        (("30 days", "1 mon", "24:00:00"), ("30 days", "P1M", "1 day", "for ever")),
        key=lambda value: {"1 mon": "30 days", "24:00:00": "1 day"}.get(value, value),
    ),
    "octets to a text": Subject(
        *made_of(
            "octets", models.BinaryField(default=b"a"), text(null=True), BOTH_WAYS,
            Cast("value_new", models.BinaryField()),
        ),
        octets, same, same, octets, (("\\x61", "\\x00ff", "b"), ("\\x61", "\\xzz", "c")),
    ),
    "a float to a text": Subject(
        *made_of(
            "float", models.FloatField(default=0.5), text(null=True), BOTH_WAYS,
            Cast("value_new", models.FloatField()),
        ),
        lambda value: repr(float(value)) if value != "x" else _unfit(), same, same,
        lambda value: repr(float(value)) if value != "x" else _unfit(),
        (("0.1", "3.0000000000000004", "1e+300"), ("0.1", "0.10", "x")),
    ),
    "a shorter number": Subject(
        *made_of(
            "precision",
            models.DecimalField(max_digits=12, decimal_places=4, default=1),
            models.DecimalField(max_digits=12, decimal_places=2, null=True), VALUE, NEW,
        ),
        decimals(4), decimals(2), same, same,
        (("1.2345", "1.23", "1.2350", "7"), ("1.23", "1.24", "7.00")), alike=True,
    ),
    "a text of any length": Subject(
        *made_of(
            "length", models.CharField(max_length=5, default="a"), text(null=True), VALUE, NEW
        ),
        short, same, same, same,
        (("one", "one  ", "fives"), ("one", "too long", "")),
    ),
    "another name": Subject(
        *made_of(
            "name", models.IntegerField(default=1), models.IntegerField(null=True), VALUE, NEW,
            moves=True,
        ),
        number(32), number(32), same, same, (("1", "2", "3"), ("1", "2", "4")), alike=True,
    ),
    "another name and unit": Subject(
        *made_of(
            "unit", models.IntegerField(default=1), models.IntegerField(null=True),
            VALUE + 1000, NEW - 1000, moves=True,
        ),
        number(32), number(32), lambda value: str(int(value) + 1000),
        lambda value: str(int(value) - 1000),
        (("1", "2", "1001", "2147483647"), ("1", "1001", "1002", "-2147483648")), alike=True,
    ),
}  # fmt: skip


def _unfit() -> str:
    raise Unfit
