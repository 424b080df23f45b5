"""A conversion of a partitioned table, one of whose partitions has its columns in another order."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Cast

from migrations_playbook import Shadow
from tests.fixtures.database import Database
from tests.fixtures.models_partitioned import Partitioned, Ranges, make
from tests.fixtures.models_zoo import add_shadow, fill, play

UUID = "8a8f8a52-0000-4000-8000-000000000001"


class Texts(Partitioned):
    """The partitioned table, whose tokens are to be texts."""

    new_token = models.TextField(null=True)  # type: ignore[assignment]  # noqa: DJ001 - a shadow is null

    class Meta(Partitioned.Meta):
        db_table = "by_range"


TEXTS = Shadow(
    live="token",
    shadow="new_token",
    up=Cast("token", models.TextField()),
    down=Cast("new_token", models.UUIDField()),
)


def test_the_rows_of_every_partition_stay_in_step_and_may_move(empty_database: Database) -> None:
    make(empty_database, Ranges)
    texts = add_shadow(Texts, TEXTS)
    fill(texts)
    for revert in (False, True, False):
        assert play(texts, revert=revert).passed
        write = empty_database.run
        write("UPDATE by_range SET token = gen_random_uuid() WHERE key IN (5, 15, 25)")
        write("UPDATE by_range SET key = (key + 10) %% 30, number = number + %s", 10)
        write("UPDATE by_range SET key = (key + 10) %% 30, number = number - %s", 10)
        apart = "SELECT count(*) FROM by_range WHERE token::text IS DISTINCT FROM new_token::text"
        assert empty_database.value(apart) == 0
    empty_database.run("UPDATE by_range SET new_token = %s WHERE key = 25 AND number = 1", UUID)
    found = "SELECT token FROM by_range WHERE key = 25 AND number = 1"
    assert empty_database.value(found) == UUID
