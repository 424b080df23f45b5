"""The field that the clients of a rehearsal write is chosen, or named."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.db import models

from migrations_playbook.errors import PlaybookError
from migrations_playbook.rehearsal.traffic.stamps import choose_stamp, make_stamp
from tickets.models import Ticket


@pytest.mark.parametrize(
    ("model", "own", "stamp"),
    [
        (Ticket, {"token", "new_token"}, "redeemed_at"),
        # A time that may be missing goes before one that may not, and that before a text.
        (User, {"username"}, "last_login"),
        (Session, {"session_key"}, "expire_date"),
        (ContentType, {"model"}, "app_label"),
        # The one text is unique.
        (Group, set(), None),
    ],
)
def test_it_is_chosen(model: type[models.Model], own: set[str], stamp: str | None) -> None:
    assert choose_stamp(model, None, own) == stamp


@pytest.mark.parametrize("named", ["nothing", "username", "is_staff", "id", "groups", "password"])
def test_one_that_will_not_do_is_refused(named: str) -> None:
    with pytest.raises(PlaybookError) as refused:
        choose_stamp(User, named, {"password"})
    assert str(refused.value) == (
        f"{named!r} of auth.User is no field that the clients could write: name a date with time, "
        "a text or an integer with --stamp, neither unique nor with choices."
    )


def test_one_that_will_do_is_taken() -> None:
    assert choose_stamp(User, "first_name", {"password"}) == "first_name"


@pytest.mark.parametrize(
    "field",
    [
        models.CharField(max_length=3),
        models.CharField(max_length=200),
        models.TextField(),
        models.DateTimeField(),
        models.SmallIntegerField(),
        models.PositiveBigIntegerField(),
    ],
)
def test_a_stamp_fits_its_field(field: models.Field[object, object]) -> None:
    field.run_validators(field.to_python(make_stamp(field)))
