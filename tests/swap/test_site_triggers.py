"""Triggers of the site's that draw the token, or stand between a play and its rows."""

from __future__ import annotations

from typing import Literal

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from migrations_playbook.errors import Refused
from migrations_playbook.postgres.site_triggers import read_firing
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.swap.play import swap
from tests.fixtures.database import Database
from tests.fixtures.models_partitioned import Ranges
from tests.fixtures.models_partitioned import expand as expand_partitioned
from tests.fixtures.models_zoo import UUIDS, Optional, expand, fill
from tests.fixtures.tickets import (
    add_old_tickets,
    bring_to,
    changed,
    past_the_triggers,
    read_status,
    refusal,
    remember,
)
from tickets.models import Ticket

DRAWING = """
CREATE FUNCTION make_token() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.token IS NULL THEN NEW.token := gen_random_uuid(); END IF; RETURN NEW; END $$;
CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW
    EXECUTE FUNCTION make_token();
"""
Prepared = Literal["expanded", "filled", "prepared", "swapped", "reverted"]
PHASES: tuple[Prepared, ...] = ("expanded", "filled", "prepared", "swapped", "reverted")


def play_to(database: Database, phase: Prepared) -> None:
    """Play to a phase; `prepared` is a swap that did not get its lock, and left its CHECK."""
    if phase != "prepared":
        bring_to(phase)
        return
    bring_to("filled")
    with database.connect() as idle:
        idle.execute("SELECT FROM tickets_ticket LIMIT 1")
        assert refusal("swap_token_columns", "--attempts", "1")[0] == 75


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", ["zz_make_token", "a_make_token"])
def test_a_token_that_the_database_draws_is_as_good_as_any(
    database: Database, name: str, phase: Prepared
) -> None:
    """Inserted or regenerated without a value, before ours fires or after it, in each phase."""
    add_old_tickets(database, 2)
    database.run(DRAWING.format(name=name, table="tickets_ticket"))
    play_to(database, phase)
    database.run("INSERT INTO tickets_ticket (token) VALUES (NULL)")
    database.run("UPDATE tickets_ticket SET token = NULL WHERE id = 1")
    if phase == "swapped":
        told = set(Ticket.objects.values_list("token"))
        call_command("swap_token_columns", verify=True)
        call_command("swap_token_columns", revert=True)
        # The ticket that nobody has written to has its old token again.
        assert len(told & set(Ticket.objects.values_list("token"))) == 2
        return
    remember(database, "token")
    call_command("backfill_new_token", no_progress=True)
    call_command("swap_token_columns")
    assert changed(database, "token", "new_token") == 0
    assert not Ticket.objects.filter(token__isnull=True).exists()


LATE = ['"~zz_make_token"', '"émake_token"']


@pytest.mark.parametrize("name", LATE)
def test_a_trigger_that_fires_after_the_quarantine_is_refused_by_name(
    database: Database, name: str
) -> None:
    Ticket.objects.create()
    database.run(DRAWING.format(name=name, table="tickets_ticket"))
    code, said = refusal("swap_token_columns")
    assert code == 1
    assert (
        f"trigger {name.strip(chr(34))} (by its name): it fires after ~migrations_playbook_" in said
    )
    assert "rename it" in said
    database.run(f"ALTER TRIGGER {name} ON tickets_ticket RENAME TO make_token")
    call_command("swap_token_columns")


@pytest.mark.parametrize("name", LATE)
def test_one_that_came_while_swapped_is_shown_and_the_way_back_is_open(
    database: Database, name: str
) -> None:
    Ticket.objects.create()
    call_command("swap_token_columns")
    database.run(DRAWING.format(name=name, table="tickets_ticket"))
    assert "fires after ~migrations_playbook_" in str(read_status())
    call_command("swap_token_columns", revert=True)


def test_where_a_token_may_be_null_a_trigger_that_draws_after_ours_is_refused(
    database: Database,
) -> None:
    """There a row without a token is left without a shadow, which a later draw would not mend."""
    replacement = expand(Optional, UUIDS)
    fill(replacement)
    database.run(DRAWING.format(name="zz_make_token", table="zoo_optional"))
    with pytest.raises(Refused, match=r"trigger zz_make_token .* fires after pgtrigger_fill_"):
        list(swap(replacement, using="default"))
    database.run("ALTER TRIGGER zz_make_token ON zoo_optional RENAME TO a_make_token")
    database.run("INSERT INTO zoo_optional (token, note) VALUES (NULL, '')")
    list(swap(replacement, using="default"))
    assert not Optional._default_manager.filter(token=None).exists()


MEDDLE = """
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;
CREATE TRIGGER zz BEFORE UPDATE ON tickets_ticket FOR EACH ROW EXECUTE FUNCTION meddle();
"""


@pytest.mark.parametrize(
    "body", ["RETURN NULL;", "NEW.new_token := OLD.new_token;", "NEW.new_token := NEW.token;"]
)
@pytest.mark.parametrize("of", ["its own live one", "another row's"])
def test_a_trigger_that_keeps_a_value_from_being_drawn_again_is_named(
    database: Database, of: str, body: str
) -> None:
    first, second = Ticket.objects.create(), Ticket.objects.create()
    value = first.token if of == "its own live one" else second.token
    past_the_triggers(
        database, "UPDATE tickets_ticket SET new_token = %s WHERE id = %s", value, first.pk
    )
    database.run(MEDDLE.format(body=body))
    with pytest.raises(CommandError) as caught:
        call_command("swap_token_columns", redraw=True)
    assert "Or a trigger keeps the drawn values from their rows (zz (before each row))" in str(
        caught.value
    )
    database.run("DROP TRIGGER zz ON tickets_ticket")
    call_command("swap_token_columns", redraw=True)


def test_of_a_partitioned_table_the_partitions_triggers_fire(database: Database) -> None:
    """A batch names a partition: its own triggers fire, and the clones of the table's."""
    replacement = expand_partitioned(database, Ranges)
    database.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    )
    leaf = database.value(
        "SELECT inhrelid::regclass::text FROM pg_inherits "
        "WHERE inhparent = 'by_range'::regclass ORDER BY 1 LIMIT 1"
    )
    for name, definition in {
        "cloned": "AFTER UPDATE ON by_range FOR EACH ROW",
        "never": "AFTER UPDATE ON by_range",
        "of_one": f"AFTER UPDATE ON {leaf} FOR EACH ROW",
        "once_of_one": f"BEFORE UPDATE ON {leaf}",
    }.items():
        database.run(f"CREATE TRIGGER {name} {definition} EXECUTE FUNCTION note()")
    table = read_table(connection, replacement.identifier)
    assert table is not None
    firing = read_firing(connection, table, replacement.shadows, replacement.trigger_names)
    assert [str(each) for each in firing] == [
        "cloned (after each row)",
        f"of_one on {leaf} (after each row)",
        f"once_of_one on {leaf} (before each batch)",
    ]
