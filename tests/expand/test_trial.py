"""The expand tries its triggers as the site would, and refuses before an insert can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.postgres.functions import RandomUUID
from django.core.management import CommandError
from django.db import connection, models
from django.db.migrations import AddField
from django.db.migrations.executor import MigrationExecutor
from pgtrigger.migrations import AddTrigger

from migrations_playbook import RandomText
from migrations_playbook.operations import WithTableLock
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database, role
from tests.fixtures.server import server_version
from tests.fixtures.tickets import add_old_tickets, bring_to, nulls
from tickets.models import Ticket

Expand = Callable[[Any], None]
Refusal = Callable[[Any], str]
DRAWING = "LANGUAGE sql AS 'SELECT pg_catalog.gen_random_uuid()'"


def function(name: str) -> models.Func:
    return models.Func(function=name, output_field=models.UUIDField())


@pytest.fixture
def expand(database: Database) -> Iterator[Expand]:
    """Expands three tickets with a value of the test's own, as a migration does."""
    add_old_tickets(database, 3)
    bring_to("none")
    declaration = find_replacement("tickets.Ticket", "new_token").declaration
    usual = declaration.value
    model: Any = Ticket

    def play(value: Any) -> None:
        object.__setattr__(declaration, "value", value)
        state = MigrationExecutor(connection).loader.project_state(("tickets", "0001_initial"))
        operation = WithTableLock(
            "ticket",
            [
                AddField("ticket", "new_token", models.UUIDField(null=True)),
                *(AddTrigger("ticket", each.compile(model)) for each in declaration.triggers),
            ],
        )
        after = state.clone()
        operation.state_forwards("tickets", after)
        with connection.schema_editor() as editor:
            operation.database_forwards("tickets", editor, state, after)

    yield play
    object.__setattr__(declaration, "value", usual)


@pytest.fixture
def refusal(expand: Expand, database: Database) -> Refusal:
    """What an expand says that is bound to refuse; and it leaves nothing behind."""

    def refused(value: Any) -> str:
        before = database.dump()
        with pytest.raises(CommandError) as caught:
            expand(value)
        assert caught.value.returncode == 1
        assert "nothing was changed" in str(caught.value)
        assert database.dump() == before
        database.run("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
        return str(caught.value)

    return refused


def test_what_works_is_expanded_and_nothing_of_the_trial_is_left(
    expand: Expand, database: Database
) -> None:
    expand(RandomUUID())
    assert database.value("SELECT count(*) FROM pg_class WHERE relname ~ 'playbook_trial'") == 0
    assert nulls(database) == 3
    database.run("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
    assert nulls(database) == 3


def test_a_function_that_the_trigger_does_not_find_is_refused(
    refusal: Refusal, database: Database
) -> None:
    database.run("CREATE SCHEMA extensions")
    database.run(f"CREATE FUNCTION extensions.fresh() RETURNS uuid {DRAWING}")
    said = refusal(function("fresh"))
    assert "Every insert into public.tickets_ticket would fail" in said
    assert database.complaint("SELECT fresh()") in said
    assert "The triggers look names up in pg_catalog, public, pg_temp: name the schema." in said
    assert '"manage.py playbook expand tickets.Ticket.new_token"' in said


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("SELECT NULL::uuid", "is null"),
        ("SELECT '7f4df2e5-1c5f-4b7e-8b9a-3a0e0d0f0b52'::uuid", "was the same for 101 rows"),
        ("SELECT to_char(1 / 0, '9')::uuid", "division by zero"),
        ("SELECT missing FROM nowhere", None),  # what the server says to it
    ],
)
def test_a_function_that_draws_nothing_is_refused(
    body: str, says: str | None, refusal: Refusal, database: Database
) -> None:
    database.run(
        "CREATE FUNCTION fresh() RETURNS uuid LANGUAGE plpgsql AS "
        f"$body$BEGIN RETURN ({body}); END$body$"
    )
    says = says or database.complaint("SELECT fresh()")
    assert says in refusal(function("public.fresh"))


@pytest.mark.parametrize("value", [RandomText(16), models.Value("none")])
def test_a_value_of_another_type_is_refused_and_not_quoted(value: Any, refusal: Refusal) -> None:
    said = refusal(value)
    assert "would fail in the triggers: invalid text representation (SQLSTATE 22P02" in said


@pytest.mark.parametrize("validity", ["", "NOT VALID"])
def test_a_value_that_a_check_of_the_live_column_does_not_let_pass_is_refused(
    validity: str, refusal: Refusal, database: Database
) -> None:
    database.run(
        "ALTER TABLE tickets_ticket ADD CONSTRAINT version "
        f"CHECK (substr(token::text, 15, 1) = '4') {validity}"
    )
    database.run(
        "CREATE FUNCTION fresh() RETURNS uuid LANGUAGE sql AS "
        "$$SELECT overlay(gen_random_uuid()::text placing '7' from 15)::uuid$$"
    )
    said = refusal(function("public.fresh"))
    assert "tickets.Ticket.new_token do not pass the CHECK version that the live ones pass" in said


def test_a_check_that_needs_more_than_the_live_column_is_left_to_the_swap(
    expand: Expand, database: Database
) -> None:
    database.run(
        "ALTER TABLE tickets_ticket ADD CHECK (redeemed_at IS NULL OR token IS NOT NULL), "
        "ADD CHECK (tickets_ticket IS NOT NULL OR true)"
    )
    expand(RandomUUID())


