"""The field that the clients write, so a lost write is seen."""

from __future__ import annotations

import secrets
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.utils import timezone

from migrations_playbook.errors import PlaybookError

# The largest smallint: it fits every kind of integer.
SMALLINT = 32_767
TEXT = 12


def make_stamp(field: Any) -> Any:
    """Make a value, hardly ever the same as before.

    Arguments:
        field: a field that `can_stamp`.
    """
    if isinstance(field, models.DateTimeField):
        return timezone.now()
    if isinstance(field, models.IntegerField):
        return secrets.randbelow(SMALLINT)
    return secrets.token_hex(TEXT)[: field.max_length or TEXT]


def choose_stamp(model: type[models.Model], named: str | None, own: set[str]) -> str | None:
    """Choose the field that the clients write.

    Arguments:
        model: release N's model.
        named: the project's choice; None to take the first fitting field.
        own: the live and the shadow field, which are no stamps.

    Returns:
        The field's name; None when no field will do.

    Raises:
        PlaybookError: the named field will not do.
    """
    if named is None:
        # A time that may be missing is the likeliest to mean an event: redeemed, used, seen.
        ranked = sorted(
            (each for each in model._meta.local_concrete_fields if can_stamp(each, own)),
            key=lambda each: (not isinstance(each, models.DateTimeField), not each.null),
        )
        return next((each.name for each in ranked), None)
    try:
        field = model._meta.get_field(named)
    except FieldDoesNotExist:
        field = None
    if field is None or not can_stamp(field, own):
        raise PlaybookError(
            f"{named!r} of {model._meta.label} is no field that the clients could write: name a "
            "date with time, a text or an integer with --stamp, neither unique nor with choices."
        )
    return named


def can_stamp(field: Any, own: set[str]) -> bool:
    """Say whether a client may write any value to a field, and find the value there later."""
    if not isinstance(field, models.DateTimeField | models.CharField | models.TextField) and not (
        isinstance(field, models.IntegerField)
    ):
        return False
    return not (
        field.name in own
        or field.primary_key
        or field.unique
        or field.choices
        or getattr(field, "auto_now", False)
    )
