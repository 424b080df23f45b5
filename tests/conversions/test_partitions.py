"""A conversion of a partitioned table, one of whose partitions has its columns in another order."""

from __future__ import annotations

import pytest
from django.db import models
from django.db.models.functions import Cast

from migrations_playbook import Shadow
from migrations_playbook.errors import Refused
from tests.fixtures.database import Database
from tests.fixtures.models_partitioned import Partitioned, Ranges, make
from tests.fixtures.models_zoo import add_shadow, fill, play
from tests.fixtures.server import server_version

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


BOUND = """
CREATE VIEW whole WITH (security_barrier) AS SELECT key, number, token FROM by_range;
CREATE VIEW part AS SELECT key, number, token FROM other.high;
CREATE VIEW both_of AS SELECT w.token, p.token AS high FROM whole w LEFT JOIN part p USING (key);
CREATE VIEW grouped AS SELECT key, number, token FROM by_range GROUP BY key, number;
CREATE TABLE seen (key integer);
CREATE POLICY few ON seen USING (key IN (SELECT key FROM whole WHERE token IS NOT NULL));
CREATE POLICY those ON other.high USING (EXISTS (SELECT FROM both_of WHERE high IS NOT NULL));
CREATE RULE noted AS ON DELETE TO mid DO ALSO INSERT INTO seen SELECT key FROM part;
CREATE TRIGGER a_trigger BEFORE UPDATE OF token ON other.high FOR EACH ROW
    WHEN (NEW.token IS NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql
    BEGIN ATOMIC SELECT count(high) FROM both_of; END;
CREATE STATISTICS some_statistics ON key, token FROM other.high;
CREATE INDEX of_its_own ON "Low" (token) WHERE number > 1;
"""


def test_what_is_bound_to_the_table_and_its_partitions_goes_there_and_back(
    empty_database: Database,
) -> None:
    make(empty_database, Ranges)
    texts = add_shadow(Texts, TEXTS)
    fill(texts)
    empty_database.run(BOUND)
    if server_version() >= 15:  # which brought filters
        empty_database.run("CREATE PUBLICATION outgoing FOR TABLE mid WHERE (token IS NOT NULL)")
    before = empty_database.dump()
    for _ in range(2):
        assert play(texts).passed
        types = "SELECT DISTINCT pg_typeof(token)::text, pg_typeof(high)::text FROM both_of"
        assert empty_database.fetch(types) == [("text", "text")]
        assert empty_database.value("SELECT counted()") > 0
        assert play(texts, revert=True).passed
        assert empty_database.dump() == before


def test_what_a_partition_has_that_does_not_go_with_the_type_is_refused_early(
    empty_database: Database,
) -> None:
    make(empty_database, Ranges)
    texts = add_shadow(Texts, TEXTS)
    fill(texts)
    empty_database.run("CREATE POLICY chosen ON other.high USING (token <> gen_random_uuid())")
    before = empty_database.dump()
    with pytest.raises(Refused, match=r"policy chosen on other.high .*: operator does not exist"):
        play(texts)
    assert empty_database.dump() == before
