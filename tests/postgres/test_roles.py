"""The least that each role needs; what is missing is named as the statement to run."""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from django.core.management import call_command
from psycopg import errors, sql

from tests.fixtures.database import Database, admin_url
from tickets.models import Ticket

OWNER, APP, FILLER, OTHER = "roles_owner", "roles_app", "roles_filler", "roles_other"
PASSWORD = "only for these tests"  # noqa: S105


@pytest.fixture
def roles(database: Database) -> Iterator[Database]:
    """The table belongs to one role; an application, a backfill and a stranger have others."""
    with database.connect(autocommit=True) as session:
        for role in (OWNER, APP, FILLER, OTHER):
            session.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(PASSWORD)
                )
            )
        session.execute(f"ALTER TABLE tickets_ticket OWNER TO {OWNER}")
        session.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {OWNER}")
        for function in session.execute(
            "SELECT oid::regprocedure FROM pg_proc WHERE proname LIKE 'pgtrigger_%'"
        ).fetchall():
            session.execute(f"ALTER FUNCTION {function[0]} OWNER TO {OWNER}")
        session.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON tickets_ticket TO {APP}")
        session.execute(f"GRANT SELECT, UPDATE ON tickets_ticket TO {FILLER}")
    yield database
    with database.connect(autocommit=True) as session:
        for role in (OWNER, APP, FILLER, OTHER):
            session.execute(f"DROP OWNED BY {role} CASCADE")
            session.execute(f"DROP ROLE {role}")


