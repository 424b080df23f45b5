"""Four releases over one database: their migrations agree with their models and with each other."""

from __future__ import annotations

import pytest
from django.db import connection

from migrations_playbook.phase import Phase, read_state
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database
from tests.fixtures.dumps import with_columns_sorted
from tests.fixtures.releases import RELEASES, Release, manage, migrate
from tests.fixtures.tickets import add_old_tickets, bring_to, changed, nulls, remember


def rotate(database: Database) -> None:
    """Live through a rotation: expanded, filled, swapped, contracted."""
    bring_to("swapped")
    connection.close()
    migrate(database, "n2")
    migrate(database, "n3")


@pytest.mark.parametrize("release", RELEASES)
def test_models_and_migrations_of_each_release_agree(
    empty_database: Database, release: Release
) -> None:
    done = manage(empty_database, release, "makemigrations", "--check", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "No changes detected\n")


def test_a_fresh_database_has_the_schema_of_one_that_lived_through_the_rotation(
    empty_database: Database, database: Database
) -> None:
    add_old_tickets(database, 10)
    rotate(database)
    migrate(empty_database, "n3")
    assert with_columns_sorted(database.dump()) == with_columns_sorted(empty_database.dump())


def test_the_table_is_after_the_rotation_what_it_was_before_it(
    empty_database: Database, database: Database
) -> None:
    rotate(database)
    migrate(empty_database, "n")
    # django-pgtrigger keeps one function for all its triggers, and never drops it.
    database.run("DROP FUNCTION _pgtrigger_should_ignore")
    assert with_columns_sorted(database.dump()) == with_columns_sorted(empty_database.dump())


def test_a_second_rotation_follows_the_first(database: Database) -> None:
    add_old_tickets(database, 10)
    rotate(database)
    remember(database, "token")
    # The contract's reverse is an expand: an empty column and the triggers.
    migrate(database, "n3", "tickets", "0004")
    assert nulls(database) == 10
    bring_to("swapped")
    assert changed(database, "token") == 10
    assert changed(database, "token", now="new_token") == 0
    migrate(database, "n3")
    assert database.value("SELECT count(*) FROM tickets_ticket") == 10


def test_release_n2_forgets_the_column_and_leaves_it_in_the_database(database: Database) -> None:
    add_old_tickets(database, 10)
    bring_to("swapped")
    connection.close()
    before = database.dump()
    migrate(database, "n2")
    assert database.dump() == before
    assert (
        read_state(connection, find_replacement("tickets.Ticket", "new_token")).phase
        is Phase.SWAPPED
    )


def test_a_contract_that_was_written_before_the_triggers_were_renewed_goes_on_to_run(
    empty_database: Database,
) -> None:
    migrate(empty_database, "earlier", "tickets", "0002")
    with empty_database.connect() as session:
        session.execute("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
    bring_to("swapped")
    connection.close()
    migrate(empty_database, "earlier")
    assert empty_database.memory() == []
    assert empty_database.value("SELECT count(*) FROM tickets_ticket") == 1
