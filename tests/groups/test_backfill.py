"""A batch fills all members of a row or none, so a backfill that is stopped leaves whole rows."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from migrations_playbook.backfill.events import Batch, Event
from migrations_playbook.backfill.pacing.pace import Pace
from migrations_playbook.backfill.play import Options, backfill
from migrations_playbook.errors import PlaybookError
from migrations_playbook.phase import Phase, read_state, say_no_column
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.replacement import Replacement
from tests.fixtures.database import Database
from tests.fixtures.models_groups import ACCESS, Access
from tests.fixtures.models_zoo import expand, fill
from tests.fixtures.tickets import past_the_triggers
from tests.groups.test_triggers import ASTRAY

ROWS = 2000
HALVES = "SELECT count(*) FROM zoo_access WHERE (new_token IS NULL) <> (new_token_checksum IS NULL)"
LEFT = "SELECT count(*) FROM zoo_access WHERE new_token IS NULL"
WORKERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name ~ 'backfill: fills'"""


@pytest.fixture
def access(empty_database: Database) -> Replacement:
    """A group whose table has rows from before the expand."""
    access = expand(Access, ACCESS.members[0])
    past_the_triggers(
        empty_database,
        "INSERT INTO zoo_access (token, token_checksum, note) "
        "SELECT 't' || n, 'c' || n, '' FROM generate_series(1, %s) AS n",
        ROWS,
    )
    return access


def begin(access: Replacement, workers: int) -> Generator[Event, None, None]:
    """A backfill in small batches, whose first one is done; what is left of its events."""
    options = Options(workers=workers, limits=None, vacuum_every=0, pace=Pace(batch_size=10))
    events = backfill(access, using="default", options=options)
    assert any(isinstance(event, Batch) for event in events)
    return events


def test_a_backfill_whose_workers_are_killed_goes_on_and_fills_whole_rows(
    empty_database: Database, access: Replacement
) -> None:
    events = begin(access, workers=2)
    empty_database.fetch(WORKERS)
    empty_database.run("CREATE TABLE was AS SELECT id, new_token FROM zoo_access")
    assert empty_database.value(LEFT) > 0
    assert empty_database.value(HALVES) == 0
    for _ in events:
        assert empty_database.value(HALVES) == 0
    assert empty_database.value(ASTRAY) == 0
    changed = """
        SELECT count(*) FROM was JOIN zoo_access AS now USING (id)
         WHERE was.new_token <> now.new_token"""
    assert empty_database.value(changed) == 0


def test_a_backfill_that_is_stopped_is_gone_on_with_by_any_members_name(
    empty_database: Database, access: Replacement
) -> None:
    events = begin(access, workers=1)
    events.close()
    left = int(empty_database.value(LEFT))
    assert 0 < left < ROWS + 3
    follower = access.group[1]
    assert read_state(postgresql("default"), follower).phase is Phase.EXPANDED
    fill(follower)
    assert empty_database.value(ASTRAY) == 0
    assert {read_state(postgresql("default"), each).phase for each in access.group} == {
        Phase.FILLED
    }


def test_a_group_that_lacks_a_column_is_not_expanded(
    empty_database: Database, access: Replacement
) -> None:
    empty_database.run("ALTER TABLE zoo_access DROP COLUMN new_token_checksum CASCADE")
    connection = postgresql("default")
    assert {read_state(connection, each).phase for each in access.group} == {Phase.NONE}
    assert 'no column "new_token" or "new_token_checksum"' in say_no_column(access, "default")


def test_a_trigger_of_the_site_that_watches_a_follower_is_named(
    empty_database: Database, access: Replacement
) -> None:
    empty_database.run(
        "CREATE FUNCTION keep_null() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.new_token_checksum := NULL; RETURN NEW; END $$"
    )
    empty_database.run(
        "CREATE TRIGGER zz_keep_null BEFORE UPDATE OF new_token_checksum ON zoo_access "
        "FOR EACH ROW EXECUTE FUNCTION keep_null()"
    )
    says = 'have no "new_token_checksum" after the backfill has filled it: a .*zz_keep_null'
    with pytest.raises(PlaybookError, match=says):
        fill(access)
