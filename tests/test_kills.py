"""A session that ends at any statement of a play: the schema is whole, and the command goes on."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest
from django.core.management import CommandError, call_command
from django.db import Error as DatabaseError

from tests.fixtures.database import Database, wait_until
from tests.soak.kills import (
    PLAYS,
    Play,
    SessionsEnded,
    copy_of,
    goes_on,
    run,
    set_stage,
    start,
)

# How many statements of each play, spread over it, are tried in the suite.
SAMPLES = 4


@pytest.mark.parametrize("name", ["migrate", "backfill", "swap", "revert"])
def test_a_session_that_is_ended_at_any_statement_leaves_a_play_that_goes_on(
    name: str, database: Database
) -> None:
    play = PLAYS[name]
    set_stage(database, play)
    with copy_of(database) as calm:
        with SessionsEnded(calm, at=0) as counted:
            call_command(*play.command)
        undisturbed = calm.dump()
    assert counted.statements > SAMPLES
    for nth in range(1, SAMPLES + 1):
        at = counted.statements * nth // SAMPLES
        with copy_of(database) as disturbed:
            # The database may not answer to Django's own statements of `migrate`.
            with SessionsEnded(disturbed, at) as ended, suppress(CommandError, DatabaseError):
                call_command(*play.command)
            assert ended.statements >= at
            goes_on_here(disturbed, play, undisturbed, f"{name}, statement {at}")


def goes_on_here(database: Database, play: Play, undisturbed: str, moment: str) -> None:
    """As `goes_on`, in this process, which is quicker."""
    try:
        call_command(*play.command)
    except CommandError as error:
        if not play.done or play.done not in str(error):
            pytest.fail(f"{moment}: {error}")
    assert database.dump() == undisturbed, f"{moment}: it has ended elsewhere"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_contract_that_is_killed_goes_on(number: signal.Signals, database: Database) -> None:
    play = PLAYS["contract"]
    set_stage(database, play)
    with copy_of(database) as calm:
        assert run(calm, play).returncode == 0
        undisturbed = calm.dump()
    with database.connect() as reader:
        reader.execute("SELECT FROM tickets_ticket LIMIT 0")
        process = start(database, play)
        wait_until(
            lambda: database.value(
                "SELECT count(*) FROM pg_locks WHERE relation = 'tickets_ticket'::regclass "
                "AND mode = 'ShareUpdateExclusiveLock' AND granted"
            ),
            "it stands in front of its lock",
        )
        process.send_signal(number)
        process.communicate(timeout=60)
    goes_on(database, play, undisturbed, f"contract, {number.name}")
