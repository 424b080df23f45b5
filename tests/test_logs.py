"""What the plays say to Python's logging: all that happens, structured, and never a value."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import uuid

import pytest
from django.core.management import CommandError, call_command
from django.db import DataError
from psycopg import sql

from migrations_playbook.backfill import events as backfill_events
from migrations_playbook.backfill.play import Options, backfill
from migrations_playbook.errors import WrongPhase
from migrations_playbook.logs import keep_journal
from migrations_playbook.postgres.query import fetch_value
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.replacement import find_replacement
from migrations_playbook.swap import reports
from migrations_playbook.swap.play import swap
from tests.fixtures.database import PROJECT, Database
from tests.fixtures.listener import tokens_in
from tests.fixtures.tickets import add_old_tickets, bring_to, past_the_triggers

TICKET = "tickets.Ticket.new_token"
OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
EVENTS = [
    each
    for module in (backfill_events, reports)
    for each in vars(module).values()
    if dataclasses.is_dataclass(each) and each.__module__ == module.__name__
]


def said(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[tuple[str, str]]:
    """The play and the event of each record, from a level on."""
    return [
        (vars(each)["play"], vars(each)["event"])
        for each in caplog.records
        if each.name.startswith("migrations_playbook.")
        and "play" in vars(each)
        and each.levelno >= level
    ]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event.__name__))
def test_no_fact_has_the_name_of_what_every_record_has(event: type) -> None:
    names = {field.name for field in dataclasses.fields(event)}
    assert not names & (OWN | {"play", "replacement", "database", "event"})


def test_a_rotation_is_told_from_its_beginning_to_its_end(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "migrations_playbook")
    bring_to("none")
    caplog.clear()
    call_command("migrate", verbosity=0)
    add_old_tickets(database, 30)
    bring_to("swapped")
    told = said(caplog)
    assert ("migrate", "begun") in told
    assert ("migrate", "done") in told
    fills = [event for play, event in told if play == "backfill"]
    assert [fills[0], fills[1], *fills[-2:]] == ["begun", "started", "finished", "done"]
    swaps = [event for play, event in told if play == "swap"]
    assert swaps[0] == "begun"
    assert swaps[-3:] == ["exchanged", "verified", "done"]
    assert ("backfill", "batch") in said(caplog, logging.DEBUG)
    assert ("backfill", "batch") not in told
    (exchanged,) = [vars(each) for each in caplog.records if vars(each).get("event") == "exchanged"]
    assert exchanged["replacement"] == TICKET
    assert exchanged["database"] == "default"
    assert exchanged["phase"] == "swapped"
    assert exchanged["lock_hold_ms"] > 0
    assert exchanged["name"] == "migrations_playbook.swap"


def test_a_refusal_is_a_warning_with_its_kind_and_exit_code(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    add_old_tickets(database, 3)
    with pytest.raises(WrongPhase):
        list(swap(find_replacement("tickets.Ticket", "new_token"), using="default"))
    (refused,) = [vars(each) for each in caplog.records if each.levelno == logging.WARNING]
    assert (refused["event"], refused["error"], refused["exit_code"]) == (
        "refused",
        "WrongPhase",
        1,
    )
    assert "3 null rows" in refused["why"]


def test_a_wait_is_told_once_with_its_reason(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "migrations_playbook")
    add_old_tickets(database, 10)
    call_command("backfill_new_token", "--pause")
    events = backfill(find_replacement("tickets.Ticket", "new_token"), using="default")
    seen = 0
    while seen < 3:
        seen += isinstance(next(events), backfill_events.Waiting)
    call_command("backfill_new_token", "--resume")
    list(events)
    waits = [each for each in caplog.records if vars(each).get("event") == "waiting"]
    assert [each.levelno for each in waits[:3]] == [logging.INFO, logging.DEBUG, logging.DEBUG]
    assert vars(waits[0])["signals"] == ["pause"]
    assert vars(waits[0])["reason"] == "paused; --resume goes on"


def test_a_play_that_is_left_is_stopped(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "migrations_playbook")
    add_old_tickets(database, 10)
    events = backfill(
        find_replacement("tickets.Ticket", "new_token"), using="default", options=Options.plain()
    )
    next(events)
    events.close()
    assert said(caplog)[-1] == ("backfill", "stopped")


def test_an_attempt_for_the_lock_in_vain_is_told(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "migrations_playbook")
    bring_to("filled")
    with database.connect() as reader:
        reader.execute("SELECT FROM tickets_ticket")
        with pytest.raises(CommandError, match="in 2 attempts"):
            call_command("swap_token_columns", "--attempts", "2", "--lock-timeout", "20")
    vain = [vars(each) for each in caplog.records if vars(each).get("event") == "attempt"]
    assert [each["attempt"] for each in vain if "ticket" in each["table"]] == [1, 2]
    assert said(caplog)[-1] == ("swap", "refused")


def test_at_debug_no_value_is_told_whatever_fails(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "migrations_playbook")
    add_old_tickets(database, 20)
    # A unique violation in a batch: PostgreSQL quotes the value.
    database.run("CREATE UNIQUE INDEX once ON tickets_ticket (new_token)")
    same = uuid.uuid4()
    database.run(
        "CREATE FUNCTION repeat_it() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN NEW.new_token := '{same}'; RETURN NEW; END$$"
    )
    database.run(
        "CREATE TRIGGER zzz BEFORE UPDATE ON tickets_ticket FOR EACH ROW "
        "EXECUTE FUNCTION repeat_it()"
    )
    with pytest.raises(CommandError):
        call_command("backfill_new_token", no_progress=True)
    assert said(caplog)[-1] == ("backfill", "refused")
    database.run("DROP FUNCTION repeat_it CASCADE")
    database.run("DROP INDEX once")
    bring_to("swapped")
    # A proof that fails.
    past_the_triggers(
        database,
        "UPDATE tickets_ticket t SET token = o.new_token FROM tickets_ticket o "
        "WHERE t.id = (SELECT min(id) FROM tickets_ticket) "
        "AND o.id = (SELECT max(id) FROM tickets_ticket)",
    )
    with pytest.raises(CommandError):
        call_command("swap_token_columns", "--verify")
    assert said(caplog)[-1] == ("verify", "refused")
    texts = [f"{each.getMessage()} {vars(each)}" for each in caplog.records]
    assert len(texts) > 15
    assert not tokens_in(*texts)


def test_a_failure_is_an_error_without_the_words_that_quote_a_value(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    value = uuid.uuid4()
    with pytest.raises(DataError), keep_journal("migrate", "ticket", "default"):
        fetch_value(postgresql("default"), sql.SQL("SELECT {}::int").format(str(value)))
    (failed,) = [
        vars(each) for each in caplog.records if each.name == "migrations_playbook.migrate"
    ]
    assert (failed["event"], failed["levelname"]) == ("failed", "ERROR")
    assert failed["error"] == "InvalidTextRepresentation"
    assert "22P02" in failed["why"]
    assert str(value) not in str(failed)


def test_a_project_that_asks_for_nothing_hears_nothing(database: Database) -> None:
    add_old_tickets(database, 3)
    refused = database.manage("swap_token_columns")
    assert refused.stderr.count("\n") == 1
    bare = "import migrations_playbook.logs as logs; logs.ROOT.error('x')"
    done = subprocess.run(
        [sys.executable, "-c", bare], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
