"""What Django's optimizer makes of our operations when migrations are squashed."""

from __future__ import annotations

import pytest
from django.db import migrations, models
from django.db.migrations.operations.base import Operation
from django.db.migrations.optimizer import MigrationOptimizer

from migrations_playbook.operations import (
    DropGroup,
    DropShadow,
    EnsureSwapped,
    WithTableLock,
)

LOCKED = WithTableLock(
    "voucher", [migrations.AddField("voucher", "new_code", models.TextField(null=True))]
)
DROPPED = DropShadow("voucher", live="code", shadow="new_code")
FORGOTTEN = migrations.SeparateDatabaseAndState(
    state_operations=[migrations.RemoveField("voucher", "new_code")]
)
ENSURED = EnsureSwapped("voucher", live="code", shadow="new_code")


def make(name: str) -> migrations.CreateModel:
    return migrations.CreateModel(name, [("id", models.BigAutoField(primary_key=True))])


def add(model: str) -> migrations.AddField:
    return migrations.AddField(model, "note", models.TextField(default=""))


def squashed(*operations: Operation) -> list[str]:
    """The operations after the optimizer, each by its kind and its model."""
    optimized = MigrationOptimizer().optimize(list(operations), "shop")
    return [
        f"{type(each).__name__} {getattr(each, 'model_name', getattr(each, 'name', ''))}"
        for each in optimized
    ]


@pytest.mark.parametrize("ours", [LOCKED, DROPPED], ids=lambda each: type(each).__name__)
def test_what_is_of_other_models_moves_past_ours(ours: Operation) -> None:
    kind = f"{type(ours).__name__} voucher"
    assert squashed(make("Voucher"), make("Seat"), ours, add("seat")) == [
        "CreateModel Voucher",
        kind,
        "CreateModel Seat",
    ]


@pytest.mark.parametrize("ours", [LOCKED, DROPPED], ids=lambda each: type(each).__name__)
def test_what_is_of_the_same_model_stays_behind_ours(ours: Operation) -> None:
    kind = f"{type(ours).__name__} voucher"
    assert squashed(make("Voucher"), ours, add("voucher")) == [
        "CreateModel Voucher",
        kind,
        "AddField voucher",
    ]


def test_what_fills_a_table_that_has_no_rows_is_left_out() -> None:
    assert squashed(make("Voucher"), LOCKED, ENSURED, DROPPED) == [
        "CreateModel Voucher",
        "WithTableLock voucher",
        "DropShadow voucher",
    ]


def test_nothing_is_left_of_an_expand_that_is_contracted() -> None:
    after = add("voucher")
    assert squashed(make("Voucher"), LOCKED, ENSURED, FORGOTTEN, DROPPED, after) == [
        "CreateModel Voucher"
    ]


def test_what_is_of_other_models_does_not_keep_it() -> None:
    everything = (make("Voucher"), make("Seat"), LOCKED, add("seat"), FORGOTTEN, DROPPED)
    assert squashed(*everything) == ["CreateModel Voucher", "CreateModel Seat"]


def test_before_the_contract_the_two_are_one_that_knows_both() -> None:
    assert squashed(make("Voucher"), LOCKED, FORGOTTEN) == [
        "CreateModel Voucher",
        "SquashedExpand voucher",
    ]


def test_renewed_triggers_are_of_the_same_expand() -> None:
    renewed = WithTableLock("voucher", [])
    assert squashed(make("Voucher"), LOCKED, renewed, FORGOTTEN, DROPPED) == ["CreateModel Voucher"]


@pytest.mark.parametrize(
    "other",
    [
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.RemoveField("voucher", "note")]
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL("SELECT 1")],
            state_operations=[migrations.RemoveField("voucher", "new_code")],
        ),
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.RemoveField("seat", "new_code")]
        ),
    ],
    ids=["another field", "a statement too", "another model"],
)
def test_what_forgets_something_else_stays(other: Operation) -> None:
    assert squashed(LOCKED, other)[0] == "WithTableLock voucher"


def test_the_contract_of_another_shadow_stays() -> None:
    other = DropShadow("voucher", live="code", shadow="newer_code")
    assert squashed(LOCKED, FORGOTTEN, other) == ["SquashedExpand voucher", "DropShadow voucher"]


def test_a_group_is_contracted_as_a_whole() -> None:
    """A member that joins later has an expand of its own."""
    mark = migrations.AddField("voucher", "new_mark", models.TextField(null=True))
    joined = WithTableLock("voucher", [mark])
    forgotten = migrations.SeparateDatabaseAndState(
        state_operations=[
            *FORGOTTEN.state_operations,
            migrations.RemoveField("voucher", "new_mark"),
        ]
    )
    dropped = DropGroup("voucher", columns={"mark": "new_mark", "code": "new_code"})
    everything = (make("Voucher"), LOCKED, joined, forgotten)
    assert squashed(*everything, dropped) == ["CreateModel Voucher"]
    assert squashed(*everything, DROPPED) == [
        "CreateModel Voucher",
        "SquashedExpand voucher",
        "DropShadow voucher",
    ]
