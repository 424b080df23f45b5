"""Between the plays the house is watched: what others undo is said, and has a way back."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from tests.fixtures.database import Database, role
from tests.fixtures.tickets import read_status
from tickets.models import Ticket

WARD = "migrations_playbook_ward_tickets_ticket_new_token"
MEMORY = "migrations_playbook_leaked_tickets_ticket_new_token"
DECLARED = ("pgtrigger_fill_new_token_6fffd", "pgtrigger_keep_new_token_7d896")
UNDONE = {
    "a trigger dropped": (
        f"DROP TRIGGER {WARD} ON tickets_ticket",
        f'the quarantine trigger "{WARD}" is missing',
    ),
    "a trigger disabled": (
        f"ALTER TABLE tickets_ticket DISABLE TRIGGER {WARD}",
        f'the quarantine trigger "{WARD}" is disabled',
    ),
    "a declared trigger pruned": (
        "DROP TRIGGER pgtrigger_keep_new_token_7d896 ON tickets_ticket",
        'the declared trigger "pgtrigger_keep_new_token_7d896" is missing, which a revert needs',
    ),
    "a declared trigger disabled": (
        "ALTER TABLE tickets_ticket DISABLE TRIGGER pgtrigger_fill_new_token_6fffd",
        'the declared trigger "pgtrigger_fill_new_token_6fffd" is disabled, which a revert needs',
    ),
    "the memory dropped": (
        f"DROP TABLE {MEMORY}",
        f'"{MEMORY}" is missing, so that writes of the site fail',
    ),
    "a count dropped": (
        "DROP SEQUENCE migrations_playbook_hits_tickets_ticket_new_token",
        '"migrations_playbook_hits_tickets_ticket_new_token" is missing',
    ),
    "the unique constraint dropped as unused": (
        "ALTER TABLE tickets_ticket DROP CONSTRAINT tickets_ticket_token_key_new_token",
        'the retired column "new_token" has no unique index any more',
    ),
}


@pytest.mark.parametrize("what", UNDONE)
def test_it_is_said_by_the_proof_and_the_status_and_mended(database: Database, what: str) -> None:
    undo, said = UNDONE[what]
    stale = Ticket.objects.create()
    call_command("swap_token_columns")
    fresh = Ticket.objects.get().token
    database.run(undo)
    with pytest.raises(CommandError) as caught:
        call_command("swap_token_columns", verify=True)
    assert said in str(caught.value)
    assert "--mend" in str(caught.value)
    assert "--revert" not in str(caught.value)
    shown = read_status()
    assert said in shown["problems"][0]
    assert shown["next"].endswith("--mend")
    call_command("swap_token_columns", mend=True)
    stale.save()
    assert Ticket.objects.get().token == fresh
    with pytest.raises(IntegrityError), transaction.atomic():
        Ticket.objects.create(token=stale.token)
    Ticket.objects.get().delete()


def test_a_memory_that_the_tables_owner_has_lost_is_said_and_given_back(
    database: Database,
) -> None:
    Ticket.objects.create()
    with role(database, "keeper"):
        database.run("GRANT CREATE ON SCHEMA public TO keeper")
        database.run("ALTER TABLE tickets_ticket OWNER TO keeper")
        call_command("swap_token_columns")
        database.run(f"ALTER TABLE {MEMORY} OWNER TO CURRENT_USER")
        with pytest.raises(CommandError, match=f'"{MEMORY}" is out of reach'):
            call_command("swap_token_columns", verify=True)
        call_command("swap_token_columns", mend=True)
        Ticket.objects.get().delete()


@pytest.mark.parametrize("dropped", DECLARED)
def test_a_revert_without_a_declared_trigger_is_said_and_has_a_way_on(
    database: Database, dropped: str
) -> None:
    """The way back is open; then new rows would stay without a value, and nothing goes on."""
    Ticket.objects.create()
    call_command("swap_token_columns")
    database.run(f"DROP TRIGGER {dropped} ON tickets_ticket")
    call_command("swap_token_columns", revert=True)
    shown = read_status()
    assert f'The trigger "{dropped}" is missing' in shown["next"]
    call_command("pgtrigger", "install", "tickets.Ticket:" + dropped[len("pgtrigger_") : -6])
    call_command("backfill_new_token", no_progress=True)
    call_command("swap_token_columns")


def test_a_revert_builds_the_unique_constraint_that_was_dropped(database: Database) -> None:
    Ticket.objects.create()
    before = database.dump()
    call_command("swap_token_columns")
    database.run("ALTER TABLE tickets_ticket DROP CONSTRAINT tickets_ticket_token_key_new_token")
    call_command("swap_token_columns", revert=True)
    assert database.dump() == before


def test_without_a_swap_there_is_nothing_to_mend(database: Database) -> None:
    with pytest.raises(CommandError, match="is not swapped"):
        call_command("swap_token_columns", mend=True)
