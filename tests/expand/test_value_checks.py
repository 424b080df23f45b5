"""What a `Shadow` may draw: each hint is a value that works when it is pasted."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.db.models import F
from django.db.models.functions import (
    MD5,
    Cast,
    Coalesce,
    Concat,
    Left,
    Now,
    Random,
    Replace,
    Upper,
)
from django.test.utils import isolate_apps

import migrations_playbook
from migrations_playbook import DIGITS, HEX, UNAMBIGUOUS, RandomHexUUID, RandomText, Shadow
from migrations_playbook.expand.checks.register import declaration_errors
from tests.expand.declared import errors_of

UUIDS = models.UUIDField()
TEXTS = models.TextField()
LONG = models.CharField(max_length=40)
SHORT = models.CharField(max_length=32)
TINY = models.CharField(max_length=12)
NUMBERS = models.BigIntegerField()
CAST = Cast(RandomUUID(), models.TextField())


def checked(value: Any, live: models.Field[Any, Any]) -> list[Any]:
    """The errors of a value for a column like this one."""
    shadow: Any = live.clone()
    shadow.null = True
    with isolate_apps("tickets"):
        attributes = {
            "__module__": __name__,
            "token": live.clone(),
            "new_token": shadow,
            "Meta": type("Meta", (), {"app_label": "tickets"}),
        }
        model = type("Subject", (models.Model,), attributes)
        return list(
            declaration_errors(model, Shadow(live="token", shadow="new_token", value=value))
        )


@pytest.mark.parametrize(
    ("value", "live"),
    [
        (RandomUUID(), UUIDS),
        (RandomUUID(), TEXTS),
        (RandomUUID(), LONG),
        (RandomHexUUID(), SHORT),
        (RandomHexUUID(), UUIDS),
        (RandomText(12), TINY),
        (RandomText(18, DIGITS), NUMBERS),
        (RandomText(9, DIGITS), models.IntegerField()),
        (Left(CAST, 12), TINY),
        (Upper(Replace(CAST, models.Value("-"), models.Value(""))), SHORT),
        (Concat(models.Value("sk_"), CAST), LONG),
        (models.Func(function="tools.fresh_token", output_field=models.UUIDField()), UUIDS),
        (models.Func(Random(), function="tools.mixed", output_field=models.UUIDField()), UUIDS),
    ],
)
def test_what_fits_is_not_complained_of(value: Any, live: models.Field[Any, Any]) -> None:
    assert checked(value, live) == []


@pytest.mark.parametrize(
    ("value", "live", "number", "says", "hint"),
    [
        (uuid.uuid4, UUIDS, "E010", "is not an expression", "RandomUUID()"),
        (uuid.uuid4, SHORT, "E010", "is not an expression", "RandomHexUUID()"),
        ("abc", TINY, "E010", "is not an expression", "RandomText(12)"),
        (lambda: 1, NUMBERS, "E010", "is not an expression", "RandomText(18, DIGITS)"),
        (RandomUUID, UUIDS, "E010", "is not an expression", "RandomUUID()"),
        (RandomUUID, SHORT, "E010", "is not an expression", "RandomHexUUID()"),
        (RandomText, TINY, "E010", "is not an expression", "RandomText(12)"),
        (RandomUUID(), SHORT, "E015", "makes 36 characters, and token has max_length=32", None),
        (RandomUUID(), TINY, "E015", "makes 36 characters", "RandomText(12)"),
        (RandomHexUUID(), TINY, "E015", "makes 32 characters", "RandomText(12)"),
        (
            RandomText(16, UNAMBIGUOUS, prefix="sk_"),
            TINY,
            "E015",
            "makes 19 characters",
            "RandomText(9, UNAMBIGUOUS, prefix='sk_')",
        ),
        (RandomText(20, "xyz"), TINY, "E015", "makes 20 characters", "RandomText(12, 'xyz')"),
        (RandomText(16), UUIDS, "E015", "texts that are no uuid", "RandomUUID()"),
        (RandomText(9), NUMBERS, "E015", "texts that are no bigint", "RandomText(18, DIGITS)"),
        (RandomText(19, DIGITS), NUMBERS, "E015", "18 digits", "RandomText(18, DIGITS)"),
        (RandomUUID(), NUMBERS, "E015", "makes a uuid, and token is a bigint", None),
        (RandomUUID(), models.BinaryField(), "E015", "makes a uuid, and token is a bytea", None),
        (models.Value(7), NUMBERS, "E016", "every row the same", "RandomText(18, DIGITS)"),
        (Upper(models.Value("abc random()")), TINY, "E016", "every row the same", None),
        (Cast(Now(), models.TextField()), TEXTS, "E016", "statement_timestamp() alone", None),
        (MD5(Cast(Random(), models.TextField())), SHORT, "E016", "random() alone", None),
        (
            models.Func(function="pg_catalog.uuidv7", output_field=models.UUIDField()),
            UUIDS,
            "E016",
            "uuidv7() alone, which is no source of secrets",
            "RandomUUID()",
        ),
        (
            models.expressions.RawSQL("(SELECT gen_random_uuid())", (), models.UUIDField()),
            UUIDS,
            "E016",
            "has a subquery, which PostgreSQL evaluates once",
            None,
        ),
        (
            Concat(Replace(CAST, models.Value("-"), models.Value("")), CAST),
            TEXTS,
            "E014",
            "cannot be written as SQL: Expression contains mixed types",
            "RandomHexUUID()",
        ),
        (RandomText(0), TINY, "E014", "its length must be a whole number from 1", None),
        (RandomText("16"), TINY, "E014", "its length must be a whole", None),  # type: ignore[arg-type]
        (RandomText(8, "aab"), TINY, "E014", "must have each character once", None),
        (RandomText(8, "a"), TINY, "E014", "2 to 64 characters", None),
        (RandomText(8, [1]), TINY, "E014", "2 to 64 characters", None),  # type: ignore[arg-type]
        (RandomText(8, prefix=None), TINY, "E014", "its prefix", None),  # type: ignore[arg-type]
        (RandomText(8, prefix="$$"), TINY, "E014", "has $$ in it", None),
    ],
)
def test_a_value_that_would_fail_or_be_guessed_is_a_sentence_and_one_to_write(
    value: Any, live: models.Field[Any, Any], number: str, says: str, hint: str | None
) -> None:
    (error,) = checked(value, live)
    assert error.id == f"playbook.{number}"
    assert error.msg.startswith("Shadow(value=...) ")
    assert says in error.msg
    proposed = error.hint.removeprefix("Write value=").split(", or ")[0].removesuffix(".")
    if hint is not None:
        assert proposed == hint
    names = {**vars(migrations_playbook), "RandomUUID": RandomUUID}
    assert checked(eval(proposed, names), live) == []  # noqa: S307 - what a user would paste


def test_the_alphabets_are_spelled_by_their_names() -> None:
    (error,) = checked(RandomText(48, HEX), LONG)
    assert error.hint == "Write value=RandomText(32, HEX)."


def test_a_python_function_is_no_value() -> None:
    shadow = Shadow(live="token", shadow="new_token", value=uuid.uuid4)  # type: ignore[arg-type]
    assert errors_of(shadow) == [
        ("playbook.E010", "Write value=RandomUUID(), or another database function.")
    ]


def test_a_value_that_converts_a_column_would_carry_the_leak_over() -> None:
    shadow = Shadow(live="token", shadow="new_token", value=Coalesce(F("token"), RandomUUID()))
    assert errors_of(shadow) == [
        ("playbook.E011", "Write value=RandomUUID(), or another expression without F().")
    ]
