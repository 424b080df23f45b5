"""What the checks ask PostgreSQL before `migrate`: of the table, its rows, and the value."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.contrib.postgres.functions import RandomUUID
from django.core.management import CommandError, call_command
from django.db import connection, models
from django.db.models.functions import Cast, Left
from psycopg import sql

from migrations_playbook import DIGITS, RandomText, Shadow
from migrations_playbook.expand.checks.tables import check_table
from migrations_playbook.replacement import Replacement
from tests.fixtures.database import Database, role
from tests.fixtures.models_zoo import Characters, expand
from tests.fixtures.subscriber import published
from tests.fixtures.tickets import bring_to
from tickets.models import Ticket

CAST = Cast(RandomUUID(), models.TextField())


def checked(value: Any, model: type[models.Model] = Ticket) -> list[str]:
    """The errors of a value for a table, each with its number."""
    replacement = Replacement(model, Shadow(live="token", shadow="new_token", value=value))
    return [f"{each.id}: {each.msg} {each.hint}" for each in check_table(connection, replacement)]


def function(name: str) -> models.Func:
    return models.Func(function=name, output_field=models.UUIDField())


def with_rows(database: Database, rows: int) -> None:
    """A table of codes that PostgreSQL takes for one of so many rows."""
    expand(Characters, Shadow(live="token", shadow="new_token", value=CAST))
    database.run("ANALYZE zoo_characters")
    database.run("UPDATE pg_class SET reltuples = %s WHERE relname = 'zoo_characters'", rows)


@pytest.mark.parametrize(
    ("value", "rows", "proposed"),
    [
        (RandomText(6, DIGITS), 5_000, "Write value=RandomText(14, DIGITS)."),
        (RandomText(4), 100_000, "Write value=RandomText(9)."),
        (Left(CAST, 5), 5_000, "Widen the expression"),
    ],
)
def test_too_little_room_for_the_rows_is_said_with_a_width_that_does(
    value: Any, rows: int, proposed: str, database: Database
) -> None:
    with_rows(database, rows)
    (error,) = checked(value, Characters)
    assert error.startswith("playbook.E021: Shadow(value=...) has room for about ")
    assert f"some of about {rows:,} rows would draw the same one" in error
    assert proposed in error


@pytest.mark.parametrize("value", [RandomText(9), Left(CAST, 36), RandomText(10, DIGITS)])
def test_room_enough_is_not_complained_of(value: Any, database: Database) -> None:
    with_rows(database, 90_000)
    assert checked(value, Characters) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("SELECT '7f4df2e5-1c5f-4b7e-8b9a-3a0e0d0f0b52'::uuid", "made the same value 1,000 times"),
        ("SELECT NULL::uuid", "makes nulls"),
        (("SELECT ('00000000-0000-4000-8000-' || extract(epoch FROM now())::bigint"
         " || '00')::uuid"), "made the same value"),
    ],
)  # fmt: skip
def test_a_function_that_draws_nothing_is_found_by_drawing(
    body: str, says: str, database: Database
) -> None:
    database.run(f"CREATE FUNCTION drawn() RETURNS uuid LANGUAGE sql AS $body${body}$body$")
    (error,) = checked(function("drawn"))
    assert error.startswith("playbook.E016")
    assert says in error


def in_schema(database: Database) -> None:
    """A function of a schema that is on the database's search_path, as an extension may be."""
    database.run("CREATE SCHEMA extensions")
    database.run(
        "CREATE FUNCTION extensions.fresh() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()'"
    )
    database.run(
        sql.SQL("ALTER DATABASE {} SET search_path = public, extensions")
        .format(sql.Identifier(database.name))
        .as_string(None)
    )
    connection.close()


def test_a_function_that_the_session_finds_and_the_trigger_does_not_is_refused(
    database: Database,
) -> None:
    bring_to("none")
    in_schema(database)
    (error,) = checked(function("fresh"))
    assert error.startswith("playbook.E022: Shadow(value=...) is not found where the triggers look")
    assert database.complaint("SET search_path = public; SELECT fresh()") in error
    assert checked(function("extensions.fresh")) == []


def test_a_function_that_a_migration_may_still_make_is_left_to_the_expand(
    database: Database,
) -> None:
    bring_to("none")
    assert checked(function("to_be_made")) == []
    call_command("migrate", verbosity=0)
    assert checked(function("to_be_made"))[0].startswith("playbook.E022")


def test_a_function_that_fits_no_column_is_refused(database: Database) -> None:
    database.run("CREATE FUNCTION nothing() RETURNS text LANGUAGE sql AS $$SELECT 'none'::text$$")
    (error,) = checked(models.Func(function="nothing", output_field=models.TextField()))
    assert error.startswith("playbook.E015: Shadow(value=...) does not fit token")
    assert "Write an expression that makes a uuid." in error


def test_what_the_role_may_not_call_is_named(database: Database) -> None:
    in_schema(database)
    with role(database, "clerk"):
        database.run("GRANT SELECT ON tickets_ticket TO clerk")
        database.run("REVOKE EXECUTE ON FUNCTION extensions.fresh() FROM PUBLIC")
        with connection.cursor() as cursor:
            cursor.execute("GRANT USAGE ON SCHEMA extensions TO clerk")
            cursor.execute("SET ROLE clerk")
        (error,) = checked(function("extensions.fresh"))
        connection.close()
        words = database.complaint("SELECT extensions.fresh()", role="clerk")
    assert error.startswith("playbook.E022: Shadow(value=...) may not be drawn by this role")
    assert words in error


