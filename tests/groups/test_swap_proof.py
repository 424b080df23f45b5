# ruff: noqa: DJ001 - a shadow is null, and nobody reads the model
"""What is made of a token is its own token's: before the exchange, and proven after it."""

from __future__ import annotations

import pytest
from django.db import models
from django.db.models import Func

from migrations_playbook import HEX, Group, RandomText, Shadow
from migrations_playbook.errors import Refused, VerificationFailed
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.play import mend, swap, verify
from migrations_playbook.swap.reports import Made, Preparing, Together, Verified
from tests.fixtures.database import Database
from tests.fixtures.models_groups import BOTH, Access, Both, draw_token, fill_access
from tests.fixtures.models_zoo import Noted, expand, fill, play
from tests.fixtures.tickets import past_the_triggers

# Fresh checksums that are not of their own token.
ASTRAY = """
    SELECT count(*) FROM zoo_access
     WHERE new_token_checksum IS DISTINCT FROM
           encode(sha256(convert_to(new_token, 'UTF8')), 'hex')"""


@pytest.fixture
def filled(empty_database: Database) -> Replacement:
    return fill_access(empty_database)


def prove(replacement: Replacement) -> Made:
    """Prove again; what is proven of the checksums."""
    (found,) = verify(replacement, using="default")
    assert isinstance(found, Together)
    made = found.members["token_checksum"]
    assert isinstance(made, Made)
    return made


def test_a_fresh_checksum_of_another_token_refuses_the_swap_until_it_is_drawn_again(
    empty_database: Database, filled: Replacement
) -> None:
    past_the_triggers(
        empty_database, "UPDATE zoo_access SET new_token_checksum = repeat('0', 64) WHERE id = 2"
    )
    with pytest.raises(Refused) as caught:
        play(filled)
    assert str(caught.value) == (
        "1 rows of zoo.Access have a new_token_checksum that is not made of their new_token: they "
        "were written past the triggers. Run it again with --redraw, which draws other values for "
        "them."
    )
    *_, proof = swap(filled, using="default", redraw=True)
    assert isinstance(proof, Verified)
    assert proof.passed
    fresh = (
        "SELECT count(*) FROM zoo_access t JOIN memory.was USING (id) WHERE t.token = was.new_token"
    )
    assert empty_database.value(fresh) == 2


def test_fresh_duplicates_are_drawn_again_with_what_is_made_of_them(
    empty_database: Database, filled: Replacement
) -> None:
    past_the_triggers(
        empty_database,
        "UPDATE zoo_access t SET new_token = first.new_token, "
        "new_token_checksum = first.new_token_checksum FROM zoo_access first WHERE first.id = 1",
    )
    said = list(swap(filled, using="default"))
    assert Preparing("Draw duplicates again") in said
    assert prove(filled).passed
    assert empty_database.value("SELECT count(DISTINCT token) FROM zoo_access") == 3


def test_a_fresh_checksum_that_has_leaked_is_drawn_again_with_its_token(
    empty_database: Database, filled: Replacement
) -> None:
    past_the_triggers(
        empty_database,
        "UPDATE zoo_access t SET new_token = other.token, "
        "new_token_checksum = other.token_checksum FROM zoo_access other "
        "WHERE t.id = 1 AND other.id = 2",
    )
    assert Preparing("Draw values again that have leaked") in list(swap(filled, using="default"))
    assert prove(filled).passed
    leaked = "SELECT count(*) FROM zoo_access t JOIN memory.was ON t.token = was.token"
    assert empty_database.value(leaked) == 0


def test_a_value_that_is_drawn_again_takes_along_what_is_made_of_it_and_nothing_else(
    empty_database: Database,
) -> None:
    replacement = expand(Both, BOTH.members[0])
    fill(replacement)
    empty_database.run("CREATE TABLE was AS SELECT * FROM zoo_both")
    past_the_triggers(
        empty_database,
        "UPDATE zoo_both t SET new_token = other.token, new_token_copy = other.token "
        "FROM zoo_both other WHERE t.id = 1 AND other.id = 2",
    )
    assert play(replacement).passed
    assert empty_database.fetch(
        "SELECT t.code = was.new_code, t.token <> was.new_token, t.token_copy = t.token "
        "FROM zoo_both t JOIN was USING (id) ORDER BY id"
    ) == [(True, True, True), (True, False, True), (True, False, True)]