def as_role(database: Database, role: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`manage.py` as a role, in a process of its own."""
    user = re.sub(r"://[^@/]*@?", f"://{role}:{PASSWORD.replace(' ', '%20')}@", database.url)
    return database.manage(*arguments, DATABASE_URL=user)


def test_a_rehearsal_needs_the_right_to_create_databases(roles: Database) -> None:
    # It asks first which migrations there are, as whoever migrates may.
    roles.run(f"GRANT SELECT ON django_migrations TO {APP}")
    refused = as_role(roles, APP, "rehearse")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "CommandError: This role may not create databases. Give it CREATEDB, or name a server "
        "where it may in DATABASE_URL.\n"
    )


def test_the_backfill_needs_select_and_update_and_nothing_else(roles: Database) -> None:
    for _ in range(3):
        Ticket.objects.create()
    with roles.connect(autocommit=True) as session:
        session.execute("ALTER TABLE tickets_ticket DISABLE TRIGGER USER")
        session.execute("UPDATE tickets_ticket SET new_token = NULL")
        session.execute("ALTER TABLE tickets_ticket ENABLE TRIGGER USER")
    done = as_role(roles, FILLER, "backfill_new_token", "--no-progress")
    assert "none is left" in done.stdout, done.stderr
    assert roles.value("SELECT count(*) FROM tickets_ticket WHERE new_token IS NULL") == 0


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        ("SELECT", 'GRANT UPDATE ON "public"."tickets_ticket" TO "roles_other".'),
        ("DELETE", 'GRANT SELECT ON "public"."tickets_ticket" TO "roles_other"; GRANT UPDATE ON'),
    ],
)
def test_a_backfill_without_its_rights_is_told_what_to_grant(
    granted: str, missing: str, roles: Database
) -> None:
    roles.run(f"GRANT {granted} ON tickets_ticket TO {OTHER}")
    done = as_role(roles, OTHER, "backfill_new_token")
    assert done.returncode == 1
    assert missing in done.stderr


def test_the_owner_swaps_verifies_and_reverts(roles: Database) -> None:
    Ticket.objects.create()
    for arguments in ((), ("--verify",), ("--revert",)):
        done = as_role(roles, OWNER, "swap_token_columns", *arguments)
        assert done.returncode == 0, done.stderr


def test_to_verify_takes_select_and_a_view_that_may_not_be_read_is_named(roles: Database) -> None:
    Ticket.objects.create()
    roles.run("CREATE VIEW plain AS SELECT id, token FROM tickets_ticket")
    roles.run("CREATE VIEW kept_from_you AS SELECT id, token FROM tickets_ticket")
    roles.run(f"GRANT SELECT ON plain TO {APP}")
    call_command("swap_token_columns")
    done = as_role(roles, APP, "swap_token_columns", "--verify")
    assert done.returncode == 0, done.stderr
    assert "1 views read through. public.kept_from_you may not be read." in done.stdout
    # Who may not even read the table is told so in a sentence.
    done = as_role(roles, OTHER, "swap_token_columns", "--verify")
    assert done.returncode == 1
    refused = roles.complaint("SELECT FROM tickets_ticket", role=OTHER)
    assert done.stderr == f"CommandError: PostgreSQL says: {refused}.\n"


@pytest.mark.parametrize("role", [APP, OTHER])
def test_who_is_not_the_owner_is_told_what_to_grant(role: str, roles: Database) -> None:
    roles.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # whom PostgreSQL 14 lets create there
    before = roles.dump()
    done = as_role(roles, role, "swap_token_columns")
    assert done.returncode == 1
    assert f'run GRANT "{OWNER}" TO "{role}".' in done.stderr
    assert f'run GRANT CREATE ON SCHEMA "public" TO "{role}".' in done.stderr
    assert roles.dump() == before


def test_a_member_of_the_owner_may_swap_and_what_is_made_is_the_owners(roles: Database) -> None:
    Ticket.objects.create()
    roles.run(f"GRANT {OWNER} TO {OTHER}")
    roles.run(f"GRANT CREATE ON SCHEMA public TO {OTHER}")
    done = as_role(roles, OTHER, "swap_token_columns")
    assert done.returncode == 0, done.stderr
    owners = roles.fetch(
        "SELECT DISTINCT pg_get_userbyid(owner) FROM ("
        "SELECT relowner FROM pg_class WHERE relname LIKE 'tickets_ticket_new_token%'"
        " UNION ALL SELECT proowner FROM pg_proc WHERE proname LIKE 'migrations_playbook%'"
        ") AS made (owner)"
    )
    assert owners == [(OWNER,)]


def test_a_superusers_swap_leaves_no_function_with_a_superusers_rights(roles: Database) -> None:
    Ticket.objects.create()
    call_command("swap_token_columns")
    assert roles.fetch(
        "SELECT DISTINCT pg_get_userbyid(proowner), "
        "has_function_privilege('roles_other', oid, 'EXECUTE') "
        "FROM pg_proc WHERE proname LIKE 'migrations_playbook%'"
    ) == [(OWNER, False)]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_application_inserts_updates_and_deletes_in_every_phase(
    swapped: bool,  # noqa: FBT001
    roles: Database,
) -> None:
    Ticket.objects.create()
    if swapped:
        call_command("swap_token_columns")
    with roles.connect(autocommit=True) as session:
        session.execute(f"SET ROLE {APP}")
        session.execute("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
        session.execute("UPDATE tickets_ticket SET redeemed_at = now()")
        # A stale save: counted in a sequence on which the application has no right.
        session.execute("UPDATE tickets_ticket SET token = new_token")
        session.execute("UPDATE tickets_ticket SET token = gen_random_uuid()")
        session.execute("DELETE FROM tickets_ticket")
    if swapped:
        (status,) = json.loads(roles.manage("playbook_status", "--json").stdout)
        assert status["stale_writes"] == 1


def test_a_hostile_schema_earlier_in_the_path_changes_nothing(roles: Database) -> None:
    """Functions, operators and tables of the same names as those that the engine uses."""
    Ticket.objects.create()
    roles.run("CREATE VIEW plain AS SELECT id, token FROM tickets_ticket WHERE token IS NOT NULL")
    hostile = uuid.UUID(int=0xBAD)
    with roles.connect(autocommit=True) as session:
        session.execute("CREATE SCHEMA hostile")
        session.execute("GRANT USAGE ON SCHEMA hostile TO PUBLIC")
        session.execute(
            "CREATE FUNCTION hostile.gen_random_uuid() RETURNS uuid LANGUAGE sql "
            f"AS $$ SELECT '{hostile}'::uuid $$"
        )
        session.execute(
            "CREATE FUNCTION hostile.never(uuid, uuid) RETURNS boolean LANGUAGE sql "
            "AS 'SELECT false'"
        )
        session.execute(
            "CREATE OPERATOR hostile.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = hostile.never)"
        )
        for name in ("pg_class", "pg_depend", "pg_attribute"):
            session.execute(f"CREATE TABLE hostile.{name} (nothing int)")
        session.execute(
            sql.SQL("ALTER DATABASE {} SET search_path = hostile, pg_catalog, public").format(
                sql.Identifier(roles.name)
            )
        )
    done = roles.manage("swap_token_columns")
    assert done.returncode == 0, done.stderr
    with roles.connect(autocommit=True) as session:
        session.execute(f"SET ROLE {APP}")
        session.execute("INSERT INTO tickets_ticket (token) VALUES (pg_catalog.gen_random_uuid())")
        session.execute("UPDATE tickets_ticket SET token = new_token")
    assert roles.value("SELECT count(*) FROM plain") == 2
    with psycopg.connect(admin_url(), dbname=roles.name, autocommit=True) as session:
        session.execute("SET search_path = pg_catalog, public")
        counted = session.execute(
            "SELECT count(*) FROM tickets_ticket WHERE %s IN (token, new_token)", [hostile]
        ).fetchone()
        assert counted == (0,)
        assert session.execute(
            "SELECT last_value FROM migrations_playbook_hits_tickets_ticket_new_token"
        ).fetchone() == (1,)
        with pytest.raises(errors.UniqueViolation):
            session.execute(
                "INSERT INTO tickets_ticket (token) SELECT new_token FROM tickets_ticket LIMIT 1"
            )
        # With the hostile operator no two values would be equal, and nothing would be found.
        session.execute("SET session_replication_role = replica")
        session.execute(
            "UPDATE tickets_ticket t SET token = o.new_token FROM tickets_ticket o "
            "WHERE t.id <> o.id AND t.id = (SELECT max(id) FROM tickets_ticket)"
        )
    done = roles.manage("swap_token_columns", "--verify")
    assert (
        "1 with another row's retired value, 0 with a remembered one, 1 shown by views (public"
        in done.stderr
    )
    done = roles.manage("swap_token_columns", "--revert")
    assert done.returncode == 0, done.stderr
