"""What cannot be played as one is refused in one sentence, before anything is migrated."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.db.models import Count, F, Func, OuterRef, Subquery, Value
from django.db.models.functions import Concat, Length, Now

from migrations_playbook import Group, RandomText, Sha256, Shadow
from migrations_playbook.expand.checks.register import check_declarations, declaration_errors
from tests.fixtures.models_groups import ACCESS, BOTH, PASS, Access, Both, Pass
from tickets.models import Ticket

DRAWN = RandomText(32)
TOKEN = Shadow("token", "new_token", DRAWN)
CHECKSUM = Shadow("token_checksum", "new_token_checksum", Sha256("new_token"))
OTHERS: Any = Subquery(Access._default_manager.filter(id=OuterRef("id")).values("new_token")[:1])


def complaints(model: type[models.Model], *members: Shadow) -> list[tuple[str, str]]:
    """The ids and sentences for all members, in order."""
    found = [
        each for shadow in Group(*members).members for each in declaration_errors(model, shadow)
    ]
    assert all(each.hint for each in found)
    return [(str(each.id).removeprefix("playbook."), each.msg) for each in found]


def test_groups_that_can_be_played_are_sound() -> None:
    for model, group in ((Access, ACCESS), (Pass, PASS), (Both, BOTH)):
        assert complaints(model, *group.members) == []


def made_of(value: Any) -> Shadow:
    """The second member with another value."""
    return Shadow("token_checksum", "new_token_checksum", value)


@pytest.mark.parametrize(
    ("members", "number", "says"),
    [
        ([TOKEN], "E050", "new_token is its only member"),
        ([TOKEN, CHECKSUM, CHECKSUM], "E052", "token_checksum is in two of its members"),
        ([CHECKSUM, TOKEN], "E053", "refers to new_token, which stands behind it"),
        ([TOKEN, made_of(F("token"))], "E053", "refers to token, which has the values of before"),
        ([TOKEN, made_of(Sha256("note"))], "E053", "refers to note, which is no shadow of the"),
        ([TOKEN, made_of(Sha256("new_token_checksum"))], "E053", "refers to itself"),
        ([TOKEN, made_of(Sha256("nowhere"))], "E053", "refers to nowhere, which is no shadow"),
        ([TOKEN, made_of(OTHERS)], "E016", "has a subquery"),
        ([TOKEN, made_of(Count("new_token"))], "E053", "looks at other rows"),
        ([TOKEN, made_of(Concat("new_token", DRAWN))], "E054", "calls gen_random_uuid"),
        ([TOKEN, made_of(Concat("new_token", Now()))], "E054", "makes another value each time"),
        ([TOKEN, made_of(Concat("new_token", Value("$$")))], "E014", "has $$ in it"),
        ([TOKEN, made_of(None)], "E010", "is missing"),
        ([TOKEN, made_of(Func(function="random"))], "E016", "no source of secrets"),
    ],
)
def test_what_cannot_be_played_as_one_is_a_sentence(
    members: list[Shadow], number: str, says: str
) -> None:
    (first, message), *_ = complaints(Access, *members)
    assert first == number
    assert says in message


def test_a_conversion_is_no_member() -> None:
    up = Shadow("note", "new_token", up=F("note"))
    found = complaints(Access, up, Shadow("token", "new_token", DRAWN))
    assert [number for number, _ in found][:2] == ["E051", "E052"]


def test_a_value_that_must_be_there_is_of_a_source_that_is() -> None:
    secret = Shadow("secret", "new_secret", RandomText(32))
    note = Shadow("note", "new_mark", F("new_secret"))
    found = complaints(Pass, secret, note)
    assert ("E055", "Group: note may not be null, and secret, its source, may.") in found


def test_a_checksum_that_is_too_long_is_a_sentence() -> None:
    short = Shadow("capitals", "new_capitals", Sha256("new_secret"))
    found = complaints(Pass, Shadow("secret", "new_secret", RandomText(32)), short)
    says = "Group: the value of new_capitals makes 64 characters, and capitals has max_length=32."
    assert found == [("E015", says)]


def test_a_number_that_is_no_uuid_is_a_sentence() -> None:
    long = Shadow("token_copy", "new_token_copy", Length("new_token"))
    found = complaints(Both, Shadow("token", "new_token", RandomUUID()), long)
    says = "Group: the value of new_token_copy makes a integer, and token_copy is a uuid."
    assert found == [("E015", says)]


def test_a_group_outside_of_the_meta_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(Shadow("token", "other", RandomUUID()), Shadow("id", "another", RandomUUID()))
    monkeypatch.setattr(Ticket, "group", group, raising=False)
    found = {each.msg for each in check_declarations(None)}
    assert [each for each in found if "tickets.Ticket.group is a Shadow outside" in each]
