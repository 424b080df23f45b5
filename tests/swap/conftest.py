"""What the tests of the swap start from."""

from __future__ import annotations

import pytest

from tests.fixtures.database import Database
from tests.fixtures.tickets import add_old_tickets, bring_to, remember


@pytest.fixture
def filled(database: Database) -> Database:
    """A table of five tickets that is ready to be swapped, with a copy of their values."""
    add_old_tickets(database, 5)
    bring_to("filled")
    remember(database, "token", "new_token")
    return database
