"""Settings that a role has for the site's requests: the plays say themselves what they need."""

from __future__ import annotations

import subprocess

import psycopg
import pytest
from django.db import connection, transaction
from psycopg import sql

from migrations_playbook.errors import Refused
from migrations_playbook.postgres.query import adopt_transaction, engine_transaction, fetch_value
from tests.fixtures.database import Database, role, wait_until
from tests.fixtures.server import server_version
from tests.fixtures.tickets import add_old_tickets, bring_to, changed, nulls, refusal, remember
from tickets.models import Ticket

FOR_REQUESTS = {
    "statement_timeout": "300ms",
    "lock_timeout": "200ms",
    "idle_in_transaction_session_timeout": "300ms",
    "default_transaction_isolation": "repeatable read",
    "row_security": "on",
    "DateStyle": "German",
    "extra_float_digits": "-15",
    "quote_all_identifiers": "on",
    "IntervalStyle": "sql_standard",
}


def for_requests(database: Database, **settings: str) -> None:
    """Set something for every session of the database from now on."""
    for name, value in settings.items():
        with database.connect(autocommit=True) as session:
            session.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    sql.Identifier(database.name), sql.Identifier(name), value
                )
            )


def current(name: str) -> str:
    return str(fetch_value(connection, sql.SQL("SELECT current_setting({})").format(name)))


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_transaction_of_the_engine_says_what_it_needs(isolation: str, database: Database) -> None:
    for_requests(database, **(FOR_REQUESTS | {"default_transaction_isolation": isolation}))
    if server_version() >= 17:
        for_requests(database, transaction_timeout="300ms")
    connection.close()
    with engine_transaction(connection, lock_timeout="7s"):
        assert current("transaction_isolation") == "read committed"
        assert current("row_security") == "off"
        assert current("statement_timeout") == "0"
        assert current("lock_timeout") == "7s"
        assert current("idle_in_transaction_session_timeout") == "1min"
        if server_version() >= 17:
            assert current("transaction_timeout") == "0"
    # Nothing is left behind.
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("300ms",)


def test_a_single_look_is_such_a_transaction(database: Database) -> None:
    for_requests(database, **FOR_REQUESTS)
    connection.close()
    assert current("row_security") == "off"
    assert current("transaction_isolation") == "read committed"


def test_a_migrations_transaction_is_given_the_same_unless_it_has_read_already(
    database: Database,
) -> None:
    for_requests(database, default_transaction_isolation="serializable")
    connection.close()
    with transaction.atomic():
        adopt_transaction(connection)
        assert current("transaction_isolation") == "read committed"
        assert current("row_security") == "off"
    with transaction.atomic():
        Ticket.objects.count()
        with pytest.raises(Refused, match="SERIALIZABLE and has read already"):
            adopt_transaction(connection)
        transaction.set_rollback(True)


def test_a_rotation_beside_writers_needs_nothing_of_what_is_set(database: Database) -> None:
    add_old_tickets(database, 500)
    remember(database, "token")
    for_requests(database, **FOR_REQUESTS)
    assert database.manage("backfill_new_token", "--no-progress").returncode == 0
    with database.connect(options="-c idle_in_transaction_session_timeout=0") as writer:
        writer.execute("UPDATE tickets_ticket SET redeemed_at = now() WHERE id = 1")
        swap = database.start("swap_token_columns")
        # The build waits for the writer, longer than any timeout that is set.
        said = iter(swap.stdout.readline, "")
        assert any(f"waits for pid {writer.info.backend_pid}" in line for line in said)
        wait_until(
            lambda: database.value(
                "SELECT bool_or(clock_timestamp() - query_start > interval '0.5 s') "
                "FROM pg_stat_activity WHERE query LIKE 'CREATE%%CONCURRENTLY%%'"
            ),
            "the build has waited for longer than the timeouts",
        )
    _, complaint = swap.communicate(timeout=60)
    assert swap.returncode == 0, complaint
    assert changed(database, "token", now="new_token") == 0
    assert nulls(database) == 0


def test_a_build_behind_a_transaction_that_does_not_end_is_given_up_with_its_name(
    database: Database,
) -> None:
    add_old_tickets(database, 5)
    bring_to("filled")
    with database.connect(application_name="night report") as idle:
        # As a dump does: its snapshot is older than the build, and its locks are elsewhere.
        idle.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        idle.execute("SELECT count(*) FROM django_migrations")
        done = run_with_policy(database, "snapshots_ms=400")
    assert done.returncode == 75
    assert "because it waits for every older transaction: pid " in done.stderr
    assert '"night report" (idle in transaction' in done.stderr
    assert "Traceback" not in done.stderr
    # The unfinished index is built anew.
    assert database.manage("swap_token_columns").returncode == 0