def test_a_checksum_of_another_token_fails_the_proof_which_advises_no_revert(
    empty_database: Database, filled: Replacement
) -> None:
    play(filled)
    past_the_triggers(
        empty_database, "UPDATE zoo_access SET token_checksum = repeat('0', 64) WHERE id = 2"
    )
    with pytest.raises(VerificationFailed) as caught:
        list(verify(filled, using="default"))
    message = str(caught.value)
    assert "1 not made of their token" in message
    assert "Write a new value to each of those rows, with what is made of it." in message
    assert "revert" not in message
    loaded = Access._default_manager.get(pk=2)
    loaded.token = draw_token()
    loaded.save()
    assert prove(filled).astray == 0


def test_what_the_site_makes_by_itself_since_is_told_and_no_failure(
    empty_database: Database, filled: Replacement
) -> None:
    play(filled)
    empty_database.run("UPDATE zoo_access SET token = 'a', token_checksum = 'of a' WHERE id = 1")
    empty_database.run("UPDATE zoo_access SET token = 'b' WHERE id = 2")
    empty_database.run("UPDATE zoo_access SET token_checksum = 'other' WHERE id = 3")
    empty_database.run("INSERT INTO zoo_access (token, token_checksum, note) VALUES ('d', 'e', '')")
    past_the_triggers(
        empty_database, "INSERT INTO zoo_access (token, token_checksum, note) VALUES ('f', 'g', '')"
    )
    proof = prove(filled)
    assert proof.passed
    assert (proof.astray, proof.own_making) == (0, 5)
    assert "5 were written since, and not made of their token." in proof.remarks
    # Nor do they keep the columns from being exchanged back and again.
    play(filled, revert=True)
    assert play(filled).passed


class Marked(Noted):
    """A token with what a function of the site's own makes of it."""

    token = models.TextField(default=draw_token)
    mark = models.TextField(unique=True, default=draw_token)
    new_token = models.TextField(null=True)
    new_mark = models.TextField(null=True)


def test_what_a_function_of_the_sites_makes_is_drawn_and_proven(empty_database: Database) -> None:
    empty_database.run(
        "CREATE FUNCTION public.mark_of(text) RETURNS text LANGUAGE sql IMMUTABLE "
        "AS $$SELECT 'mark of ' || $1$$"
    )
    mark = Func("new_token", function="mark_of", output_field=models.TextField())
    marked = Group(
        Shadow(live="token", shadow="new_token", value=RandomText(32, HEX)),
        Shadow(live="mark", shadow="new_mark", value=mark),
    )
    replacement = expand(Marked, marked.members[0])
    fill(replacement)
    past_the_triggers(empty_database, "UPDATE zoo_marked SET new_mark = 'none'")
    with pytest.raises(Refused, match=r"3 rows of .* have a new_mark that is not made"):
        play(replacement)
    *_, proof = swap(replacement, using="default", redraw=True)
    assert isinstance(proof, Verified)
    assert proof.passed
    right = "SELECT count(*) FROM zoo_marked WHERE mark = 'mark of ' || token"
    assert empty_database.value(right) == 3


def test_the_quarantines_of_all_members_are_put_back(
    empty_database: Database, filled: Replacement
) -> None:
    play(filled)
    was = empty_database.dump()
    wards = empty_database.fetch(
        "SELECT format('%I', tgname) FROM pg_trigger WHERE tgname LIKE 'migrations_playbook_ward%'"
    )
    assert len(wards) == 2
    for (ward,) in wards:
        empty_database.run(f"DROP TRIGGER {ward} ON zoo_access")
    with pytest.raises(VerificationFailed) as caught:
        prove(filled)
    for (ward,) in wards:
        assert f'the quarantine trigger "{ward}" is missing' in str(caught.value)
    list(mend(filled, using="default"))
    assert empty_database.dump() == was


def test_a_group_whose_leader_has_no_index_of_its_own_keeps_its_leaked_tokens_out(
    empty_database: Database, filled: Replacement
) -> None:
    """No two tokens have the same checksum, so a unique checksum makes the token unique too."""
    play(filled)
    assert prove(filled).passed
    past_the_triggers(
        empty_database,
        "UPDATE zoo_access t SET token = was.token, token_checksum = 'another' FROM memory.was "
        "WHERE t.id = 1 AND was.id = 2",
    )
    with pytest.raises(VerificationFailed, match="1 with another row's retired value"):
        prove(filled)
