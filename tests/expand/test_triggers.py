"""No write leaves the shadow null, and none undoes what was filled."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from django.core.management import call_command
from django.db import connection, models
from django.db.models import Value
from django.db.models.functions import Cast
from django.utils import timezone

from migrations_playbook import Shadow
from migrations_playbook.backfill.play import backfill
from migrations_playbook.replacement import Replacement
from tests.fixtures.database import Database
from tests.fixtures.tickets import add_old_tickets, bring_to, changed, remember
from tickets.models import Ticket


def insert_with_sql(database: Database) -> None:
    database.run("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")


def insert_null_with_sql(database: Database) -> None:
    database.run("INSERT INTO tickets_ticket (token, new_token) VALUES (gen_random_uuid(), NULL)")


def insert_or_update_with_sql(database: Database) -> None:
    database.run(
        "INSERT INTO tickets_ticket (id, token) VALUES (1, gen_random_uuid()) "
        "ON CONFLICT (id) DO UPDATE SET redeemed_at = now()"
    )


def copy(database: Database) -> None:
    with (
        database.connect() as session,
        session.cursor() as cursor,
        cursor.copy("COPY tickets_ticket (token) FROM STDIN") as stream,
    ):
        stream.write_row([uuid.uuid4()])
        stream.write_row([uuid.uuid4()])


def create(database: Database) -> None:
    Ticket.objects.create()


def bulk_create(database: Database) -> None:
    Ticket.objects.bulk_create([Ticket(), Ticket()])


def bulk_create_over_conflicts(database: Database) -> None:
    Ticket.objects.bulk_create(
        [Ticket(id=1), Ticket(id=2)],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["redeemed_at"],
    )


@pytest.mark.parametrize(
    "insert",
    [
        create,
        bulk_create,
        bulk_create_over_conflicts,
        insert_with_sql,
        insert_null_with_sql,
        insert_or_update_with_sql,
        copy,
    ],
    ids=lambda insert: insert.__name__,
)
def test_a_new_ticket_has_a_fresh_token_from_the_start(
    database: Database, insert: Callable[[Database], None]
) -> None:
    insert(database)
    assert database.fetch(
        "SELECT count(*) > 0, count(*) = count(DISTINCT new_token), bool_and(new_token <> token) "
        "FROM tickets_ticket"
    ) == [(True, True, True)]


def save_from_before(database: Database) -> None:
    """Every row was loaded while its new_token was null, and is saved whole."""
    for ticket in Ticket.objects.all():
        ticket.new_token = None
        ticket.redeemed_at = timezone.now()
        ticket.save()


def save_one_field(database: Database) -> None:
    for ticket in Ticket.objects.all():
        ticket.redeemed_at = timezone.now()
        ticket.save(update_fields=["redeemed_at"])


def update(database: Database) -> None:
    Ticket.objects.update(redeemed_at=timezone.now())


def update_to_null(database: Database) -> None:
    Ticket.objects.update(new_token=None, redeemed_at=timezone.now())


def bulk_update(database: Database) -> None:
    tickets = list(Ticket.objects.all())
    for ticket in tickets:
        ticket.redeemed_at = timezone.now()
    Ticket.objects.bulk_update(tickets, ["redeemed_at"])


def bulk_update_to_null(database: Database) -> None:
    tickets = list(Ticket.objects.all())
    for ticket in tickets:
        ticket.redeemed_at, ticket.new_token = timezone.now(), None
    Ticket.objects.bulk_update(tickets, ["redeemed_at", "new_token"])


def update_with_sql(database: Database) -> None:
    database.run("UPDATE tickets_ticket SET redeemed_at = now()")


def update_to_null_with_sql(database: Database) -> None:
    database.run("UPDATE tickets_ticket SET redeemed_at = now(), new_token = NULL")


UPDATES = [
    save_from_before,
    save_one_field,
    update,
    update_to_null,
    bulk_update,
    bulk_update_to_null,
    update_with_sql,
    update_to_null_with_sql,
]


@pytest.mark.parametrize("write", UPDATES, ids=lambda write: write.__name__)
def test_a_ticket_from_before_gets_a_fresh_token_with_its_first_write(
    database: Database, write: Callable[[Database], None]
) -> None:
    add_old_tickets(database, 3)
    remember(database, "token")
    write(database)
    assert database.fetch(
        "SELECT count(new_token), count(DISTINCT new_token), count(redeemed_at) FROM tickets_ticket"
    ) == [(3, 3, 3)]
    assert changed(database, "token") == 0


@pytest.mark.parametrize("write", UPDATES, ids=lambda write: write.__name__)
def test_no_write_takes_a_fresh_token_back(
    database: Database, write: Callable[[Database], None]
) -> None:
    Ticket.objects.bulk_create([Ticket(), Ticket(), Ticket()])
    remember(database, "token", "new_token")
    write(database)
    assert Ticket.objects.filter(redeemed_at__isnull=False).count() == 3
    assert changed(database, "new_token") == 0
    assert changed(database, "token") == 0


def test_the_row_that_a_write_returns_has_its_fresh_token(database: Database) -> None:
    returned = database.value(
        "INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid()) "
        "RETURNING new_token IS NOT NULL"
    )
    assert returned is True


def test_a_fresh_token_is_never_replaced_by_another(database: Database) -> None:
    Ticket.objects.create()
    remember(database, "new_token")
    database.run("UPDATE tickets_ticket SET new_token = gen_random_uuid()")
    assert changed(database, "new_token") == 0


def test_an_object_loaded_while_swapped_and_saved_after_the_revert_changes_no_token(
    database: Database,
) -> None:
    add_old_tickets(database, 2)
    bring_to("swapped")
    first, second = Ticket.objects.order_by("id")
    call_command("swap_token_columns", revert=True)
    remember(database, "token", "new_token")
    first.redeemed_at = timezone.now()
    first.save()
    Ticket.objects.bulk_update([second], ["token"])
    assert changed(database, "token") == 0
    assert changed(database, "new_token") == 0
    first.refresh_from_db()
    assert first.redeemed_at is not None


def test_a_token_can_be_given_a_really_new_value_while_expanded(database: Database) -> None:
    ticket = Ticket.objects.create()
    remember(database, "token", "new_token")
    Ticket.objects.filter(pk=ticket.pk).update(token=uuid.uuid4())
    assert changed(database, "token") == 1
    assert changed(database, "new_token") == 0


def twice_the_same(first: uuid.UUID) -> Replacement:
    """A declaration whose first drawn value is the one given, and whose others are random."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE draws")
        cursor.execute(
            "CREATE FUNCTION draw(first text) RETURNS uuid LANGUAGE sql AS $$"
            "SELECT CASE nextval('public.draws') WHEN 1 THEN first::uuid "
            "ELSE gen_random_uuid() END $$"
        )
    value = models.Func(
        Cast(Value(str(first)), models.TextField()),
        function="public.draw",
        output_field=models.UUIDField(),
    )
    replacement = Replacement(Ticket, Shadow(live="token", shadow="new_token", value=value))
    with connection.cursor() as cursor:
        for trigger in replacement.declaration.triggers:
            cursor.execute(trigger.compile(Ticket).install_sql)  # type: ignore[arg-type]
    return replacement


