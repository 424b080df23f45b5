"""What a role cannot see is not taken for filled, verified or empty: refused, naming BYPASSRLS."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from django.core.management import call_command

from tests.fixtures.database import Database
from tests.fixtures.tickets import add_old_tickets, bring_to, changed, nulls, remember
from tests.postgres.test_roles import OWNER, as_role, roles

__all__ = ["roles"]

REFUSAL = "Row security may hide rows of tickets_ticket from the role"


@pytest.fixture
def guarded(roles: Database) -> Iterator[Database]:
    """The owner sees half of the rows, as tenants do, and no row without a tenant."""
    add_old_tickets(roles, 10)
    yield roles
    roles.run("ALTER TABLE tickets_ticket DISABLE ROW LEVEL SECURITY")


def hide_rows(database: Database) -> None:
    database.run(
        "CREATE POLICY own ON tickets_ticket "
        "USING (id % 2 = current_setting('app.tenant', true)::int)"
    )
    database.run("ALTER TABLE tickets_ticket ENABLE ROW LEVEL SECURITY")
    database.run("ALTER TABLE tickets_ticket FORCE ROW LEVEL SECURITY")


def refused(done: subprocess.CompletedProcess[str]) -> bool:
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode == 1 and REFUSAL in done.stderr and "BYPASSRLS" in done.stderr


def test_no_play_takes_hidden_rows_for_none(guarded: Database) -> None:
    hide_rows(guarded)
    before = guarded.dump()
    assert refused(as_role(guarded, OWNER, "backfill_new_token", "--no-progress"))
    assert refused(as_role(guarded, OWNER, "backfill_new_token", "--dry-run"))
    assert refused(as_role(guarded, OWNER, "swap_token_columns"))
    assert refused(as_role(guarded, OWNER, "swap_token_columns", "--dry-run"))
    assert nulls(guarded) == 10
    assert guarded.dump() == before

    # Who sees every row goes on.
    bring_to("filled")
    remember(guarded, "token", "new_token")
    assert refused(as_role(guarded, OWNER, "swap_token_columns"))
    assert changed(guarded, "token") == 0
    bring_to("swapped")
    assert refused(as_role(guarded, OWNER, "swap_token_columns", "--verify"))
    assert refused(as_role(guarded, OWNER, "swap_token_columns", "--revert"))
    assert changed(guarded, "new_token", now="token") == 0


def test_a_role_that_bypasses_row_security_plays_them_all(guarded: Database) -> None:
    hide_rows(guarded)
    guarded.run(f"ALTER ROLE {OWNER} BYPASSRLS")
    assert as_role(guarded, OWNER, "backfill_new_token", "--no-progress").returncode == 0
    for arguments in ((), ("--verify",), ("--revert",)):
        done = as_role(guarded, OWNER, "swap_token_columns", *arguments)
        assert done.returncode == 0, done.stderr


def test_the_status_says_that_rows_may_be_hidden(guarded: Database) -> None:
    hide_rows(guarded)
    guarded.run(f"GRANT SELECT ON django_migrations TO {OWNER}")
    done = as_role(guarded, OWNER, "playbook_status", "--json")
    assert '"rows_remaining": null' in done.stdout, done.stderr
    assert REFUSAL in done.stdout


def test_no_migration_takes_hidden_rows_for_none(guarded: Database) -> None:
    call_command("migrate", "tickets", "0001", verbosity=0)
    guarded.run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {OWNER}")
    guarded.run(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {OWNER}")
    hide_rows(guarded)
    before = guarded.dump()
    assert "BYPASSRLS" in as_role(guarded, OWNER, "migrate", "tickets").stderr
    assert refused(as_role(guarded, OWNER, "migrate", "tickets", "--skip-checks"))
    assert guarded.dump() == before
