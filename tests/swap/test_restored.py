"""What a dump, a switch of triggers or a second swap does to memory that rests on none of it."""

from __future__ import annotations

import subprocess

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from migrations_playbook.swap.play import swap
from tests.fixtures.database import Database
from tests.fixtures.models_zoo import UUIDS, Optional, expand, fill
from tests.fixtures.server import client_program
from tests.fixtures.tickets import past_the_triggers
from tickets.models import Ticket


@pytest.fixture
def original(database: Database) -> Database:
    for _ in range(3):
        Ticket.objects.create()
    return database


def restored(original: Database) -> Database:
    """A copy of the database, by way of a dump. Django's connection points at it from now on."""
    connection.close()
    copy = Database(f"{original.name}_copy")
    original.run(f'CREATE DATABASE "{copy.name}" TEMPLATE template0')
    dump = subprocess.run(
        [client_program("pg_dump"), "-Fc", original.url], capture_output=True, check=True
    ).stdout
    subprocess.run([client_program("pg_restore"), "--dbname", copy.url], input=dump, check=True)
    connection.settings_dict["NAME"] = copy.name
    return copy


def forget(original: Database, copy: Database) -> None:
    connection.close()
    connection.settings_dict["NAME"] = original.name
    original.run(f'DROP DATABASE "{copy.name}" WITH (FORCE)')


def test_a_restored_copy_passes_the_proof_and_remembers_what_has_leaked(
    original: Database,
) -> None:
    stale = Ticket.objects.all()[0]
    call_command("swap_token_columns")
    Ticket.objects.create()
    Ticket.objects.filter(pk=stale.pk).delete()
    copy = restored(original)
    call_command("swap_token_columns", verify=True)
    with pytest.raises(Exception, match="leaked value"):
        stale.save(force_insert=True)
    call_command("swap_token_columns", revert=True)
    call_command("swap_token_columns")
    forget(original, copy)


def test_rows_that_were_not_rotated_are_refused_in_the_original_and_in_the_copy(
    original: Database,
) -> None:
    past_the_triggers(original, "UPDATE tickets_ticket SET new_token = token WHERE id = 1")
    with pytest.raises(CommandError, match=r"1 rows of .* --redraw"):
        call_command("swap_token_columns")
    copy = restored(original)
    with pytest.raises(CommandError, match=r"1 rows of .* --redraw"):
        call_command("swap_token_columns")
    forget(original, copy)


def test_triggers_that_were_off_for_a_while_change_nothing_of_the_proof(
    original: Database,
) -> None:
    call_command("swap_token_columns")
    Ticket.objects.create()
    original.run("ALTER TABLE tickets_ticket DISABLE TRIGGER USER")
    original.run("ALTER TABLE tickets_ticket ENABLE TRIGGER USER")
    call_command("swap_token_columns", verify=True)


def test_swapped_again_after_writes_and_a_revert_it_passes(original: Database) -> None:
    call_command("swap_token_columns")
    Ticket.objects.create()
    call_command("swap_token_columns", revert=True)
    call_command("swap_token_columns")
    call_command("swap_token_columns", verify=True)


def test_a_row_without_a_token_has_none_and_a_revoked_one_stays_revoked(
    database: Database,
) -> None:
    replacement = expand(Optional, UUIDS)
    database.run("UPDATE zoo_optional SET token = NULL WHERE id = 1")
    fill(replacement)
    none = "SELECT array_agg(id ORDER BY id) FROM zoo_optional WHERE token IS NULL"
    assert database.value(none) == [1]
    list(swap(replacement, using="default"))
    assert database.value(none) == [1]
    database.run("UPDATE zoo_optional SET token = NULL WHERE id = 2")
    list(swap(replacement, using="default", revert=True))
    assert database.value(none) == [1, 2]
    list(swap(replacement, using="default"))
    assert database.value(none) == [1, 2]
