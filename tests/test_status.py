"""The status: each declared shadow column, its phase, and the next command."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command

from tests.fixtures.database import Database
from tests.fixtures.tickets import PHASES, Phase, add_old_tickets, bring_to, read_status
from tickets.models import Ticket

NEXT = {
    "none": ("none", "manage.py migrate"),
    "expanded": ("expanded", "manage.py backfill_new_token"),
    "filled": ("filled", "manage.py swap_token_columns"),
    "swapped": ("swapped", "contract"),
    "reverted": ("filled", "manage.py swap_token_columns"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_it_names_the_phase_and_the_next_command(database: Database, phase: Phase) -> None:
    add_old_tickets(database, 3)
    bring_to(phase)
    shown = read_status()
    name, following = NEXT[phase]
    assert (shown["model"], shown["live"], shown["shadow"]) == (
        "tickets.Ticket",
        "token",
        "new_token",
    )
    assert shown["phase"] == name
    assert following in shown["next"]
    assert shown["rows_remaining"] == (3 if phase == "expanded" else 0)
    assert shown["heap_bytes"] > 0
    assert shown["index_bytes"] > 0


def test_it_tells_the_same_to_a_person(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    add_old_tickets(database, 3)
    call_command("playbook_status")
    shown = capsys.readouterr().out
    for part in ("tickets.Ticket", "token <- new_token", "expanded", "backfill_new_token"):
        assert part in shown


def test_on_a_database_without_tables_it_says_migrate(empty_database: Database) -> None:
    shown = empty_database.manage("playbook_status", "--json")
    assert shown.returncode == 0, shown.stderr
    (first,) = json.loads(shown.stdout)
    assert (first["phase"], first["next"]) == ("none", "manage.py migrate")


def test_an_empty_table_is_filled(database: Database) -> None:
    shown = read_status()
    assert (shown["phase"], shown["rows_remaining"]) == ("filled", 0)


@pytest.mark.parametrize(
    ("damage", "mends"),
    [
        ("DROP TRIGGER {} ON tickets_ticket", "manage.py pgtrigger install"),
        ("ALTER TABLE tickets_ticket DISABLE TRIGGER {}", "manage.py pgtrigger enable"),
    ],
)
def test_a_trigger_that_is_not_at_work_comes_first(
    database: Database, damage: str, mends: str
) -> None:
    name = database.value("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgtrigger_fill_%'")
    database.run(damage.format(name))
    shown = read_status()
    assert shown["phase"] == "expanded"
    assert mends in shown["next"]


def test_what_would_be_refused_comes_before_the_swap(database: Database) -> None:
    bring_to("filled")
    database.run("CREATE TABLE seat (token uuid REFERENCES tickets_ticket (token))")
    shown = read_status()
    assert shown["next"].startswith("First see to the foreign key seat_token_fkey")
    assert "swap" not in shown["next"].split(":")[0]


def test_it_shows_how_often_an_old_process_wrote_a_leaked_token_back(database: Database) -> None:
    add_old_tickets(database, 1)
    bring_to("filled")
    stale = Ticket.objects.get()
    bring_to("swapped")
    before = read_status()
    stale.save()
    stale.save()
    after = read_status()
    assert (before["stale_writes"], before["last_stale_write"]) == (0, None)
    assert after["stale_writes"] == 2
    assert after["last_stale_write"] is not None


def test_triggers_of_an_earlier_release_are_said_with_what_renews_them(database: Database) -> None:
    """The code is there, the migration that renews its triggers is not applied yet."""
    add_old_tickets(database, 3)
    call_command("migrate", "tickets", "0002", verbosity=0)
    shown = read_status()
    assert shown["next"].startswith("The triggers are of another release than the model.")
    assert "manage.py migrate" in shown["next"]
    call_command("migrate", verbosity=0)
    shown = read_status()
    assert shown["next"] == "manage.py backfill_new_token"
