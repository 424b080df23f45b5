"""What stops `migrate` from outside is one sentence and an exit code, and nothing is lost."""

from __future__ import annotations

import signal

import pytest
from psycopg import sql

from tests.fixtures.database import Database, wait_until
from tests.fixtures.replica import replicated
from tests.fixtures.subscriber import OnServer
from tests.fixtures.tickets import nulls

WAITING = (
    "SELECT pid FROM pg_locks WHERE relation = to_regclass('tickets_ticket') "
    "AND mode = 'ShareUpdateExclusiveLock' AND NOT granted"
)


def said(errors: str) -> str:
    """What a command has said, which is one sentence."""
    assert "Traceback" not in errors
    assert errors.startswith("CommandError: ")
    assert len(errors.strip().splitlines()) == 1
    return errors


def test_in_a_database_that_is_read_only_it_says_so(before_the_expand: Database) -> None:
    name = sql.Identifier(before_the_expand.name).as_string(None)
    before_the_expand.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    done = before_the_expand.manage("migrate")
    assert done.returncode == 1
    assert "default_transaction_read_only" in said(done.stderr)


@pytest.mark.parametrize("event", ["ddl_command_start", "ddl_command_end"])
def test_under_somebodys_event_trigger_it_says_what_that_raises(
    event: str, before_the_expand: Database
) -> None:
    before = before_the_expand.dump()
    before_the_expand.run(
        "CREATE FUNCTION halt() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE 'no changes before Monday'; END$$"
    )
    before_the_expand.run(f"CREATE EVENT TRIGGER halt ON {event} EXECUTE FUNCTION halt()")
    done = before_the_expand.manage("migrate")
    assert done.returncode == 1
    assert "PostgreSQL says: " in said(done.stderr)
    before_the_expand.run("DROP EVENT TRIGGER halt")
    before_the_expand.run("DROP FUNCTION halt()")
    assert before_the_expand.dump() == before
    assert before_the_expand.manage("migrate").returncode == 0


@pytest.mark.parametrize("ended", ["signal", "session"])
def test_stopped_while_it_waits_it_says_so_and_can_be_run_again(
    ended: str, before_the_expand: Database
) -> None:
    before = before_the_expand.dump()
    with before_the_expand.connect() as holder:
        holder.execute("LOCK TABLE tickets_ticket IN SHARE UPDATE EXCLUSIVE MODE")
        process = before_the_expand.start("migrate")
        wait_until(lambda: before_the_expand.fetch(WAITING), "migrate waits for its first lock")
        if ended == "signal":
            process.send_signal(signal.SIGINT)
        else:
            before_the_expand.run(f"SELECT pg_terminate_backend(({WAITING}))")
        _, errors = process.communicate()
    expected = {"signal": (130, "Stopped; nothing of"), "session": (75, "connection")}[ended]
    assert process.returncode == expected[0], errors
    assert expected[1] in said(errors)
    assert before_the_expand.dump() == before
    assert before_the_expand.manage("migrate").returncode == 0
    assert nulls(before_the_expand) == 3


def test_on_a_standby_it_names_the_primary_as_the_remedy() -> None:
    columns = "SELECT count(*) FROM pg_attribute WHERE attname = 'new_token' AND NOT attisdropped"
    with replicated() as primary:
        assert primary.manage("migrate", "tickets", "0001").returncode == 0
        wait_until(lambda: primary.on_the_replica(columns) == 0, "the standby has caught up")
        done = OnServer(primary.name, primary.replica).manage("migrate")
    assert done.returncode == 1
    assert "is a standby, which takes no writes; nothing was changed" in said(done.stderr)
