"""Who is at work, on any host, as the sessions say in their names."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from django.core.management import call_command

from migrations_playbook.backfill.batch import NAME_BYTES, application_name
from migrations_playbook.backfill.pacing.signals import Signals
from migrations_playbook.backfill.roster import (
    FILLS,
    WAITS,
    Worker,
    name_session,
    read_workers,
    spell_doing,
    spell_signals,
)
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database, wait_until
from tests.fixtures.tickets import add_old_tickets, nulls

# Of the supervisor, besides what the server says.
OWN_REASONS = ("control", "pause", "rest", "old snapshot", "locked rows", "pace")


def at_work() -> list[tuple[str, str | None]]:
    replacement = find_replacement("tickets.Ticket", "new_token")
    return [(each.what, each.why) for each in read_workers(postgresql("default"), replacement)]


@pytest.mark.parametrize("signal", [*Signals("us", "SELECT 0")._readers, *OWN_REASONS])
def test_a_reason_fits_behind_the_longest_name(signal: str) -> None:
    doing = spell_doing(WAITS, spell_signals([signal, "rest", "pause", "WAL rate"]))
    name = name_session("x" * NAME_BYTES, doing)
    assert name.endswith(f": waits: {signal}+3")
    assert len(name.encode()) <= 63


def test_the_sessions_of_a_tenant_are_no_other_tenants(database: Database) -> None:
    ticket = find_replacement("tickets.Ticket", "new_token")
    one, other = (replace(ticket, schema=f"tenant_of_a_long_name_{each}") for each in "ab")
    with database.connect(application_name=name_session(application_name(one), FILLS)):
        assert [each.what for each in read_workers(postgresql("default"), one)] == [FILLS]
        assert read_workers(postgresql("default"), other) == []
    assert application_name(one).endswith("_backfill")


def test_each_worker_says_what_it_does_and_why_it_waits(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    add_old_tickets(database, 20_000)
    process = database.start(
        *("backfill_new_token", "--workers", "2", "--max-rows-per-second", "90"),
        *("--target-ms", "50", "--duty", "100%"),
    )
    wait_until(lambda: at_work().count(("waits", "pace")) == 2, "both rest between batches")
    call_command("backfill_new_token", "--pause")
    wait_until(lambda: at_work().count(("waits", "pause")) == 2, "both wait")
    assert ("leads", None) in at_work()
    capsys.readouterr()
    call_command("playbook_status")
    shown = " ".join(capsys.readouterr().out.split())
    assert "this machine: " in shown
    assert shown.count("waits: pause (pid ") == 2
    call_command("backfill_new_token", "--resume", "--set", "max-rows-per-second=1000000")
    wait_until(lambda: nulls(database) == 0, "it goes on")
    process.communicate()
    assert (process.returncode, at_work()) == (0, [])


def test_behind_locked_rows_it_says_so(database: Database) -> None:
    add_old_tickets(database, 100)
    with database.connect() as reader:
        reader.execute("SELECT FROM tickets_ticket WHERE id % 2 = 0 FOR UPDATE")
        process = database.start("backfill_new_token")
        wait_until(lambda: ("waits", "locked rows") in at_work(), "it waits for the rows")
    process.communicate()
    assert (process.returncode, nulls(database)) == (0, 0)


def test_a_batch_fills_whatever_its_session_has_said_before(database: Database) -> None:
    add_old_tickets(database, 2000)
    database.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO said VALUES (current_setting('application_name')); RETURN NEW; END$$"
    )
    database.run("CREATE TABLE said (name text)")
    database.run(
        "CREATE TRIGGER note AFTER UPDATE ON tickets_ticket FOR EACH ROW EXECUTE FUNCTION note()"
    )
    call_command("backfill_new_token", no_progress=True)
    ((name,),) = database.fetch("SELECT DISTINCT name FROM said")
    assert name.endswith("backfill: fills")


def test_a_worker_on_another_host_is_shown_with_its_address() -> None:
    worker = Worker("10.0.0.7", 4711, FILLS)
    assert json.dumps(worker.as_json()) == (
        '{"host": "10.0.0.7", "process": 4711, "what": "fills", "why": null}'
    )
    assert str(Worker(None, 12, WAITS, "replica lag")) == "waits: replica lag (pid 12)"
