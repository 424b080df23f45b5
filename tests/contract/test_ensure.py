"""`migrate` plays the whole rotation where nobody watches and the table is small."""

from __future__ import annotations

import pytest
from django.core.management import CommandError
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from migrations_playbook.operations import EnsureSwapped
from migrations_playbook.phase import read_state
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database
from tests.fixtures.tickets import Phase, add_old_tickets, bring_to, changed, nulls, remember


def ensure(*, up_to: int = 10, atomic: bool = False) -> None:
    """Run the operation as `migrate` does."""
    operation = EnsureSwapped("ticket", live="token", shadow="new_token", up_to=up_to)
    state = MigrationLoader(connection).project_state()
    with connection.schema_editor(atomic=atomic) as editor:
        operation.database_forwards("tickets", editor, state, state)


def phase() -> str:
    return str(read_state(connection, find_replacement("tickets.Ticket", "new_token")).phase)


@pytest.mark.parametrize("start", ["expanded", "filled", "reverted"])
def test_a_small_table_is_filled_and_swapped(database: Database, start: Phase) -> None:
    add_old_tickets(database, 10)
    bring_to(start)
    remember(database, "token")
    ensure()
    assert phase() == "swapped"
    assert nulls(database) == 0
    assert changed(database, "token") == 10


def test_what_is_swapped_is_left_alone(database: Database) -> None:
    add_old_tickets(database, 11)
    bring_to("swapped")
    before = database.dump()
    ensure()
    assert database.dump() == before


@pytest.mark.parametrize("atomic", [True, False], ids=["squashed", "as written"])
def test_an_empty_table_needs_no_swap(
    database: Database,
    atomic: bool,  # noqa: FBT001 - as Django has it
) -> None:
    before = database.dump()
    ensure(atomic=atomic)
    assert database.dump() == before


@pytest.mark.parametrize(
    ("start", "command"), [("expanded", "backfill_new_token"), ("filled", "swap_token_columns")]
)
def test_beyond_its_bound_it_refuses_with_the_command_to_run(
    database: Database, start: Phase, command: str
) -> None:
    add_old_tickets(database, 11)
    bring_to(start)
    before = database.dump()
    with pytest.raises(CommandError) as refused:
        ensure()
    assert refused.value.returncode == 1
    assert "more than 10 rows" in str(refused.value)
    assert f'Run "manage.py {command}"' in str(refused.value)
    assert database.dump() == before


def test_in_a_transaction_it_says_what_to_write(database: Database) -> None:
    add_old_tickets(database, 1)
    with pytest.raises(CommandError, match="write atomic = False"):
        ensure(atomic=True)
    assert phase() == "expanded"


def test_before_the_expand_it_says_that_the_column_is_not_there(database: Database) -> None:
    add_old_tickets(database, 1)
    bring_to("none")
    with pytest.raises(CommandError, match="must come before this one"):
        ensure()
