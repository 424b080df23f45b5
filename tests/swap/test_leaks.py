"""A leaked value never becomes live again before the contract, whatever the history."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from tests.fixtures.database import Database
from tests.fixtures.tickets import past_the_triggers
from tickets.models import Ticket


def swap() -> None:
    call_command("swap_token_columns")


def revert() -> None:
    call_command("swap_token_columns", revert=True)


def verify() -> None:
    call_command("swap_token_columns", verify=True)


def rotate(ticket: Ticket) -> None:
    """The site gives a ticket another token."""
    Ticket.objects.filter(pk=ticket.pk).update(token=uuid.uuid4())


def save_or_be_refused(stale: Ticket) -> None:
    """A stale object is saved with all its fields; its row may be gone."""
    stale.redeemed_at = timezone.now()
    with contextlib.suppress(IntegrityError), transaction.atomic():
        stale.save()


def insert_or_be_refused(stale: Ticket) -> None:
    """A stale object is inserted as another row."""
    stale.pk = None
    save_or_be_refused(stale)


def again(stale: Ticket) -> Ticket:
    return Ticket(pk=stale.pk, token=stale.token, new_token=stale.new_token)


def changed_once_more_then_saved(stale: Ticket) -> None:
    swap()
    rotate(stale)
    save_or_be_refused(stale)


def changed_twice_then_saved(stale: Ticket) -> None:
    swap()
    rotate(stale)
    rotate(stale)
    save_or_be_refused(stale)


def deleted_then_saved(stale: Ticket) -> None:
    swap()
    Ticket.objects.all().delete()
    save_or_be_refused(stale)


def deleted_then_inserted_again(stale: Ticket) -> None:
    swap()
    Ticket.objects.all().delete()
    insert_or_be_refused(stale)


def deleted_then_given_to_another_row(stale: Ticket) -> None:
    other = Ticket.objects.create()
    swap()
    Ticket.objects.filter(pk=stale.pk).delete()
    Ticket.objects.filter(pk=other.pk).update(token=stale.token)


def deleted_then_upserted(stale: Ticket) -> None:
    swap()
    Ticket.objects.all().delete()
    with contextlib.suppress(IntegrityError), transaction.atomic():
        Ticket.objects.bulk_create([again(stale)], ignore_conflicts=True)
    with contextlib.suppress(IntegrityError), transaction.atomic():
        Ticket.objects.bulk_create(
            [again(stale)],
            update_conflicts=True,
            unique_fields=["id"],
            update_fields=["token", "new_token"],
        )


def deleted_and_saved_at_once(stale: Ticket) -> None:
    swap()
    with contextlib.suppress(IntegrityError), transaction.atomic():
        Ticket.objects.all().delete()
        stale.save()


def planted_after_a_revert(stale: Ticket) -> None:
    swap()
    revert()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tickets_ticket SET new_token = token")
    swap()


def planted_before_the_first_swap(stale: Ticket) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tickets_ticket SET new_token = token")
    swap()


def loaded_while_swapped_and_saved_once_its_row_is_gone(stale: Ticket) -> None:
    swap()
    loaded = Ticket.objects.get(pk=stale.pk)
    revert()
    Ticket.objects.all().delete()
    save_or_be_refused(loaded)
    swap()


def deleted_between_two_swaps(stale: Ticket) -> None:
    swap()
    revert()
    Ticket.objects.all().delete()
    swap()
    save_or_be_refused(stale)


def changed_between_two_swaps(stale: Ticket) -> None:
    swap()
    revert()
    rotate(stale)
    swap()
    save_or_be_refused(stale)


def deleted_while_swapped_and_saved_while_swapped_again(stale: Ticket) -> None:
    swap()
    Ticket.objects.all().delete()
    revert()
    swap()
    save_or_be_refused(stale)


def copied_with_the_shadow_of_another(stale: Ticket) -> None:
    swap()
    loaded = Ticket.objects.get(pk=stale.pk)
    revert()
    loaded.pk, loaded.token = None, uuid.uuid4()
    loaded.save()
    swap()


HISTORIES = (
    changed_once_more_then_saved,
    changed_twice_then_saved,
    deleted_then_saved,
    deleted_then_inserted_again,
    deleted_then_given_to_another_row,
    deleted_then_upserted,
    deleted_and_saved_at_once,
    planted_after_a_revert,
    planted_before_the_first_swap,
    loaded_while_swapped_and_saved_once_its_row_is_gone,
    deleted_between_two_swaps,
    changed_between_two_swaps,
    deleted_while_swapped_and_saved_while_swapped_again,
    copied_with_the_shadow_of_another,
)


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
def test_the_leaked_token_is_not_live(
    database: Database, history: Callable[[Ticket], None]
) -> None:
    stale = Ticket.objects.create()
    stale.refresh_from_db()
    leaked = stale.token
    history(stale)
    assert not Ticket.objects.filter(token=leaked).exists()
    verify()


def test_a_stale_save_of_a_ticket_that_was_changed_once_more_is_counted_and_goes_through(
    database: Database,
) -> None:
    stale = Ticket.objects.create()
    swap()
    rotate(stale)
    fresh = Ticket.objects.get().token
    stale.redeemed_at = timezone.now()
    stale.save()
    ticket = Ticket.objects.get()
    assert (ticket.token, ticket.redeemed_at) == (fresh, stale.redeemed_at)
    (hits,) = database.fetch(
        "SELECT last_value FROM pg_sequences WHERE sequencename LIKE 'migrations_playbook_hits%'"
    )
    assert hits == (1,)


def test_what_was_told_while_swapped_lives_through_revert_and_swap(database: Database) -> None:
    changed = Ticket.objects.create()
    swap()
    rotate(changed)
    created = Ticket.objects.create()
    told = set(Ticket.objects.values_list("token"))
    for play in (revert, swap, revert, swap, verify):
        play()
        assert set(Ticket.objects.values_list("token")) == told
    assert Ticket.objects.filter(pk=created.pk).exists()


def test_a_token_of_while_swapped_that_is_replaced_after_the_revert_does_not_come_back(
    database: Database,
) -> None:
    ticket = Ticket.objects.create()
    swap()
    rotate(ticket)
    replaced = Ticket.objects.get().token
    revert()
    rotate(ticket)
    swap()
    assert not Ticket.objects.filter(token=replaced).exists()
    verify()


def test_the_memory_holds_no_value(database: Database) -> None:
    stale = Ticket.objects.create()
    swap()
    rotate(stale)
    kept = database.value(
        "SELECT string_agg(encode(digest, 'hex'), ' ') "
        "FROM migrations_playbook_leaked_tickets_ticket_new_token"
    )
    assert len(kept) == 64
    assert stale.token.hex not in kept


def test_who_may_write_tickets_may_not_look_at_the_memory_and_needs_no_right_on_it(
    database: Database,
) -> None:
    Ticket.objects.create()
    swap()
    with database.connect() as session:
        session.execute("CREATE ROLE leaks_app")
        session.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON tickets_ticket TO leaks_app")
        session.execute("GRANT USAGE ON SEQUENCE tickets_ticket_id_seq TO leaks_app")
        session.execute("SET LOCAL ROLE leaks_app")
        session.execute("UPDATE tickets_ticket SET token = gen_random_uuid()")
        session.execute("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
        session.execute("DELETE FROM tickets_ticket")
        row = session.execute(
            "SELECT has_table_privilege("
            "'migrations_playbook_leaked_tickets_ticket_new_token', 'SELECT')"
        ).fetchone()
        assert row == (False,)
        session.rollback()


def test_rows_that_came_past_the_triggers_are_counted_and_the_revert_keeps_their_tokens(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    Ticket.objects.create()
    swap()
    past_the_triggers(
        database,
        "INSERT INTO tickets_ticket (token) SELECT gen_random_uuid() FROM generate_series(1, 3)",
    )
    told = set(Ticket.objects.filter(new_token=None).values_list("token"))
    capsys.readouterr()
    verify()
    assert "3 came past the triggers" in capsys.readouterr().out
    revert()
    assert told < set(Ticket.objects.values_list("token"))
    swap()
    assert told < set(Ticket.objects.values_list("token"))


def test_a_leaked_token_that_was_written_past_the_triggers_fails_the_proof(
    database: Database,
) -> None:
    stale = Ticket.objects.create()
    swap()
    rotate(stale)
    past_the_triggers(database, "UPDATE tickets_ticket SET token = %s", stale.token)
    with pytest.raises(CommandError, match="1 with a remembered one") as caught:
        verify()
    assert "revert" not in str(caught.value)


def test_a_collision_after_an_exit_75_is_drawn_again(database: Database) -> None:
    first, second = Ticket.objects.create(), Ticket.objects.create()
    with database.connect() as idle:
        idle.execute("SELECT FROM tickets_ticket LIMIT 1")
        with pytest.raises(CommandError) as caught:
            call_command("swap_token_columns", attempts=1)
        assert caught.value.returncode == 75
    past_the_triggers(
        database,
        "UPDATE tickets_ticket SET new_token = %s WHERE id = %s",
        first.token,
        second.pk,
    )
    swap()
    verify()
    assert Ticket.objects.get(pk=second.pk).token != first.token


def test_a_copied_object_has_a_shadow_of_its_own_between_an_exit_75_and_the_next_swap(
    database: Database,
) -> None:
    ticket = Ticket.objects.create()
    ticket.refresh_from_db()
    with database.connect() as idle:
        idle.execute("SELECT FROM tickets_ticket LIMIT 1")
        with pytest.raises(CommandError):
            call_command("swap_token_columns", attempts=1)
    ticket.pk, ticket.token = None, uuid.uuid4()
    ticket.save()
    assert len(set(Ticket.objects.values_list("new_token"))) == 2
    swap()


def test_an_update_of_the_site_changes_no_shadow_and_an_insert_brings_none(
    database: Database,
) -> None:
    chosen = uuid.uuid4()
    ticket = Ticket.objects.create(new_token=chosen)
    drawn = Ticket.objects.get().new_token
    Ticket.objects.update(new_token=chosen)
    Ticket.objects.filter(pk=ticket.pk).update(token=uuid.uuid4(), new_token=chosen)
    assert Ticket.objects.get().new_token == drawn != chosen


def test_a_row_that_was_never_filled_may_be_filled_by_anybody(database: Database) -> None:
    past_the_triggers(database, "INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
    chosen = uuid.uuid4()
    Ticket.objects.update(new_token=chosen)
    assert Ticket.objects.get().new_token == chosen


def test_it_may_not_be_filled_with_its_own_leaked_token(database: Database) -> None:
    past_the_triggers(database, "INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
    database.run("UPDATE tickets_ticket SET new_token = token")
    assert database.value("SELECT new_token <> token FROM tickets_ticket") is True


@pytest.mark.parametrize("name", ["zz_make_token", "a_make_token"])
def test_a_token_that_a_trigger_of_the_site_draws_is_kept_by_the_revert(
    database: Database, name: str
) -> None:
    database.run(
        "CREATE FUNCTION make_token() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.token := gen_random_uuid(); RETURN NEW; END'"
    )
    database.run(
        f"CREATE TRIGGER {name} BEFORE INSERT ON tickets_ticket FOR EACH ROW "
        "EXECUTE FUNCTION make_token()"
    )
    swap()
    told = database.value("INSERT INTO tickets_ticket (token) VALUES (NULL) RETURNING token")
    revert()
    assert Ticket.objects.get().token == told
    swap()
    assert Ticket.objects.get().token == told