def test_a_fresh_token_that_equals_the_live_one_is_drawn_again(database: Database) -> None:
    token = uuid.uuid4()
    twice_the_same(token)
    Ticket.objects.create(token=token)
    assert database.value("SELECT new_token <> token FROM tickets_ticket") is True
    assert database.value("SELECT last_value FROM draws") == 2


def test_the_backfill_too_draws_again_what_equals_the_live_token(database: Database) -> None:
    add_old_tickets(database, 1)
    replacement = twice_the_same(Ticket.objects.get().token)
    list(backfill(replacement, using="default"))
    assert database.value("SELECT new_token <> token FROM tickets_ticket") is True
    assert database.value("SELECT last_value FROM draws") >= 2


def test_the_trigger_calls_no_function_of_another_schema_in_the_path(database: Database) -> None:
    database.run("CREATE SCHEMA evil")
    database.run(
        "CREATE FUNCTION evil.gen_random_uuid() RETURNS uuid LANGUAGE sql AS "
        "$$ SELECT '00000000-0000-0000-0000-000000000000'::uuid $$"
    )
    with database.connect(options="-c search_path=evil,public,pg_catalog") as session:
        session.execute("INSERT INTO tickets_ticket (token) VALUES (pg_catalog.gen_random_uuid())")
    assert database.value(
        "SELECT new_token <> '00000000-0000-0000-0000-000000000000' FROM tickets_ticket"
    )
