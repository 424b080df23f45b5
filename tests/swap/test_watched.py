"""Between the plays the house is watched: what others undo is said, and has a way back."""

from __future__ import annotations

import json

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from tests.fixtures.database import Database
from tickets.models import Ticket

WARD = "migrations_playbook_ward_tickets_ticket_new_token"
UNDONE = {
    "a trigger dropped": (
        f"DROP TRIGGER {WARD} ON tickets_ticket",
        f'the quarantine trigger "{WARD}" is missing',
    ),
    "a trigger disabled": (
        f"ALTER TABLE tickets_ticket DISABLE TRIGGER {WARD}",
        f'the quarantine trigger "{WARD}" is disabled',
    ),
    "the unique constraint dropped as unused": (
        "ALTER TABLE tickets_ticket DROP CONSTRAINT tickets_ticket_token_key_new_token",
        'the retired column "new_token" has no unique index any more',
    ),
}


@pytest.mark.parametrize("what", UNDONE)
def test_it_is_said_by_the_proof_and_the_status_and_mended(
    database: Database, capsys: pytest.CaptureFixture[str], what: str
) -> None:
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
    capsys.readouterr()
    call_command("playbook_status", json=True)
    (shown,) = json.loads(capsys.readouterr().out)
    assert said in shown["problems"][0]
    assert shown["next"].endswith("--mend")
    call_command("swap_token_columns", mend=True)
    stale.save()
    assert Ticket.objects.get().token == fresh
    with pytest.raises(IntegrityError), transaction.atomic():
        Ticket.objects.create(token=stale.token)


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
