"""Tickets in the admin: found by id, filtered by redemption, and never a token."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from tests.fixtures.database import Database
from tickets.models import Ticket

TICKETS = "/admin/tickets/ticket/"


@pytest.fixture
def staff(database: Database) -> Client:
    """A browser that is logged in."""
    client = Client(SERVER_NAME="localhost")
    client.force_login(User.objects.create_superuser("ann"))
    return client


def listed(staff: Client, **query: str) -> set[int]:
    """The tickets on the list's first page."""
    page = staff.get(TICKETS, query)
    assert page.status_code == 200
    return {int(pk) for pk in re.findall(r"/ticket/(\d+)/change/", page.content.decode())}


def test_a_ticket_is_found_by_its_id_and_by_nothing_else(staff: Client) -> None:
    first, second = Ticket.objects.create(), Ticket.objects.create()
    assert listed(staff) == {first.pk, second.pk}
    assert listed(staff, q=str(second.pk)) == {second.pk}
    assert listed(staff, q=str(second.token)) == set()


def test_the_list_is_filtered_by_whether_a_ticket_is_redeemed(staff: Client) -> None:
    redeemed, fresh = Ticket.objects.create(redeemed_at=timezone.now()), Ticket.objects.create()
    assert listed(staff, redeemed_at__isempty="0") == {redeemed.pk}
    assert listed(staff, redeemed_at__isempty="1") == {fresh.pk}


def test_no_page_shows_a_token(staff: Client) -> None:
    ticket = Ticket.objects.create()
    ticket.refresh_from_db()
    for page in (TICKETS, f"{TICKETS}{ticket.pk}/change/"):
        shown = staff.get(page).content.decode()
        assert f"/ticket/{ticket.pk}/" in shown
        for token in (ticket.token, ticket.new_token):
            assert str(token) not in shown
