"""The original problem: fresh values that collide, because the value expression has little room."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import models
from django.db.models import Value
from django.db.models.functions import MD5, Cast, Floor, Random

from migrations_playbook import Shadow
from migrations_playbook.backfill.play import backfill
from migrations_playbook.errors import PlaybookError
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.play import swap
from migrations_playbook.swap.reports import Verified
from tests.fixtures.database import Database
from tests.fixtures.tickets import add_old_tickets, nulls, past_the_triggers
from tickets.models import Ticket


def narrow(database: Database, room: int) -> Replacement:
    """Tickets with a declaration that can draw only so many values, and its triggers."""
    number = Cast(Floor(Random() * Value(float(room))), models.TextField())
    value = Cast(MD5(number), models.UUIDField())
    replacement = Replacement(Ticket, Shadow(live="token", shadow="new_token", value=value))
    for trigger in replacement.declaration.triggers:
        database.run(trigger.compile(Ticket).install_sql)  # type: ignore[arg-type]
    return replacement


def duplicates(database: Database, column: str) -> int:
    """How many rows have a value that an earlier row has."""
    found = database.value(f"SELECT count(*) - count(DISTINCT {column}) FROM tickets_ticket")  # noqa: S608
    return int(found)


def test_duplicates_but_one_are_refilled_until_every_value_is_unique(database: Database) -> None:
    add_old_tickets(database, 1000)
    replacement = narrow(database, room=4000)
    list(backfill(replacement, using="default"))
    assert duplicates(database, "new_token") > 0
    (verified,) = (
        event for event in swap(replacement, using="default") if isinstance(event, Verified)
    )
    assert (verified.rows, verified.duplicates, verified.nulls) == (1000, 0, 0)
    assert duplicates(database, "token") == 0
    assert nulls(database) == 0


def test_a_value_that_collided_with_nothing_stays(database: Database) -> None:
    add_old_tickets(database, 1000)
    replacement = narrow(database, room=4000)
    list(backfill(replacement, using="default"))
    database.run("CREATE TABLE first_of_each AS SELECT DISTINCT new_token FROM tickets_ticket")
    list(swap(replacement, using="default"))
    assert (
        database.value(
            "SELECT count(*) FROM first_of_each f WHERE NOT EXISTS "
            "(SELECT FROM tickets_ticket t WHERE t.token = f.new_token)"
        )
        == 0
    )


def test_where_there_is_no_room_for_all_it_gives_up_and_nothing_is_exchanged(
    database: Database,
) -> None:
    add_old_tickets(database, 50)
    replacement = narrow(database, room=40)
    list(backfill(replacement, using="default"))
    with pytest.raises(PlaybookError, match="too little room"):
        list(swap(replacement, using="default"))
    assert Ticket.objects.count() == 50
    assert (
        database.value(
            "SELECT (SELECT attnum FROM pg_attribute WHERE attrelid = t AND attname = 'token') < "
            "(SELECT attnum FROM pg_attribute WHERE attrelid = t AND attname = 'new_token') "
            "FROM (SELECT 'tickets_ticket'::regclass AS t) AS here"
        )
        is True
    )


def test_no_ticket_gets_the_leaked_value_of_another(database: Database) -> None:
    replacement = narrow(database, room=400)
    with database.connect() as session:
        session.execute("ALTER TABLE tickets_ticket DISABLE TRIGGER USER")
        session.execute(
            "INSERT INTO tickets_ticket (token) SELECT md5(n::text)::uuid "
            "FROM generate_series(0, 99) AS n"
        )
        session.execute("ALTER TABLE tickets_ticket ENABLE TRIGGER USER")
    list(backfill(replacement, using="default"))
    events = list(swap(replacement, using="default"))
    (verified,) = (event for event in events if isinstance(event, Verified))
    assert verified.leaked == 0
    assert (
        database.value(
            "SELECT count(*) FROM tickets_ticket a JOIN tickets_ticket b ON a.token = b.new_token"
        )
        == 0
    )


def test_fresh_values_that_an_expressions_index_takes_for_the_same_are_drawn_anew(
    database: Database,
) -> None:
    """As UniqueConstraint(Lower("code")) has it: here values of the same first digit are equal."""
    database.run(
        "INSERT INTO tickets_ticket (token) SELECT "
        "overlay(gen_random_uuid()::text PLACING digit::text FROM 1 FOR 1)::uuid "
        "FROM generate_series(0, 7) AS digit"
    )
    database.run("CREATE UNIQUE INDEX firsts ON tickets_ticket (left(token::text, 1))")
    past_the_triggers(
        database,
        "UPDATE tickets_ticket SET new_token = "
        "overlay(gen_random_uuid()::text PLACING 'a' FROM 1 FOR 1)::uuid",
    )
    call_command("swap_token_columns")
    assert database.value("SELECT count(DISTINCT left(token::text, 1)) FROM tickets_ticket") == 8