@pytest.mark.skipif(server_version() < 18, reason="NOT ENFORCED came with PostgreSQL 18")
def test_a_check_that_is_not_enforced_refuses_no_value(expand: Expand, database: Database) -> None:
    database.run("ALTER TABLE tickets_ticket ADD CHECK (token IS NULL) NOT ENFORCED")
    expand(RandomUUID())


@pytest.mark.parametrize("granted", ["INSERT", "UPDATE (redeemed_at)"])
def test_a_role_of_the_site_that_may_not_call_the_function_is_named(
    granted: str, refusal: Refusal, database: Database
) -> None:
    database.run(f"CREATE FUNCTION fresh() RETURNS uuid {DRAWING}")
    database.run("REVOKE EXECUTE ON FUNCTION fresh() FROM PUBLIC")
    with role(database, "shop"):
        database.run(f"GRANT {granted} ON tickets_ticket TO shop")
        said = refusal(function("public.fresh"))
        words = database.complaint("SELECT fresh()", role="shop")
    assert 'Every insert of the role "shop" into public.tickets_ticket would fail' in said
    assert words in said
    assert "Grant that to the role" in said


def test_a_role_is_tried_with_what_the_function_calls_in_turn(
    refusal: Refusal, database: Database
) -> None:
    database.run("CREATE TABLE seeds (seed uuid)")
    database.run(
        "CREATE FUNCTION fresh() RETURNS uuid LANGUAGE sql AS "
        "'SELECT coalesce((SELECT seed FROM public.seeds LIMIT 1), gen_random_uuid())'"
    )
    with role(database, "shop"):
        database.run("GRANT INSERT ON tickets_ticket TO shop")
        words = database.complaint("SELECT FROM seeds", role="shop")
        assert words in refusal(function("public.fresh"))


@pytest.fixture
def keeper(database: Database) -> Iterator[None]:
    """The migrations are run by a role that owns the table, and is no member of any other."""
    with role(database, "keeper"), role(database, "shop"):
        database.run("GRANT INSERT ON tickets_ticket TO shop")
        database.run("GRANT CREATE ON SCHEMA public TO keeper")
        database.run("GRANT SELECT ON django_migrations TO keeper")
        database.run("ALTER TABLE tickets_ticket OWNER TO keeper")
        database.run("ALTER FUNCTION _pgtrigger_should_ignore(name) OWNER TO keeper")
        for name in ("pgtrigger_fill_new_token_6fffd", "pgtrigger_keep_new_token_7d896"):
            database.run(f"DROP FUNCTION IF EXISTS {name}() CASCADE")
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION AUTHORIZATION keeper")
        yield
        connection.close()


def test_the_rights_of_a_role_that_cannot_be_tried_are_looked_up(
    refusal: Refusal, keeper: None, expand: Expand, database: Database
) -> None:
    database.run("CREATE SCHEMA tools")
    database.run("GRANT USAGE ON SCHEMA tools TO keeper")
    database.run(f"CREATE FUNCTION tools.fresh() RETURNS uuid {DRAWING}")
    database.run("REVOKE EXECUTE ON FUNCTION tools.fresh() FROM PUBLIC")
    database.run("GRANT EXECUTE ON FUNCTION tools.fresh() TO keeper")
    said = refusal(function("tools.fresh"))
    assert (
        'Run GRANT USAGE ON SCHEMA tools TO "shop"; '
        'GRANT EXECUTE ON FUNCTION tools.fresh() TO "shop", then "manage.py migrate" again.'
    ) in said
    database.run("GRANT USAGE ON SCHEMA tools TO shop")
    database.run("GRANT EXECUTE ON FUNCTION tools.fresh() TO shop")
    expand(function("tools.fresh"))


def test_what_everybody_may_insert_everybody_must_be_able_to_draw(
    refusal: Refusal, database: Database
) -> None:
    database.run(f"CREATE FUNCTION fresh() RETURNS uuid {DRAWING}")
    database.run("REVOKE EXECUTE ON FUNCTION fresh() FROM PUBLIC")
    database.run("GRANT INSERT ON tickets_ticket TO PUBLIC")
    assert "GRANT EXECUTE ON FUNCTION fresh() TO PUBLIC" in refusal(function("public.fresh"))


def test_a_role_that_may_not_call_the_triggers_own_function_is_named(
    refusal: Refusal, database: Database
) -> None:
    """As in a database whose default privileges leave PUBLIC nothing."""
    database.run("REVOKE EXECUTE ON FUNCTION _pgtrigger_should_ignore(name) FROM PUBLIC")
    with role(database, "shop"):
        database.run("GRANT INSERT ON tickets_ticket TO shop")
        said = refusal(RandomUUID())
        words = database.complaint("SELECT _pgtrigger_should_ignore('any')", role="shop")
    assert words in said


def test_without_the_right_to_try_it_the_grant_is_named(
    refusal: Refusal, keeper: None, database: Database
) -> None:
    database.run(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC")
    assert f"Run GRANT TEMPORARY ON DATABASE {database.name} TO keeper" in refusal(RandomUUID())
