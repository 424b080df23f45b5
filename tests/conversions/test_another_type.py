"""What is bound to a column goes with it to the other type, or is refused beforehand."""

from __future__ import annotations

import pytest
from django.db import connections

from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.gate import SwapRequest
from migrations_playbook.swap.play import swap
from tests.fixtures.another_type import refusal, type_of
from tests.fixtures.database import Database
from tests.fixtures.dumps import statements
from tests.fixtures.models_conversions import (
    LABELS,
    REFERENCES,
    SIZES,
    Label,
    Reference,
    Size,
)
from tests.fixtures.models_zoo import expand, fill, play
from tests.fixtures.server import server_version

SINCE_15 = pytest.mark.skipif(
    server_version() < 15, reason="filters of publications came with PostgreSQL 15"
)


@pytest.fixture
def sizes(empty_database: Database) -> Replacement:
    replacement = expand(Size, SIZES)
    fill(replacement)
    return replacement


@pytest.fixture
def references(empty_database: Database) -> Replacement:
    replacement = expand(Reference, REFERENCES)
    fill(replacement)
    return replacement


@pytest.mark.parametrize(
    ("made_by", "named"),
    [
        (
            "CREATE VIEW chosen AS SELECT id FROM zoo_reference WHERE token LIKE '8a%'",
            "view public.chosen (on token): operator does not exist: uuid ~~ text",
        ),
        (
            "ALTER TABLE zoo_reference ADD CONSTRAINT chosen CHECK (length(token) = 36)",
            "check chosen (on token): function length(uuid) does not exist",
        ),
        (
            "CREATE INDEX chosen ON zoo_reference (lower(token))",
            "index chosen (on token): function lower(uuid) does not exist",
        ),
        (
            "CREATE INDEX chosen ON zoo_reference (id) WHERE token <> ''",
            "index chosen (on token): operator does not exist: uuid <> text",
        ),
        (
            "ALTER TABLE zoo_reference ALTER token SET DEFAULT 'x' || 'y'",
            'default token (of token): column "token_uuid" is of type uuid but default expression',
        ),
        (
            "CREATE POLICY chosen ON zoo_reference USING (token LIKE '8a%')",
            "policy chosen on public.zoo_reference (on token): operator does not exist: uuid ~~",
        ),
        (
            (
                "CREATE TABLE seen (note text); CREATE POLICY chosen ON seen USING "
                "(note IN (SELECT substr(token, 1, 8) FROM zoo_reference WHERE note = seen.note))"
            ),
            "policy chosen on public.seen (on token): function substr(uuid, integer, integer) does",
        ),
        (
            (
                "CREATE VIEW plain AS SELECT id, token FROM zoo_reference; CREATE TABLE seen (); "
                "CREATE POLICY chosen ON seen USING (EXISTS (SELECT FROM plain WHERE token > 'x'))"
            ),
            "policy chosen on public.seen (through a view): operator does not exist: uuid > text",
        ),
        (
            (
                "CREATE TRIGGER chosen BEFORE UPDATE ON zoo_reference FOR EACH ROW "
                "WHEN (NEW.token LIKE '8a%') "
                "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
            ),
            "trigger chosen (on token): operator does not exist: uuid ~~ text",
        ),
        (
            "CREATE STATISTICS chosen ON lower(token), note FROM zoo_reference",
            "statistics public.chosen (on token): function lower(uuid) does not exist",
        ),
        pytest.param(
            "CREATE PUBLICATION chosen FOR TABLE zoo_reference WHERE (token LIKE '8a%')",
            "publication chosen (on token; its subscribers keep what they have): operator does not",
            marks=SINCE_15,
        ),
        (
            (
                "CREATE FUNCTION chosen() RETURNS text LANGUAGE sql "
                "BEGIN ATOMIC SELECT upper(token) FROM zoo_reference LIMIT 1; END"
            ),
            "function public.chosen() (on token): function upper(uuid) does not exist",
        ),
        (
            (
                "CREATE TABLE seen (note text); CREATE RULE chosen AS ON INSERT TO seen DO ALSO "
                "SELECT count(*) FROM zoo_reference WHERE token = NEW.note"
            ),
            "rule chosen on public.seen (on token): operator does not exist: uuid = text",
        ),
        (
            (
                "CREATE VIEW plain AS SELECT id, token FROM zoo_reference; "
                "CREATE RULE chosen AS ON UPDATE TO plain DO INSTEAD "
                "SELECT length(NEW.token)"
            ),
            "again): its rule chosen: function length(uuid) does not exist",
        ),
        (
            (
                "CREATE VIEW plain AS SELECT id, token FROM zoo_reference; "
                "ALTER VIEW plain ALTER token SET DEFAULT 'x' || 'y'"
            ),
            'again): its default token: column "token" is of type uuid but default expression',
        ),
        (
            "CREATE MATERIALIZED VIEW chosen AS SELECT upper(token) FROM zoo_reference",
            "materialized view public.chosen (on token): function upper(uuid) does not exist",
        ),
    ],
    ids=[
        "a view",
        "a check",
        "an index",
        "a partial index",
        "a default",
        "a policy",
        "a policy of another table",
        "a policy above a view",
        "a trigger",
        "statistics",
        "a publication",
        "a function",
        "a rule of another table",
        "a rule of a view",
        "a default of a view",
        "a materialized view",
    ],
)
def test_what_the_other_type_does_not_take_is_refused_in_the_servers_words(
    made_by: str, named: str, empty_database: Database, references: Replacement
) -> None:
    """Before anything is prepared: the dry run lists the same, see `refusal`."""
    empty_database.run(made_by)
    complaint = refusal(references)
    assert named in complaint
    assert "after the swap" in complaint
    assert (
        empty_database.value("SELECT count(*) FROM pg_constraint WHERE conname ~ 'playbook'") == 0
    )


