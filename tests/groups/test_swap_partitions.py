# ruff: noqa: DJ001, DJ008 - a shadow is null, and nobody reads the model
"""A group of a partitioned table, one of whose partitions has its columns in another order."""

from __future__ import annotations

import hashlib
import uuid

from django.db import models

from migrations_playbook import HEX, Group, RandomText, Sha256, Shadow
from tests.fixtures.database import Database
from tests.fixtures.models_zoo import add_shadow, fill, play, registry

TABLES = """
    CREATE TABLE parted (key integer NOT NULL, number integer NOT NULL, token text NOT NULL,
        checksum varchar(64) NOT NULL, PRIMARY KEY (key, number), UNIQUE (key, checksum))
        PARTITION BY RANGE (key);
    CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE high (lost text, checksum varchar(64) NOT NULL, key integer NOT NULL,
        token text NOT NULL, number integer NOT NULL);
    ALTER TABLE high DROP COLUMN lost;
    ALTER TABLE parted ATTACH PARTITION high FOR VALUES FROM (10) TO (20);
    ALTER TABLE parted ADD CONSTRAINT made
        CHECK (checksum = encode(sha256(convert_to(token, 'UTF8')), 'hex'));
    INSERT INTO parted SELECT key, 1, t, encode(sha256(convert_to(t, 'UTF8')), 'hex')
        FROM generate_series(0, 19) AS key, md5(key::text) AS t"""


class Parted(models.Model):
    """Tokens with their checksums, in two partitions."""

    pk = models.CompositePrimaryKey("key", "number")
    key = models.IntegerField()
    number = models.IntegerField()
    token = models.TextField()
    checksum = models.CharField(max_length=64)
    new_token = models.TextField(null=True)
    new_checksum = models.CharField(max_length=64, null=True)

    class Meta:
        app_label = "partitioned"
        db_table = "parted"
        apps = registry


PARTED = Group(
    Shadow(live="token", shadow="new_token", value=RandomText(32, HEX)),
    Shadow(live="checksum", shadow="new_checksum", value=Sha256("new_token")),
)
ROW = "SELECT token, checksum, new_token, new_checksum FROM parted WHERE key = %s"


def test_a_partitioned_table_is_exchanged_and_its_rows_move_with_all_their_values(
    empty_database: Database,
) -> None:
    for statement in TABLES.split(";"):
        empty_database.run(statement)
    replacement = add_shadow(Parted, PARTED.members[0])
    fill(replacement)
    before = empty_database.dump()
    (leaked,) = empty_database.fetch(ROW, 3)
    assert play(replacement).passed
    (row,) = empty_database.fetch(ROW, 3)
    assert row == (*leaked[2:], *leaked[:2])

    # To the other partition: PostgreSQL deletes and inserts the row.
    empty_database.run("UPDATE parted SET key = 13, number = 2 WHERE key = 3")
    (moved,) = empty_database.fetch(ROW + " AND number = 2", 13)
    assert moved == row
    # A stale save there, and what the site issues there.
    empty_database.run(
        "UPDATE parted SET token = %s, checksum = %s WHERE key = 13 AND number = 2", *leaked[:2]
    )
    assert empty_database.fetch(ROW + " AND number = 2", 13) == [row]
    token = uuid.uuid4().hex
    checksum = hashlib.sha256(token.encode()).hexdigest()
    empty_database.run("UPDATE parted SET token = %s, checksum = %s WHERE key = 5", token, checksum)
    assert empty_database.fetch(ROW, 5) == [(token, checksum) * 2]

    assert play(replacement, revert=True).passed
    assert empty_database.dump() == before
    (reverted,) = empty_database.fetch(ROW + " AND number = 2", 13)
    assert reverted == leaked
    # Moved back, it keeps its shadows too.
    empty_database.run("UPDATE parted SET key = 3, number = 1 WHERE key = 13 AND number = 2")
    assert empty_database.fetch(ROW, 3) == [leaked]
    assert play(replacement).passed
