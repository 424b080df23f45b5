# ruff: noqa: DJ008 - nobody reads these models
"""Models that are not like Ticket, each with a shadow: what the engine must not stumble over.

They are no app's: `expand` makes their tables where a test wants them.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.apps.registry import Apps
from django.contrib.postgres.functions import RandomUUID
from django.db import connections, models
from django.db.models.functions import Cast, Left, Random

from migrations_playbook import Shadow
from migrations_playbook.backfill.play import backfill
from migrations_playbook.replacement import Replacement

registry = Apps()
UUIDS = Shadow(live="token", shadow="new_token", value=RandomUUID())
NUMBERS = Shadow(
    live="token",
    shadow="new_token",
    value=Cast(models.Value(2**62) * Random(), models.BigIntegerField()),
)
TEXTS = Shadow(
    live="token",
    shadow="new_token",
    value=Left(Cast(RandomUUID(), models.TextField()), 36),
)


class Zoo(models.Model):
    """What most of them have in common."""

    token = models.UUIDField(unique=True, default=uuid.uuid4)
    note = models.TextField(default="")
    new_token = models.UUIDField(null=True)

    class Meta:
        abstract = True
        app_label = "zoo"
        apps = registry


class MixedCase(Zoo):
    """Names in mixed case, with spaces."""

    token = models.UUIDField(unique=True, default=uuid.uuid4, db_column="Secret Token")
    new_token = models.UUIDField(null=True, db_column="New Secret Token")

    class Meta(Zoo.Meta):
        db_table = "Mixed Case"


class Quoted(Zoo):
    """Names with quotes in them, written as Django wants them."""

    token = models.UUIDField(default=uuid.uuid4, db_column='the ""token""')
    new_token = models.UUIDField(null=True, db_column='the ""new""')

    class Meta(Zoo.Meta):
        db_table = '"a ""quoted"" table"'


class Elsewhere(Zoo):
    """A table in another schema."""

    class Meta(Zoo.Meta):
        db_table = 'other"."elsewhere'


class UuidKey(Zoo):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

    class Meta(Zoo.Meta):
        db_table = "zoo_uuid_key"


class TextKey(Zoo):
    slug = models.TextField(primary_key=True, default=lambda: str(uuid.uuid4()))

    class Meta(Zoo.Meta):
        db_table = "zoo_text_key"


class CompositeKey(Zoo):
    pk = models.CompositePrimaryKey("tenant", "number")
    tenant = models.IntegerField(default=1)
    number = models.UUIDField(default=uuid.uuid4)

    class Meta(Zoo.Meta):
        db_table = "zoo_composite_key"


class Parent(models.Model):
    name = models.TextField(default="")

    class Meta:
        app_label = "zoo"
        apps = registry


class Child(Parent):
    """Multi-table inheritance: the token is in the child's table, whose key is a foreign one."""

    token = models.UUIDField(unique=True, default=uuid.uuid4)
    note = models.TextField(default="")
    new_token = models.UUIDField(null=True)

    class Meta:
        app_label = "zoo"
        apps = registry


class Characters(Zoo):
    """A unique CharField, for which Django makes a second index, for LIKE."""

    token = models.CharField(max_length=40, unique=True, default=lambda: str(uuid.uuid4()))  # type: ignore[assignment]
    new_token = models.CharField(max_length=40, null=True)  # type: ignore[assignment]  # noqa: DJ001 - a shadow is null

    class Meta(Zoo.Meta):
        db_table = "zoo_characters"


class Together(Zoo):
    """A token that is unique together with something else, under a condition, and checked."""

    token = models.UUIDField(default=uuid.uuid4)
    tenant = models.IntegerField(default=1)

    class Meta(Zoo.Meta):
        db_table = "zoo_together"
        constraints = (
            models.UniqueConstraint(fields=("tenant", "token"), name="zoo_one_a_tenant"),
            models.UniqueConstraint(
                fields=("token",), condition=models.Q(tenant__gt=0), name="zoo_conditional"
            ),
            models.CheckConstraint(
                condition=~models.Q(token=uuid.UUID(int=0)), name="zoo_not_zero"
            ),
        )
        indexes = (models.Index(fields=("-token", "tenant"), name="zoo_descending"),)


class Numbers(Zoo):
    """A token that is a number."""

    token = models.BigIntegerField(unique=True, default=lambda: uuid.uuid4().int >> 66)  # type: ignore[assignment]
    new_token = models.BigIntegerField(null=True)  # type: ignore[assignment]

    class Meta(Zoo.Meta):
        db_table = "zoo_numbers"


class Percent(Zoo):
    """Names with a percent sign, which Django's own queries cannot bear."""

    token = models.UUIDField(unique=True, default=uuid.uuid4, db_column="to%ken")
    new_token = models.UUIDField(null=True, db_column="new%stoken")

    class Meta(Zoo.Meta):
        db_table = "per%cent"


class LongNames(Zoo):
    """Names of 63 bytes, to which nothing can be added."""

    token = models.UUIDField(unique=True, default=uuid.uuid4, db_column="t" * 63)
    new_token = models.UUIDField(null=True, db_column="n" * 63)

    class Meta(Zoo.Meta):
        db_table = "l" * 63


MODELS: dict[type[models.Model], Shadow] = {
    MixedCase: UUIDS,
    Quoted: UUIDS,
    Elsewhere: UUIDS,
    UuidKey: UUIDS,
    TextKey: UUIDS,
    CompositeKey: UUIDS,
    Child: UUIDS,
    Characters: TEXTS,
    Together: UUIDS,
    Numbers: NUMBERS,
    LongNames: UUIDS,
}


def expand(model: type[models.Model], shadow: Shadow, using: str = "default") -> Replacement:
    """Make a model's table with three rows, then add the shadow column and its triggers."""
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS other")
    with connection.schema_editor() as editor:
        for parent in model._meta.get_parent_list():
            editor.create_model(parent)
        editor.create_model(model)
    field: Any = model._meta.get_field(shadow.shadow)
    with connection.schema_editor() as editor:
        editor.remove_field(model, field)
    for _ in range(3):
        insert_without(model, field, using)
    with connection.schema_editor() as editor:
        editor.add_field(model, field)
    for trigger in shadow.triggers:
        trigger.install(model, database=using)  # type: ignore[arg-type]
    return Replacement(model, shadow)


def insert_without(model: type[models.Model], field: Any, using: str) -> None:
    """Insert a row as a release would that does not know the shadow."""
    kept = model._meta.local_concrete_fields
    model._meta.local_concrete_fields = [each for each in kept if each is not field]  # type: ignore[assignment]
    try:
        model._default_manager.using(using).create()
    finally:
        model._meta.local_concrete_fields = kept


def fill(replacement: Replacement, using: str = "default") -> None:
    """The backfill, to its end."""
    for _ in backfill(replacement, using=using):
        pass


class Twice(Zoo):
    """Two shadows on one table."""

    code = models.UUIDField(unique=True, default=uuid.uuid4)
    new_code = models.UUIDField(null=True)

    class Meta(Zoo.Meta):
        db_table = "zoo_twice"


CODES = Shadow(live="code", shadow="new_code", value=RandomUUID())
