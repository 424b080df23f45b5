"""An object is changed, saved, and saved again, as many a request does: nothing is undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, models, transaction
from django.db.models.functions import Cast
from django.db.models.signals import post_init, post_save, pre_save
from django.test.utils import CaptureQueriesContext

from migrations_playbook import Shadow
from migrations_playbook.meaning.saves import SavedPair
from tests.fixtures.database import Database
from tests.fixtures.models_conversions import SIZES, Document, Size
from tests.fixtures.models_zoo import expand, fill


@contextmanager
def followed(model: type[models.Model], declaration: Shadow) -> Iterator[None]:
    """Follow the objects of a model, as an app's are from its start, and no longer than a test."""
    declaration.follow_saves(model)
    try:
        yield
    finally:
        key = SavedPair(declaration.live, declaration.shadow).key
        for signal in (post_init, pre_save, post_save):
            assert signal.disconnect(sender=model, dispatch_uid=key)


@pytest.fixture
def sizes(empty_database: Database) -> Iterator[Any]:
    """The model, expanded and filled; its objects are followed in this test alone."""
    fill(expand(Size, SIZES))
    with followed(Size, SIZES):
        yield Size


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


def test_a_save_that_was_rolled_back_may_be_tried_again(sizes: Any) -> None:
    one, other = sizes.objects.order_by("pk")[:2]
    one.size, other.size_big = 5, 6
    for each in (one, other):
        with transaction.atomic():
            each.save()
            transaction.set_rollback(True)
        save_again(each)
    assert row_of(one) == (5, 5, "again")
    assert row_of(other) == (6, 6, "again")


def test_a_save_of_other_fields_leaves_what_is_to_be_saved(sizes: Any) -> None:
    one, other = sizes.objects.order_by("pk")[:2]
    one.size, other.size_big = 5, 6
    for each in (one, other):
        each.save(update_fields=["note"])
        save_again(each)
        save_again(each)
    assert row_of(one) == (5, 5, "again")
    assert row_of(other) == (6, 6, "again")


def test_a_save_of_other_fields_reads_nothing(sizes: Any) -> None:
    one = sizes.objects.earliest("pk")
    one.size = 5
    one.save()
    with CaptureQueriesContext(connection) as queries:
        one.save(update_fields=["note"])
        one.save(update_fields=["size"])
    assert [each["sql"].split()[0] for each in queries] == ["UPDATE"] * 2
    save_again(one)
    assert row_of(one) == (5, 5, "again")


@pytest.mark.usefixtures("sizes")  # a document refers to one
def test_a_value_may_be_changed_in_place() -> None:
    model: Any = Document
    documents = Shadow(
        "body",
        "body_json",
        up=Cast("body", models.JSONField()),
        down=Cast("body_json", models.TextField()),
    )
    expand(Document, documents)
    with followed(Document, documents):
        model.objects.create(body='{"a": 1}')
        one: Any = model.objects.latest("pk")
        one.body_json["a"] = 2
        one.save()
        one.note = "again"
        one.save()
    found = model.objects.values_list("body", "body_json", "note").get(pk=one.pk)
    assert found == ('{"a": 2}', {"a": 2}, "again")
