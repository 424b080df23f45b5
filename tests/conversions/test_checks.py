"""What cannot be kept in step is refused in one sentence, before anything is migrated."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.postgres.functions import RandomUUID
from django.core.checks import WARNING
from django.db import models
from django.db.models import Count, F, Func, OuterRef, Subquery, Value
from django.db.models.functions import Cast, Coalesce, Lower

from migrations_playbook import Shadow
from migrations_playbook.expand.checks.conversions import warn_of_prepared
from migrations_playbook.expand.checks.register import declaration_errors
from tests.fixtures.models_conversions import (
    ADDRESSES,
    MOMENTS,
    REFERENCES,
    SECRETS,
    SIZES,
    Address,
    Document,
    Moment,
    PlainJson,
    Reference,
    Secret,
    Size,
    Text,
)


class Unwritten(Func):
    def as_sql(self, *arguments: Any, **options: Any) -> Any:
        raise KeyError("no template")


UP = F("size")
RANDOM = Func(function="random", output_field=models.FloatField())
OTHERS: Any = Subquery(Address._default_manager.filter(id=OuterRef("id")).values("id")[:1])


def complaints(model: type[models.Model], **declared: Any) -> list[tuple[str, str]]:
    found = list(declaration_errors(model, Shadow(**declared)))
    return [(str(each.id), each.msg) for each in found]


def test_conversions_that_can_be_kept_in_step_are_sound() -> None:
    for model, shadow in (
        (Size, SIZES),
        (Address, ADDRESSES),
        (Reference, REFERENCES),
        (Secret, SECRETS),
        (Moment, MOMENTS),
        (Size, Shadow("size", "size_big", up=Coalesce("size", 0), down=None)),
        (Document, Shadow("body", "body_json", up=Cast("body", models.JSONField()))),
    ):
        assert list(declaration_errors(model, shadow)) == []


@pytest.mark.parametrize(
    ("declared", "number", "says"),
    [
        ({"up": UP, "value": RandomUUID()}, "E040", "says two things"),
        ({"up": lambda size: size}, "E041", "what Python makes cannot be kept in step"),
        ({"up": Unwritten("size")}, "E041", "cannot be written as SQL: 'no template'."),
        ({"up": OTHERS}, "E042", "no trigger would fire when they change"),
        ({"up": Count("size")}, "E042", "no trigger would fire when they change"),
        ({"up": Value(1)}, "E043", "made of size alone, and refers to no column"),
        ({"up": F("size") + F("note")}, "E043", "made of size alone, and refers to note"),
        ({"up": UP, "down": UP}, "E043", "made of size_big alone, and refers to size"),
        (
            {"up": F("size") + Func(function="random", output_field=models.FloatField())},
            "E044",
            "makes another value each time",
        ),
        (
            {"up": Cast(Coalesce(Cast("size", models.TextField()), Value("")), models.UUIDField())},
            "E046",
            "whether a row is converted could not be told",
        ),
    ],
)
def test_what_cannot_be_kept_in_step_is_told(
    declared: dict[str, Any], number: str, says: str
) -> None:
    ((found, message),) = complaints(Size, live="size", shadow="size_big", **declared)
    assert found == f"playbook.{number}"
    assert says in message


def test_a_type_without_an_equality_is_told() -> None:
    up = Cast("body", PlainJson())
    ((found, message),) = complaints(Text, live="body", shadow="body_json", up=up)
    assert (found, "a json" in message) == ("playbook.E045", True)


def test_so_is_one_whose_values_are_to_be_drawn_anew() -> None:
    drawn = Cast(Value("{}"), PlainJson())
    found = dict(complaints(Text, live="body_json", shadow="other_json", value=drawn))
    assert "body_json is a json: the type has no equality" in found["playbook.E045"]


def test_keys_are_told_whatever_the_shadow_means() -> None:
    for live in ("id", "other"):
        found = complaints(Document, live=live, shadow=f"{live}_big", up=F(live))
        assert [number for number, _ in found] == ["playbook.E008"]


def test_a_column_that_may_be_null_does_not_move() -> None:
    ways = {"up": F("email"), "down": F("email_lower")}
    found = complaints(Address, live="email", shadow="email_lower", moves=True, **ways)
    ((number, message),) = found
    assert number == "playbook.E047"
    assert "what a null in email_lower means could not be told" in message


def test_a_shadow_that_says_neither_is_told() -> None:
    ((found, message),) = complaints(Address, live="email", shadow="email_lower")
    assert found == "playbook.E010"
    assert "is missing, and so is up=...: the one draws new values, the other converts" in message


def test_a_rotation_of_another_type_is_told_still() -> None:
    found = complaints(Size, live="size", shadow="size_big", value=Lower(Value("a")))
    assert "playbook.E005" in [number for number, _ in found]


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"server_side_binding": True, "prepare_threshold": 0}, True),
        ({"server_side_binding": True}, False),
        ({"prepare_threshold": 5}, False),
        ({}, False),
    ],
)
def test_a_database_whose_sessions_prepare_statements_is_named(
    options: dict[str, Any], *, warned: bool
) -> None:
    """See test_facts for what would happen there."""
    found = list(warn_of_prepared(Size, SIZES, {"default": {}, "large": options}))
    assert [(each.id, each.level) for each in found] == [("playbook.W048", WARNING)] * warned
    if warned:
        assert 'zoo.Size.size is to get another type, and the sessions of the database "large"' in (
            found[0].msg
        )
    # A column of the same type goes on being what was prepared.
    assert not list(warn_of_prepared(Address, ADDRESSES, {"large": options}))
