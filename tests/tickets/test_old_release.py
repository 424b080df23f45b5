"""Release N knows nothing of `new_token`, and works on through every phase of the roll-out."""

from __future__ import annotations

import uuid

import pytest
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone

from tests.fixtures.database import Database
from tests.fixtures.tickets import (
    PHASES,
    Phase,
    add_old_tickets,
    bring_to,
    changed,
    nulls,
    remember,
)
from tests.site.writes import TicketOfReleaseN


@pytest.fixture(params=PHASES)
def phase(request: pytest.FixtureRequest, database: Database) -> Phase:
    """A table with tickets from before and from during the roll-out, in each phase."""
    add_old_tickets(database, 3)
    asked: Phase = request.param
    bring_to(asked)
    return asked


def test_it_reads_every_ticket_and_finds_each_by_its_token(phase: Phase) -> None:
    for ticket in TicketOfReleaseN.objects.all():
        assert TicketOfReleaseN.objects.get(token=ticket.token).pk == ticket.pk
    assert TicketOfReleaseN.objects.count() == 3


def test_a_ticket_that_it_creates_keeps_the_token_that_it_was_given(
    database: Database, phase: Phase
) -> None:
    created = TicketOfReleaseN.objects.create()
    TicketOfReleaseN.objects.bulk_create([TicketOfReleaseN(), TicketOfReleaseN()])
    found = TicketOfReleaseN.objects.get(pk=created.pk)
    assert (found.token == created.token) is True
    assert TicketOfReleaseN.objects.count() == 6
    if phase != "none":
        assert nulls(database) == (3 if phase == "expanded" else 0)


def test_it_redeems_a_ticket_and_every_token_stays(database: Database, phase: Phase) -> None:
    remember(database, "token")
    first, second, third = TicketOfReleaseN.objects.order_by("id")
    first.redeemed_at = timezone.now()
    first.save()
    TicketOfReleaseN.objects.filter(pk=second.pk).update(redeemed_at=timezone.now())
    third.redeemed_at = timezone.now()
    TicketOfReleaseN.objects.bulk_update([third], ["redeemed_at"])
    assert TicketOfReleaseN.objects.filter(redeemed_at__isnull=False).count() == 3
    assert changed(database, "token") == 0


def test_it_locks_a_ticket_for_redeeming(phase: Phase) -> None:
    with transaction.atomic():
        ticket = TicketOfReleaseN.objects.select_for_update().earliest("id")
        ticket.redeemed_at = timezone.now()
        ticket.save(update_fields=["redeemed_at"])
    ticket.refresh_from_db()
    assert ticket.redeemed_at is not None


def test_it_gives_a_ticket_another_token(database: Database, phase: Phase) -> None:
    ticket = TicketOfReleaseN.objects.earliest("id")
    ticket.token = token = uuid.uuid4()
    ticket.save()
    ticket.refresh_from_db()
    assert (ticket.token == token) is True


def test_it_deletes_a_ticket(phase: Phase) -> None:
    TicketOfReleaseN.objects.earliest("id").delete()
    assert TicketOfReleaseN.objects.count() == 2


def test_an_object_loaded_before_the_swap_and_saved_after_it_brings_no_leaked_token_back(
    database: Database,
) -> None:
    add_old_tickets(database, 1)
    bring_to("filled")
    ticket = TicketOfReleaseN.objects.get()
    remember(database, "new_token")
    bring_to("swapped")
    ticket.redeemed_at = timezone.now()
    ticket.save()
    assert changed(database, "new_token", now="token") == 0
    ticket.refresh_from_db()
    assert ticket.redeemed_at is not None


def test_prepared_statements_of_a_long_lived_connection_go_on_through_swap_and_revert(
    database: Database,
) -> None:
    add_old_tickets(database, 1)
    bring_to("filled")
    with database.connect(autocommit=True, prepare_threshold=0) as session:
        for play in ("the swap", "the revert", "the second swap"):
            found = session.execute(
                "SELECT id, token IS NOT NULL FROM tickets_ticket WHERE id = %s", [1]
            ).fetchall()
            assert found == [(1, True)], f"before {play}"
            call_command("swap_token_columns", revert=play == "the revert")
