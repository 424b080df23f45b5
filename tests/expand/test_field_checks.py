"""Which fields may be a live column and its shadow; each hint is a line to write."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.test.utils import isolate_apps

from migrations_playbook import Shadow
from migrations_playbook.expand.checks.register import declaration_errors
from tests.expand.declared import TOKEN, VALUE, errors_of, messages_of


def test_a_missing_shadow_is_a_line_to_write() -> None:
    assert errors_of(new_token=None) == [
        (
            "playbook.E002",
            (
                "Write new_token = models.UUIDField(null=True, editable=False), "
                'then run "manage.py makemigrations".'
            ),
        )
    ]


def test_a_missing_live_field_is_a_name_to_correct() -> None:
    assert errors_of(token=None) == [
        ("playbook.E002", "Write token = ..., or correct the live of the Shadow.")
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"new_token": models.TextField(null=True)},
            (
                "playbook.E005",
                "Write new_token = models.UUIDField(null=True, editable=False).",
            ),
        ),
        (
            {
                "token": models.CharField(max_length=40, unique=True),
                "new_token": models.CharField(max_length=20, null=True),
            },
            (
                "playbook.E005",
                "Write new_token = models.CharField(max_length=40, null=True, editable=False).",
            ),
        ),
        (
            {"new_token": models.UUIDField()},
            (
                "playbook.E006",
                "Write new_token = models.UUIDField(null=True, editable=False).",
            ),
        ),
        (
            {"new_token": models.UUIDField(null=True, default=uuid.uuid4)},
            ("playbook.E007", "Take the default of new_token away; the trigger fills it."),
        ),
        (
            {"new_token": models.UUIDField(null=True, db_default=RandomUUID())},
            ("playbook.E007", "Take the default of new_token away; the trigger fills it."),
        ),
        (
            {"token": models.UUIDField(primary_key=True)},
            (
                "playbook.E008",
                (
                    "Give tickets.Subject a key of its own, id = "
                    "models.BigAutoField(primary_key=True), and make "
                    "token unique instead; then declare the Shadow."
                ),
            ),
        ),
        (
            {"new_token": models.UUIDField(null=True, db_column="n" * 64)},
            ("playbook.E009", 'Write db_column="..." with a shorter name.'),
        ),
        (
            {"new_token": models.UUIDField(null=True, db_column="100%")},
            ("playbook.E012", 'ALTER TABLE ... RENAME it, and write db_column="..." without one.'),
        ),
        (
            {
                "token": models.CharField(max_length=36, unique=True, db_collation="C"),
                "new_token": models.CharField(max_length=36, null=True),
            },
            (
                "playbook.E005",
                (
                    "Write new_token = models.CharField(max_length=36, db_collation='C', "
                    "null=True, editable=False)."
                ),
            ),
        ),
        (
            {"new_token": models.UUIDField(null=True, unique=True)},
            (
                "playbook.E013",
                (
                    "Write new_token = models.UUIDField(null=True, editable=False), and name it "
                    "in no index or constraint of the Meta."
                ),
            ),
        ),
    ],
)
def test_a_wrong_field_is_a_line_to_write(fields: dict[str, Any], expected: Any) -> None:
    assert errors_of(**fields) == [expected]


@pytest.mark.parametrize(
    ("fields", "meta"),
    [
        ({"new_token": models.UUIDField(null=True, db_index=True)}, {}),
        ({"new_token": models.SlugField(null=True), "token": models.SlugField()}, {}),
        ({}, {"indexes": [models.Index(fields=["-new_token"], name="one")]}),
        ({}, {"constraints": [models.UniqueConstraint(fields=["new_token"], name="one")]}),
        ({}, {"unique_together": [("id", "new_token")]}),
    ],
)
def test_a_shadow_is_in_no_index_that_the_expand_would_build_under_its_lock(
    fields: dict[str, Any], meta: dict[str, Any]
) -> None:
    assert "playbook.E013" in [number for number, _ in errors_of(meta=meta, **fields)]


@pytest.mark.parametrize(
    "live",
    [
        models.SlugField(unique=True),
        models.CharField(max_length=40, db_collation="C", default="x", db_index=True),
        models.DecimalField(max_digits=20, decimal_places=0, unique=True),
        models.EmailField(unique=True, verbose_name="an address"),
        models.BinaryField(max_length=16),
        models.BigIntegerField(db_column="other"),
    ],
    ids=lambda field: type(field).__name__,
)
def test_the_line_of_the_hint_works_when_it_is_pasted(live: models.Field[Any, Any]) -> None:
    wrong: dict[str, Any] = {"token": live, "new_token": None}
    hint = dict(errors_of(**wrong))["playbook.E002"]
    name, line = hint.removeprefix("Write ").split(", then run")[0].split(" = ")
    field = eval(line, {"models": models})  # noqa: S307 - what a user would paste
    found = [each for each, _ in errors_of(token=live.clone(), **{name: field})]
    assert [each for each in found if each not in ("playbook.E015",)] == []


def test_a_collation_is_named_where_it_is_the_difference() -> None:
    errors = messages_of(
        token=models.CharField(max_length=36, db_collation="C"),
        new_token=models.CharField(max_length=36, null=True),
    )
    assert errors == [
        'Shadow: new_token (varchar(36)) is of another type than token (varchar(36) COLLATE "C").'
    ]


def test_a_foreign_key_to_the_live_column_is_named() -> None:
    with isolate_apps("tickets"):

        class Origin(models.Model):  # noqa: DJ008
            token = models.UUIDField(unique=True)
            new_token = models.UUIDField(null=True)

            class Meta:
                app_label = "tickets"

        class Visit(models.Model):  # noqa: DJ008
            ticket = models.ForeignKey(Origin, models.CASCADE, to_field="token")

            class Meta:
                app_label = "tickets"

        del Visit
        (error,) = declaration_errors(Origin, TOKEN)
    assert error.id == "playbook.E018"
    assert error.msg.startswith("Shadow: tickets.Visit.ticket refers to token")
    assert error.hint == (
        "Let tickets.Visit.ticket refer to the primary key: take to_field='token' from it."
    )


def test_a_column_is_not_its_own_shadow() -> None:
    shadow = Shadow(live="token", shadow="token", value=VALUE)
    assert errors_of(shadow) == [("playbook.E004", "Name two fields.")]
