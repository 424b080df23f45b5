"""An object is changed, saved, and saved again, as many a request does: nothing is undone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from migrations_playbook.meaning.saves import SavedPair
from tests.fixtures.database import Database
from tests.fixtures.models_conversions import SIZES, Size
from tests.fixtures.models_zoo import expand, fill


@pytest.fixture
def sizes(empty_database: Database) -> Iterator[Any]:
    """The model, expanded and filled; its objects are followed in this test alone."""
    fill(expand(Size, SIZES))
    SIZES.follow_saves(Size)
    yield Size
    SavedPair("size", "size_big").leave(Size)


def row_of(instance: Any) -> tuple[Any, ...]:
    """The row of an object: the two columns and the note."""
    rows = type(instance).objects.values_list("size", "size_big", "note")
    return tuple(rows.get(pk=instance.pk))


def save_again(instance: Any, note: str = "again") -> None:
    instance.note = note
    instance.save()


def test_a_second_save_does_not_undo_the_first(sizes: Any) -> None:
    one, other = sizes.objects.order_by("pk")[:2]
    one.size = 5
    one.save()
    save_again(one)
    assert row_of(one) == (5, 5, "again")
    other.size_big = 6
    other.save()
    save_again(other)
    assert row_of(other) == (6, 6, "again")
    # And so on, either column.
    one.size_big = 7
    one.save()
    one.size = 8
    save_again(one)
    save_again(one, "once more")
    assert row_of(one) == (8, 8, "once more")
    assert (one.size, one.size_big) == (8, 8)


def test_a_new_row_may_be_saved_again(sizes: Any) -> None:
    by_live, by_shadow = sizes(size=5), sizes(size=None, size_big=6)
    for each, expected in ((by_live, 5), (by_shadow, 6)):
        each.save()
        save_again(each)
        assert row_of(each) == (expected, expected, "again")
        each.pk = None
        each._state.adding = True
        save_again(each, "a copy")
        assert row_of(each) == (expected, expected, "a copy")


def test_only_what_was_changed_is_read_anew(sizes: Any) -> None:
    one = sizes.objects.earliest("pk")
    with CaptureQueriesContext(
        connection,
    ) as queries:
        save_again(one)
        save_again(one)
        one.size = 5
        one.save()
    assert [each["sql"].split()[0] for each in queries] == ["UPDATE"] * 3
    with CaptureQueriesContext(connection) as queries:
        save_again(one)
        save_again(one)
    assert [each["sql"].split()[0] for each in queries] == ["SELECT", "UPDATE", "UPDATE"]


def test_a_row_that_is_gone_is_inserted_as_ever(sizes: Any) -> None:
    one = sizes.objects.earliest("pk")
    one.size = 5
    one.save()
    sizes.objects.filter(pk=one.pk).delete()
    save_again(one)
    assert row_of(one)[0] == 5
