"""After the swap: no stale save, no insert and no mix-up brings a leaked value back."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from migrations_playbook import status
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.quarantine.watch import StaleWrites, read_stale_writes
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database
from tests.fixtures.releases import migrate
from tickets.models import Ticket


def save_as_release_n(ticket: Ticket) -> None:
    """A full save by the release that does not know the shadow column."""
    ticket.save(update_fields=["token", "redeemed_at"])


def swap() -> None:
    call_command("swap_token_columns")


def revert() -> None:
    call_command("swap_token_columns", revert=True)


def stale_writes() -> StaleWrites | None:
    replacement = find_replacement("tickets.Ticket", "new_token")
    table = read_table(connection, replacement.identifier)
    assert table is not None
    return read_stale_writes(connection, table, replacement.live, replacement.shadow)


def loaded_before_the_backfill() -> Ticket:
    """A ticket as release N+1 has it in memory from before its row was filled."""
    ticket = Ticket.objects.create()
    assert ticket.new_token is None
    return ticket


def loaded_after_the_backfill() -> Ticket:
    ticket = loaded_before_the_backfill()
    ticket.refresh_from_db()
    assert ticket.new_token is not None
    return ticket


@pytest.mark.parametrize(
    ("load", "save"),
    [
        (loaded_before_the_backfill, save_as_release_n),
        (loaded_before_the_backfill, Ticket.save),
        (loaded_after_the_backfill, Ticket.save),
    ],
    ids=["release N", "N+1, loaded before the backfill", "N+1, loaded after the backfill"],
)
def test_a_stale_save_keeps_the_fresh_token_and_the_rest_of_the_save(
    database: Database,
    load: Callable[[], Ticket],
    save: Callable[[Ticket], None],
) -> None:
    stale = load()
    leaked = stale.token
    swap()
    fresh = Ticket.objects.get().token
    stale.redeemed_at = timezone.now()
    save(stale)
    ticket = Ticket.objects.get()
    assert ticket.token == fresh != leaked
    assert ticket.new_token == leaked
    assert ticket.redeemed_at == stale.redeemed_at


def test_a_stale_bulk_update_keeps_the_fresh_token(database: Database) -> None:
    stale = [loaded_before_the_backfill() for _ in range(3)]
    swap()
    fresh = list(Ticket.objects.order_by("pk").values_list("token"))
    Ticket.objects.bulk_update(stale, ["token", "new_token", "redeemed_at"])
    assert list(Ticket.objects.order_by("pk").values_list("token")) == fresh


def test_a_save_of_an_object_loaded_after_the_swap_changes_no_token(database: Database) -> None:
    Ticket.objects.create()
    swap()
    before = Ticket.objects.values().get()
    Ticket.objects.get().save()
    assert Ticket.objects.values().get() == before


def test_a_leaked_value_cannot_be_inserted(database: Database) -> None:
    leaked = Ticket.objects.create().token
    swap()
    with pytest.raises(IntegrityError), transaction.atomic():
        Ticket.objects.create(token=leaked)


def test_a_leaked_value_cannot_be_given_to_another_row(database: Database) -> None:
    leaked = Ticket.objects.create().token
    other = Ticket.objects.create()
    swap()
    with pytest.raises(IntegrityError), transaction.atomic():
        Ticket.objects.filter(pk=other.pk).update(token=leaked)


def test_a_row_inserted_after_the_swap_keeps_its_token_through_revert_and_swap(
    database: Database,
) -> None:
    Ticket.objects.create()
    swap()
    told = Ticket.objects.create().token
    Ticket.objects.get(token=told)
    revert()
    Ticket.objects.get(token=told)
    swap()
    Ticket.objects.get(token=told)


def test_an_insert_cannot_choose_its_retired_value(database: Database) -> None:
    swap()
    ticket = Ticket.objects.create(new_token=uuid.uuid4())
    ticket.refresh_from_db()
    assert ticket.new_token == ticket.token


def test_a_token_changed_after_the_swap_is_kept_by_the_revert(database: Database) -> None:
    ticket = Ticket.objects.create()
    swap()
    told = uuid.uuid4()
    Ticket.objects.filter(pk=ticket.pk).update(token=told)
    revert()
    assert Ticket.objects.get().token == told


def test_an_object_loaded_while_swapped_and_saved_after_the_revert_mixes_nothing_up(
    database: Database,
) -> None:
    leaked = Ticket.objects.create().token
    swap()
    stale = Ticket.objects.get()
    fresh = stale.token
    revert()
    stale.redeemed_at = timezone.now()
    stale.save()
    ticket = Ticket.objects.get()
    assert (ticket.token, ticket.new_token) == (leaked, fresh)
    assert ticket.redeemed_at == stale.redeemed_at
    swap()
    assert Ticket.objects.get().token == fresh


def test_the_revert_takes_the_quarantine_away(database: Database) -> None:
    before = database.dump()
    swap()
    assert "migrations_playbook_ward" in database.dump()
    revert()
    assert database.dump() == before


def test_what_has_leaked_is_remembered_until_the_contract(database: Database) -> None:
    swap()
    revert()
    connection.close()
    table, function = "migrations_playbook_leaked_tickets_ticket_new_token", "remember"
    assert len(database.memory()) == 4
    assert {table} < set(database.memory())
    assert database.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", table
    ) == [("digest",)]
    swap()
    connection.close()
    assert len(database.memory()) == 4, function
    migrate(database, "n3")
    assert database.memory() == []


def test_stale_writes_are_counted_even_when_they_are_rolled_back(database: Database) -> None:
    stale = Ticket.objects.create()
    assert stale_writes() is None
    swap()
    assert stale_writes() == StaleWrites(hits=0, last=None)
    save_as_release_n(stale)
    with transaction.atomic():
        save_as_release_n(stale)
        transaction.set_rollback(True)
    counted = stale_writes()
    assert counted is not None
    assert counted.hits == 2
    assert counted.last is not None
    assert timezone.now() - counted.last < timedelta(minutes=5)


def test_an_ordinary_write_calls_no_function_of_the_quarantine(database: Database) -> None:
    Ticket.objects.create()
    swap()
    with database.connect(options="-c track_functions=all", autocommit=True) as session:
        session.execute("UPDATE tickets_ticket SET redeemed_at = now()")
        session.execute("UPDATE tickets_ticket SET token = token, new_token = new_token")
        session.execute("SELECT pg_stat_force_next_flush()") if database.value(
            "SELECT current_setting('server_version_num')::int >= 150000"
        ) else None
    assert not database.fetch("SELECT funcname FROM pg_stat_user_functions WHERE calls > 0")


@pytest.mark.parametrize(
    ("ago", "said"),
    [
        (None, "none yet"),
        (timedelta(seconds=3), "last stale write: less than a minute ago, 17 in all"),
        (timedelta(minutes=3), "last stale write: 3\xa0minutes ago, 17 in all"),
        (timedelta(hours=25), "none for 24 hours (17 before): the old processes are gone"),
    ],
)
def test_the_status_says_whether_old_processes_are_still_at_work(
    ago: timedelta | None, said: str
) -> None:
    now = timezone.now()
    last = None if ago is None else now - ago
    hits = 0 if ago is None else 17
    assert status.describe_stale_writes(StaleWrites(hits, last), now=now) == said