def run_with_policy(database: Database, policy: str) -> subprocess.CompletedProcess[str]:
    """A swap that is less patient."""
    program = (
        "import sys, manage; from migrations_playbook.management import swap; "
        "Policy = swap.LockPolicy; "
        f"swap.LockPolicy = lambda **given: Policy(**given, {policy}); "
        "sys.argv = ['manage.py', 'swap_token_columns']; manage.main()"
    )
    return database.manage(program=("-c", program))


def test_where_nothing_may_be_written_every_play_says_so_at_once(database: Database) -> None:
    add_old_tickets(database, 5)
    for_requests(database, default_transaction_read_only="on")
    for arguments in (
        ("backfill_new_token", "--no-progress"),
        ("swap_token_columns",),
        ("migrate", "tickets", "0001"),
    ):
        done = database.manage(*arguments)
        assert done.returncode == 1
        assert "are read only for this role (default_transaction_read_only)" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_connection_that_is_not_to_be_had_is_not_a_lost_one(database: Database) -> None:
    with role(database, "crowded"):
        database.run("ALTER ROLE crowded LOGIN CONNECTION LIMIT 0")
        url = database.url.replace("postgres@", "crowded@", 1)
        assert url != database.url
        done = database.manage("swap_token_columns", DATABASE_URL=url)
    assert done.returncode == 75
    assert done.stderr.startswith("CommandError: No connection to the server: ")
    assert done.stderr.count("\n") == 1


def test_a_column_with_the_name_in_between_is_no_hindrance(database: Database) -> None:
    add_old_tickets(database, 5)
    database.run("ALTER TABLE tickets_ticket ADD COLUMN token_new_token_between int")
    remember(database, "token")
    bring_to("swapped")
    assert changed(database, "token", now="new_token") == 0


@pytest.mark.parametrize(
    "name", ["tickets_ticket_token_key_new_token", "tickets_ticket_token_key_between"]
)
def test_a_name_that_is_taken_is_refused_by_the_plan(name: str, database: Database) -> None:
    add_old_tickets(database, 5)
    bring_to("filled")
    database.run(f"CREATE TABLE {name} ()")
    before = database.dump()
    for arguments in (("--dry-run",), ()):
        done = database.manage("swap_token_columns", *arguments)
        assert done.returncode == 1
        assert f"its twin needs the name {name}, which public.{name} has; rename that" in (
            done.stdout + done.stderr
        )
    assert database.dump() == before


CONSTRAINT = "ALTER TABLE tickets_ticket ADD CONSTRAINT"
TAKEN = {
    "the CHECK that proves NOT NULL": (
        f"{CONSTRAINT} tickets_ticket_new_token_not_null CHECK (id > 0)",
        "constraint tickets_ticket_new_token_not_null on public.tickets_ticket",
    ),
    "a CHECK's twin": (
        (
            f"{CONSTRAINT} checked CHECK (token IS NOT NULL AND id > 0); "
            f"{CONSTRAINT} checked_new_token CHECK (id > 0)"
        ),
        "constraint checked_new_token on public.tickets_ticket",
    ),
    "a name in between": (
        (
            f"{CONSTRAINT} checked CHECK (token IS NOT NULL AND id > 0); "
            f"{CONSTRAINT} checked_between CHECK (id > 0)"
        ),
        "constraint checked_between on public.tickets_ticket",
    ),
    "a unique constraint's twin": (
        f"{CONSTRAINT} tickets_ticket_token_key_new_token CHECK (id > 0)",
        "constraint tickets_ticket_token_key_new_token on public.tickets_ticket",
    ),
    "the memory": (
        "CREATE TABLE migrations_playbook_leaked_tickets_ticket_new_token (of integer)",
        "relation public.migrations_playbook_leaked_tickets_ticket_new_token",
    ),
    "a count": (
        "CREATE TABLE migrations_playbook_hits_tickets_ticket_new_token (of integer)",
        "relation public.migrations_playbook_hits_tickets_ticket_new_token",
    ),
    "a function": (
        (
            "CREATE FUNCTION migrations_playbook_ward_tickets_ticket_new_token() RETURNS integer "
            "LANGUAGE sql AS 'SELECT 1'"
        ),
        "function public.migrations_playbook_ward_tickets_ticket_new_token()",
    ),
    "a trigger": (
        (
            "CREATE TRIGGER migrations_playbook_ward_tickets_ticket_new_token BEFORE UPDATE "
            "ON tickets_ticket FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        ),
        "trigger migrations_playbook_ward_tickets_ticket_new_token",
    ),
}


@pytest.mark.parametrize("what", TAKEN)
def test_a_name_of_ours_that_something_else_has_is_refused_by_the_plan(
    what: str, database: Database
) -> None:
    add_old_tickets(database, 5)
    bring_to("filled")
    database.run(TAKEN[what][0])
    before = database.dump()
    said = f"{TAKEN[what][1]} (by its name): the swap needs its name; rename it."
    assert said in refusal("swap_token_columns")[1]
    assert database.dump() == before
