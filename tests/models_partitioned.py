# ruff: noqa: DJ008 - nobody reads these models
"""Partitioned tables, each with a shadow: by range, by hash, and on two levels.

Django makes no partitioned table, so the statements are here; the rest is as in `models_zoo`.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.db import connection, models

from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.play import swap, verify
from migrations_playbook.swap.proof import Verified
from tests.fixtures.database import Database
from tests.models_zoo import UUIDS, registry

COLUMNS = """
    key integer NOT NULL,
    number integer NOT NULL,
    gone integer,
    token uuid NOT NULL,
    note text NOT NULL DEFAULT '',
    PRIMARY KEY (key, number)"""
ROWS_OF_A_KEY = 3


class Partitioned(models.Model):
    """What they have in common: keys from 0 to 29."""

    pk = models.CompositePrimaryKey("key", "number")
    key = models.IntegerField()
    number = models.IntegerField()
    token = models.UUIDField(default=uuid.uuid4)
    note = models.TextField(default="")
    new_token = models.UUIDField(null=True)

    class Meta:
        abstract = True
        app_label = "partitioned"
        apps = registry


class Ranges(Partitioned):
    """Two plain partitions, and one that was attached: its columns are in another order."""

    class Meta(Partitioned.Meta):
        db_table = "by_range"


class Levels(Partitioned):
    """A partition that is partitioned itself."""

    class Meta(Partitioned.Meta):
        db_table = "by_level"


class Hashes(Partitioned):
    class Meta(Partitioned.Meta):
        db_table = "by_hash"


STATEMENTS: dict[type[Partitioned], str] = {
    Ranges: """
        CREATE TABLE by_range (%(columns)s, CONSTRAINT one UNIQUE (key, token))
            PARTITION BY RANGE (key);
        ALTER TABLE by_range DROP COLUMN gone;
        CREATE TABLE "Low" PARTITION OF by_range FOR VALUES FROM (0) TO (10);
        CREATE TABLE mid PARTITION OF by_range FOR VALUES FROM (10) TO (20);
        CREATE TABLE other.high (note text NOT NULL DEFAULT '', lost integer, token uuid NOT NULL,
            number integer NOT NULL, away integer, key integer NOT NULL);
        ALTER TABLE other.high DROP COLUMN lost, DROP COLUMN away;
        ALTER TABLE by_range ATTACH PARTITION other.high FOR VALUES FROM (20) TO (30);""",
    Levels: """
        CREATE TABLE by_level (%(columns)s, CONSTRAINT one UNIQUE (key, token))
            PARTITION BY RANGE (key);
        ALTER TABLE by_level DROP COLUMN gone;
        CREATE TABLE low PARTITION OF by_level FOR VALUES FROM (0) TO (10);
        CREATE TABLE upper PARTITION OF by_level FOR VALUES FROM (10) TO (30)
            PARTITION BY HASH (key);
        CREATE TABLE even PARTITION OF upper FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE odd PARTITION OF upper FOR VALUES WITH (MODULUS 2, REMAINDER 1);""",
    Hashes: """
        CREATE TABLE by_hash (%(columns)s, CONSTRAINT one UNIQUE (key, token))
            PARTITION BY HASH (key);
        ALTER TABLE by_hash DROP COLUMN gone;
        CREATE TABLE first PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE second PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 1);""",
}


# Each with the partition that has something of its own.
OF_ITS_OWN: dict[type[Partitioned], tuple[str, str]] = {
    Ranges: ("by_range", "other.high"),
    Levels: ("by_level", "odd"),
    Hashes: ("by_hash", "second"),
}


def make(database: Database, model: type[Partitioned]) -> None:
    """Make a partitioned table with rows of thirty keys, as it is before the expand."""
    database.run("CREATE SCHEMA other")
    for statement in (STATEMENTS[model] % {"columns": COLUMNS}).split(";"):
        if statement.strip():
            database.run(statement)
    database.run(
        f"INSERT INTO {model._meta.db_table} (key, number, token) "  # noqa: S608 - a test's table
        "SELECT key, number, gen_random_uuid() FROM generate_series(0, 29) AS key, "
        f"generate_series(1, {ROWS_OF_A_KEY}) AS number"
    )


def add_shadow(model: type[Partitioned]) -> Replacement:
    """Add the shadow and its triggers, as the migration does it."""
    field: Any = model._meta.get_field("new_token")
    with connection.schema_editor() as editor:
        editor.add_field(model, field)
    for trigger in UUIDS.triggers:
        trigger.install(model)  # type: ignore[arg-type]
    return Replacement(model, UUIDS)


def expand(database: Database, model: type[Partitioned]) -> Replacement:
    """Both."""
    make(database, model)
    return add_shadow(model)


def tokens(model: type[Partitioned]) -> set[Any]:
    return set(model._default_manager.values_list("token", flat=True))


def play(replacement: Replacement, *, revert: bool = False) -> Verified:
    """Swap to the end; the proof."""
    last = list(swap(replacement, using="default", revert=revert))[-1]
    assert isinstance(last, Verified)
    return last


def verified(replacement: Replacement) -> Verified:
    (found,) = verify(replacement, using="default")
    assert isinstance(found, Verified)
    return found
