"""Pause, resume and retune from another terminal, through the catalog."""

from __future__ import annotations

import json
import signal
from functools import partial

import pytest
from django.core.management import CommandError, call_command

from migrations_playbook.backfill.pacing import control
from migrations_playbook.backfill.pacing.control import Control
from migrations_playbook.errors import PlaybookError
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database, wait_until
from tests.fixtures.tickets import add_old_tickets, nulls


def settings() -> Control:
    replacement = find_replacement("tickets.Ticket", "new_token")
    connection = postgresql("default")
    table = read_table(connection, replacement.identifier)
    assert table is not None
    return control.read_control(connection, replacement, table)


def fewer_nulls_than(database: Database, before: int) -> bool:
    return nulls(database) < before


def test_what_is_set_is_read_by_everybody_and_kept_beside_the_rest(database: Database) -> None:
    call_command("backfill_new_token", "--set", "target-ms=20", "--set", "duty=50%")
    call_command("backfill_new_token", "--pause")
    assert settings() == Control(paused=True, target_ms=20, duty=0.5)
    call_command("backfill_new_token", "--resume", "--set", "duty=")
    assert settings() == Control(target_ms=20)


def test_pausing_waits_for_no_lock_on_the_table(database: Database) -> None:
    with database.connect() as other:
        other.execute("LOCK TABLE tickets_ticket IN SHARE UPDATE EXCLUSIVE MODE")
        call_command("backfill_new_token", "--pause")
    assert settings().paused


def test_a_paused_backfill_waits_says_so_and_goes_on_when_resumed(database: Database) -> None:
    add_old_tickets(database, 100)
    call_command("backfill_new_token", "--pause")
    process = database.start("backfill_new_token", "--batch-size", "10", "--duty", "100%")
    assert "paused" in process.stdout.readline()
    assert nulls(database) == 100
    call_command("backfill_new_token", "--resume")
    shown, _ = process.communicate()
    assert process.returncode == 0
    assert nulls(database) == 0
    assert "Waited for pause" in shown


def test_a_pause_stops_the_workers_under_way_and_survives_their_restart(
    database: Database,
) -> None:
    add_old_tickets(database, 20_000)
    slow = ("backfill_new_token", "--json", "--batch-size", "1", "--workers", "2")
    for _ in range(2):
        call_command("backfill_new_token", "--resume")
        process = database.start(*slow)
        wait_until(partial(fewer_nulls_than, database, nulls(database)), "it is at work")
        call_command("backfill_new_token", "--pause")
        seen = [0, nulls(database)]

        def still(seen: list[int] = seen) -> bool:
            idle = not database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
                "AND datname = current_database() AND application_name LIKE '%%backfill%%'"
            )
            seen[:] = [seen[1], nulls(database)]
            return idle and seen[0] == seen[1]

        wait_until(still, "it stands still")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
        assert process.returncode == 130
        assert json.loads(output)["rows_remaining"] == nulls(database) > 0


def test_none_of_it_is_left_in_the_schema_when_the_last_row_is_filled(database: Database) -> None:
    before = database.dump()
    add_old_tickets(database, 10)
    call_command("backfill_new_token", "--set", "target-ms=20")
    assert database.dump() != before
    call_command("backfill_new_token")
    assert database.dump() == before


def test_somebody_elses_comment_is_left_alone(database: Database) -> None:
    function = database.value(
        "SELECT tgfoid::regprocedure::text FROM pg_trigger WHERE tgname LIKE '%%fill_new_token%%'"
    )
    database.run(f"COMMENT ON FUNCTION {function} IS 'ask Ann'")
    with pytest.raises(PlaybookError, match="not the backfill's"):
        settings()


@pytest.mark.parametrize(
    "option", ["speed=9", "target-ms", "target-ms=0", "target-ms=fast", "duty=0", "duty=200%"]
)
def test_what_cannot_be_set_is_a_usage_error(database: Database, option: str) -> None:
    with pytest.raises(CommandError):
        call_command("backfill_new_token", "--set", option)
    assert settings() == Control()
