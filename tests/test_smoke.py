from django.core.management import call_command

from tests.fixtures.database import Database
from tickets.models import Ticket


def test_a_ticket_gets_its_fresh_token_from_swap_to_revert(database: Database) -> None:
    ticket = Ticket.objects.create()
    leaked = ticket.token
    call_command("swap_token_columns")
    ticket.refresh_from_db()
    assert ticket.token != leaked
    assert ticket.new_token == leaked
    call_command("swap_token_columns", revert=True)
    ticket.refresh_from_db()
    assert ticket.token == leaked