def test_a_materialized_view_of_the_table_is_renewed_with_the_other_type_and_back(
    empty_database: Database, references: Replacement
) -> None:
    database = empty_database
    database.run("CREATE MATERIALIZED VIEW copies AS SELECT id, token FROM zoo_reference")
    database.run("CREATE UNIQUE INDEX copies_id ON copies (id, token)")
    before = database.dump()
    for revert, now in ((False, "uuid"), (True, "text")):
        for _ in swap(references, using="default", revert=revert, refresh=True):
            pass
        assert type_of(database, "copies", "token") == now
        assert database.value("SELECT count(*) FROM copies JOIN zoo_reference USING (token)") == 9
    assert database.dump() == before


def test_what_is_on_the_shadow_column_alone_stays_there_and_is_there_after_a_revert(
    empty_database: Database,
) -> None:
    database, labels = empty_database, expand(Label, LABELS)
    fill(labels)
    for statement in (
        "CREATE INDEX apart ON zoo_label (code_text, note)",
        "ALTER TABLE zoo_label ADD CONSTRAINT apart CHECK (code_text <> 'none')",
        "CREATE INDEX usual ON zoo_label (code)",
    ):
        database.run(statement)
    before = database.dump()
    for _ in range(2):
        play(labels)
        assert "(code, note)" in database.value("SELECT pg_get_indexdef('apart'::regclass)")
        play(labels, revert=True)
        assert database.dump() == before
    play(labels)
    # What is made while exchanged goes back with its name.
    database.run("CREATE INDEX later ON zoo_label (code DESC)")
    play(labels, revert=True)
    assert "(code DESC)" in database.value("SELECT pg_get_indexdef('later'::regclass)")


@SINCE_15
def test_a_filter_of_a_publication_goes_there_and_back(
    empty_database: Database, references: Replacement
) -> None:
    empty_database.run("CREATE PUBLICATION chosen FOR TABLE zoo_reference WHERE (token <> 'x')")
    empty_database.run("ALTER PUBLICATION chosen SET TABLE zoo_reference WHERE (token IS NOT NULL)")
    before = empty_database.dump()
    play(references)
    play(references, revert=True)
    assert empty_database.dump() == before


def test_an_index_for_like_stays_with_the_text_and_serves_again_after_a_revert(
    empty_database: Database, references: Replacement
) -> None:
    database = empty_database
    database.run("CREATE INDEX plain_index ON zoo_reference (token)")
    database.run("CREATE INDEX plain_like ON zoo_reference (token text_pattern_ops)")
    before = database.dump()
    play(references)
    indexes = dict(
        database.fetch("SELECT indexname, indexdef FROM pg_indexes WHERE indexname LIKE 'plain%'")
    )
    assert indexes["plain_index"].endswith("btree (token)")
    assert indexes["plain_like"].endswith("btree (token_uuid text_pattern_ops)")
    play(references, revert=True)
    assert database.dump() == before


def test_definitions_in_the_other_types_words_come_back_as_they_were(
    empty_database: Database,
) -> None:
    """PostgreSQL writes a varchar's with a cast, `(code)::text`, and a text's without."""
    database, labels = empty_database, expand(Label, LABELS)
    fill(labels)
    for statement in (
        "CREATE INDEX some_index ON zoo_label (lower(code)) WHERE code <> 'none'",
        "CREATE UNIQUE INDEX some_unique ON zoo_label (code, id)",
        "ALTER TABLE zoo_label ADD CONSTRAINT some_check CHECK (code <> '')",
        "ALTER TABLE zoo_label ALTER code SET DEFAULT 'blank'",
        "CREATE STATISTICS some_statistics ON lower(code), note FROM zoo_label",
        "CREATE VIEW chosen AS SELECT code || '!' AS code, length(code) AS long FROM zoo_label",
    ):
        database.run(statement)
    original = "SELECT 'some_index'::regclass::oid"
    before, oid = statements(database.dump()), database.value(original)
    play(labels)
    check = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'some_check'"
    assert database.value(check) == "CHECK ((code <> ''::text))"
    play(labels, revert=True)
    assert statements(database.dump()) == before
    assert database.value(original) == oid


def test_a_function_whose_text_may_declare_the_type_is_named(
    empty_database: Database, sizes: Replacement
) -> None:
    empty_database.run(
        "CREATE FUNCTION largest() RETURNS integer LANGUAGE plpgsql AS "
        "$$ DECLARE found zoo_size.size%TYPE; BEGIN SELECT max(size) INTO found FROM zoo_size; "
        "RETURN found; END $$"
    )
    listed = SwapRequest(connections["default"], sizes, revert=False).inventory.dependents
    assert [each.how for each in listed if each.name == "public.largest()"] == [
        "its text names the column; look whether it declares the type"
    ]
