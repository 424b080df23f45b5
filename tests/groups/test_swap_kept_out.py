# ruff: noqa: DJ001 - a shadow is null, and nobody reads the model
"""After the swap the leaked values of a group are kept out together."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, models
from django.db.models.functions import Cast
from psycopg import errors

from migrations_playbook import Group, Shadow
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.quarantine.watch import read_stale_writes
from migrations_playbook.replacement import Replacement
from tests.fixtures.database import Database
from tests.fixtures.models_groups import (
    BOTH,
    PASS,
    Access,
    Both,
    Pass,
    draw_token,
    fill_access,
)
from tests.fixtures.models_zoo import WORDS, Noted, WordField, expand, fill, play
from tests.fixtures.words import add_words

TOKENS = "SELECT token, token_checksum FROM zoo_access WHERE id = %s"


@pytest.fixture
def swapped(empty_database: Database) -> Replacement:
    """Tokens with their checksums, exchanged."""
    replacement = fill_access(empty_database)
    play(replacement)
    return replacement


def hits(replacement: Replacement) -> list[int]:
    """How many stale writes each member has seen."""
    found = []
    for each in replacement.group:
        table = read_table(connection, each.identifier)
        assert table is not None
        stale = read_stale_writes(connection, table, each.live, each.shadow)
        assert stale is not None
        found.append(stale.hits)
    return found


def load_before(database: Database) -> Access:
    """An object that was loaded before the exchange."""
    (row,) = database.fetch("SELECT id, token, token_checksum FROM memory.was ORDER BY id LIMIT 1")
    return Access(**dict(zip(("id", "token", "token_checksum"), row, strict=True)))


def issue(pk: object) -> Access:
    """Give a row a token of the site's own."""
    loaded = Access._default_manager.get(pk=pk)
    loaded.token = draw_token()
    loaded.save()
    return loaded


def test_a_stale_save_of_the_old_token_with_its_old_checksum_changes_neither(
    empty_database: Database, swapped: Replacement
) -> None:
    stale = load_before(empty_database)
    fresh = empty_database.fetch(TOKENS, stale.pk)
    stale.note = "saved"
    stale.save()
    assert empty_database.fetch(TOKENS, stale.pk) == fresh
    assert Access._default_manager.get(pk=stale.pk).note == "saved"
    assert hits(swapped) == [1, 1]


def test_a_stale_checksum_alone_changes_nothing(
    empty_database: Database, swapped: Replacement
) -> None:
    fresh = empty_database.fetch("SELECT id, token, token_checksum FROM zoo_access ORDER BY id")
    empty_database.run(
        "UPDATE zoo_access t SET token_checksum = was.token_checksum FROM memory.was "
        "WHERE t.id = was.id"
    )
    again = empty_database.fetch("SELECT id, token, token_checksum FROM zoo_access ORDER BY id")
    assert again == fresh
    assert hits(swapped) == [0, 3]


def test_a_new_token_with_its_checksum_is_written_and_outlives_a_revert(
    empty_database: Database, swapped: Replacement
) -> None:
    loaded = issue(1)
    (written,) = empty_database.fetch(TOKENS, loaded.pk)
    assert written == (loaded.token, loaded.token_checksum)
    play(swapped, revert=True)
    assert empty_database.fetch(TOKENS, loaded.pk) == [written]


@pytest.mark.parametrize("released", [False, True], ids=["in its row", "remembered"])
def test_a_leaked_token_never_lives_again(
    empty_database: Database, swapped: Replacement, *, released: bool
) -> None:
    stale = load_before(empty_database)
    if released:
        # It leaves its row, which gets another token from the site.
        issue(stale.pk)
    with pytest.raises(IntegrityError):
        Access(token=stale.token).save()
    # Whatever is made of it.
    with pytest.raises(errors.UniqueViolation):
        empty_database.run(
            "INSERT INTO zoo_access (token, token_checksum, note) VALUES ('x', %s, '')",
            stale.token_checksum,
        )
    before = empty_database.fetch(TOKENS, stale.pk)
    stale.save()
    assert empty_database.fetch(TOKENS, stale.pk) == before


def test_a_short_mark_of_a_new_secret_is_written_though_the_leaked_one_has_the_same(
    empty_database: Database,
) -> None:
    replacement = expand(Pass, PASS.members[0])
    fill(replacement)
    play(replacement)
    loaded = Pass._default_manager.earliest("id")
    loaded.refresh_from_db()
    leaked = str(loaded.new_secret)
    # The new secret begins as the leaked one does, whose mark stands in the retired column.
    loaded.secret = leaked[0] + "0" * 31
    loaded.save()
    loaded.refresh_from_db()
    assert loaded.secret == leaked[0] + "0" * 31
    assert loaded.mark == leaked[0].upper()
    # The same mark as before, with another secret: its copy goes with the secret's.
    loaded.secret = leaked[0] + "1" * 31
    loaded.save()
    loaded.refresh_from_db()
    assert (loaded.new_secret, loaded.new_mark) == (loaded.secret, loaded.mark)
    play(replacement, revert=True)
    reverted = Pass._default_manager.get(pk=loaded.pk)
    assert (reverted.secret, reverted.mark) == (loaded.secret, loaded.mark)


def test_of_two_secrets_that_are_drawn_apart_a_stale_one_keeps_no_new_one_from_its_row(
    empty_database: Database,
) -> None:
    replacement = expand(Both, BOTH.members[0])
    fill(replacement)
    stale = Both._default_manager.earliest("id")
    play(replacement)
    fresh = Both._default_manager.get(pk=stale.pk)
    new = Both().code
    stale.code = new
    stale.save()
    saved = Both._default_manager.get(pk=stale.pk)
    assert saved.code == new
    # The stale token is kept out, with its copy.
    assert (saved.token, saved.token_copy) == (fresh.token, fresh.token_copy)
    # Likewise once they are exchanged back, for an object that was loaded while they were not.
    play(replacement, revert=True)
    before = Both._default_manager.get(pk=stale.pk)
    saved.code = another = Both().code
    saved.save()
    reverted = Both._default_manager.get(pk=stale.pk)
    assert reverted.code == another
    assert (reverted.token, reverted.token_copy) == (before.token, before.token_copy)


class CopiedWord(Noted):
    """A token of a type whose operators stand in public, and its copy as a plain text."""

    token = WordField(unique=True, default=draw_token)
    copy = models.TextField(default=draw_token)
    new_token = WordField(null=True)
    new_copy = models.TextField(null=True)


def test_a_stale_copy_of_a_value_with_operators_of_its_own_is_kept_out(
    empty_database: Database,
) -> None:
    add_words(empty_database)
    # Compared as texts they would be other values; without the cast they could not be compared.
    empty_database.run("DROP CAST (word AS text)")
    words = Group(
        Shadow(live="token", shadow="new_token", value=WORDS.value),
        Shadow(live="copy", shadow="new_copy", value=Cast("new_token", models.TextField())),
    )
    replacement = expand(CopiedWord, words.members[0])
    fill(replacement)
    stale = CopiedWord._default_manager.earliest("id")
    play(replacement)
    fresh = CopiedWord._default_manager.get(pk=stale.pk)
    stale.token = str(stale.token).upper()
    stale.save()
    kept = CopiedWord._default_manager.get(pk=stale.pk)
    assert (kept.token, kept.copy) == (fresh.token, fresh.copy)
    assert hits(replacement) == [1, 1]
