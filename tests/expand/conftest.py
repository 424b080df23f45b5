"""What the tests of the expand start from."""

from __future__ import annotations

import pytest

from tests.fixtures.database import Database
from tests.fixtures.tickets import add_old_tickets, bring_to


@pytest.fixture
def before_the_expand(database: Database) -> Database:
    """Three tickets, and no shadow."""
    add_old_tickets(database, 3)
    bring_to("none")
    return database
