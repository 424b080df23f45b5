"""Values for the clients of a conversion to write: new ones, which fit both columns."""

from __future__ import annotations

import itertools
import secrets
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, models
from django.utils import timezone

# The largest integer, a text's length, and how far back a time lies at most, in days.
INTEGER, TEXT, DAYS = 2**31 - 1, 24, 3650


def find_sampler(fields: list[Any]) -> Callable[[], Any] | None:
    """Find what makes values of the last field's type that fit all of them.

    Arguments:
        fields: of one row; the last one's values are made, the others' are converted.

    Returns:
        A function that hardly ever makes a value twice; None for a type that is not known.
    """
    numbers = _count_numbers(fields)
    samplers: tuple[tuple[Any, Callable[[], Any]], ...] = (
        (models.UUIDField, uuid.uuid4),
        (models.DateTimeField, _draw_time),
        (models.DateField, _draw_date),
        (models.IntegerField, lambda: next(numbers)),
        (models.DecimalField, lambda: Decimal(next(numbers))),
        (models.FloatField, lambda: float(next(numbers))),
        (models.CharField | models.TextField, partial(_draw_text, fields)),
    )
    return next((make for kind, make in samplers if isinstance(fields[-1], kind)), None)


def _draw_time() -> datetime:
    age = timedelta(days=secrets.randbelow(DAYS), microseconds=secrets.randbelow(10**9))
    return timezone.now() - age


def _draw_date() -> date:
    return _draw_time().date()


def _count_numbers(fields: list[Any]) -> Iterator[int]:
    """Count from anywhere, within what each field of numbers takes: so two hardly ever meet."""
    bounds: list[int] = [INTEGER]
    for each in fields:
        if isinstance(each, models.DecimalField):
            bounds.append(int(10 ** (each.max_digits - each.decimal_places)) - 1)
        elif isinstance(each, models.IntegerField):
            operations = connections[DEFAULT_DB_ALIAS].ops
            bounds.append(operations.integer_field_range(each.get_internal_type())[1])
    first = secrets.randbelow(min(bounds))
    return (number % min(bounds) for number in itertools.count(first))


def _draw_text(fields: list[Any]) -> str:
    """Draw letters of both cases, as many as each field takes: some conversions take the case."""
    lengths = [each.max_length for each in fields if getattr(each, "max_length", None)]
    return secrets.token_urlsafe(TEXT)[: min([TEXT, *lengths])]