def test_a_check_writes_nothing(database: Database) -> None:
    database.run("CREATE SEQUENCE counted")
    database.run(
        "CREATE FUNCTION counting() RETURNS uuid LANGUAGE sql AS "
        "$$SELECT nextval('public.counted'); SELECT gen_random_uuid()$$"
    )
    assert checked(function("counting")) == []
    assert database.value("SELECT is_called FROM counted") is False


@pytest.mark.parametrize(
    ("statement", "says", "remedy"),
    [
        (
            "CREATE RULE copy AS ON UPDATE TO tickets_ticket DO ALSO NOTIFY changed",
            "rewritten by a rule on its updates (copy)",
            "Drop the rule",
        ),
        (
            "CREATE RULE never AS ON UPDATE TO tickets_ticket DO INSTEAD NOTHING",
            "rewritten by a rule on its updates (never)",
            "Drop the rule",
        ),
        (
            "CREATE TABLE v (t uuid CONSTRAINT of_ticket REFERENCES tickets_ticket (token))",
            "referred to by its token (of_ticket of",
            "Let the foreign key refer to the primary key",
        ),
    ],
)
def test_what_would_be_refused_later_is_said_before_the_expand(
    statement: str, says: str, remedy: str, empty_database: Database
) -> None:
    call_command("migrate", "tickets", "0001", verbosity=0)
    empty_database.run(statement)
    before = empty_database.dump()
    for option in ((), ("--skip-checks",)):
        done = empty_database.manage("migrate", "tickets", *option)
        assert done.returncode == 1
        assert says in done.stderr
        assert remedy in done.stderr
        assert "Traceback" not in done.stderr
    assert empty_database.dump() == before


def test_rows_that_the_role_does_not_see_are_said_before_the_expand(database: Database) -> None:
    bring_to("none")
    with role(database, "tenant"):
        database.run("CREATE POLICY own ON tickets_ticket USING (id > 2)")
        database.run("ALTER TABLE tickets_ticket ENABLE ROW LEVEL SECURITY")
        database.run("GRANT SELECT ON tickets_ticket TO tenant")
        assert checked(RandomUUID()) == []
        with connection.cursor() as cursor:
            cursor.execute("SET ROLE tenant")
        (error,) = checked(RandomUUID())
        connection.close()
    assert 'under row security, which may hide rows from the role "tenant"' in error
    assert 'ALTER ROLE "tenant" BYPASSRLS' in error


def test_at_the_connection_limit_migrate_is_one_sentence_and_can_be_repeated(
    database: Database,
) -> None:
    usual = connection.settings_dict["USER"]
    with role(database, "visitor"):
        database.run("ALTER ROLE visitor LOGIN CONNECTION LIMIT 0")
        with pytest.raises(psycopg.OperationalError) as limited:
            database.connect(user="visitor")
        words = str(limited.value).rpartition("FATAL:  ")[2].strip()
        connection.close()
        connection.settings_dict["USER"] = "visitor"
        try:
            with pytest.raises(CommandError) as refused:
                call_command("migrate", skip_checks=False, verbosity=0)
        finally:
            connection.settings_dict["USER"] = usual
    assert refused.value.returncode == 75
    for part in ("cannot be reached", words, "nothing was changed"):
        assert part in str(refused.value)


def test_a_table_that_a_subscription_fills_is_refused_with_what_to_do() -> None:
    columns = "id bigint PRIMARY KEY, token uuid, redeemed_at timestamptz, new_token uuid"
    with published("tickets_ticket", columns) as both:
        done = both.subscriber.manage("check", "--database", "default")
    assert done.returncode == 1
    assert "(playbook.E020)" in done.stderr
    assert "filled by a subscription (incoming), whose rows come past the triggers" in done.stderr
    assert "rotate the column on the publisher" in done.stderr


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (
            (
                "DROP TABLE tickets_ticket CASCADE; CREATE TABLE tickets_ticket "
                "(id bigint, token uuid, redeemed_at timestamptz) PARTITION BY HASH (token)"
            ),
            "its table is partitioned by token, whose value says in which partition a row is",
        ),
        ("CREATE TABLE vip () INHERITS (tickets_ticket)", "its table is inherited by vip"),
    ],
)
def test_a_table_of_an_unsound_kind_is_refused_before_it_is_expanded(
    statements: str, why: str, empty_database: Database
) -> None:
    call_command("migrate", "tickets", "0001", verbosity=0)
    for statement in statements.split("; "):
        empty_database.run(statement)
    before = empty_database.dump()
    done = empty_database.manage("migrate")
    assert done.returncode == 1
    assert "(playbook.E020)" in done.stderr
    assert why in done.stderr
    assert empty_database.dump() == before


def test_without_the_checks_the_migration_itself_refuses_what_could_not_be_swapped(
    empty_database: Database,
) -> None:
    call_command("migrate", "tickets", "0001", verbosity=0)
    empty_database.run("CREATE TABLE vip () INHERITS (tickets_ticket)")
    before = empty_database.dump()
    done = empty_database.manage("migrate", "tickets", "--skip-checks")
    assert done.returncode == 1
    assert "tickets_ticket is inherited by" in done.stderr
    assert "nothing was changed" in done.stderr
    assert empty_database.dump() == before


def test_a_refused_declaration_stops_the_commands(database: Database) -> None:
    database.run("CREATE TABLE vip () INHERITS (tickets_ticket)")
    with pytest.raises(CommandError, match=r"inherited by public\.vip"):
        call_command("swap_token_columns")
