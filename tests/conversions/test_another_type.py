"""What is bound to a column goes with it to the other type, the views with all they have."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import connections

from migrations_playbook.errors import Refused
from migrations_playbook.postgres import locks
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.gate import SwapRequest
from migrations_playbook.swap.play import swap
from tests.fixtures.database import Database, role
from tests.fixtures.dumps import statements
from tests.fixtures.models_conversions import (
    LABELS,
    REFERENCES,
    SIZES,
    Label,
    Reference,
    Size,
)
from tests.fixtures.models_zoo import expand, fill
from tests.fixtures.server import server_version

SINCE_15 = pytest.mark.skipif(
    server_version() < 15, reason="filters of publications came with PostgreSQL 15"
)
CHAIN = """
CREATE TABLE other.log (said bigint);
CREATE FUNCTION other.insert_size() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO zoo_size (size, note) VALUES (NEW.size, 'by the view'); RETURN NEW; END $$;
CREATE VIEW plain WITH (security_barrier = true) AS SELECT id, size FROM zoo_size WHERE size > 0;
CREATE VIEW other.above AS
    SELECT p.size AS "how large", p.id FROM plain AS p JOIN zoo_size USING (id);
CREATE VIEW checked AS SELECT id, size, note FROM zoo_size WHERE size < 1000000
    WITH CASCADED CHECK OPTION;
CREATE VIEW top AS SELECT a."how large" + c.size AS both FROM other.above AS a JOIN checked AS c
    USING (id);
CREATE VIEW stays AS SELECT id, note FROM zoo_size WHERE size > 1;
CREATE VIEW counted AS SELECT count(*) AS rows FROM top;
ALTER VIEW plain ALTER COLUMN size SET DEFAULT 7;
CREATE TRIGGER inserted INSTEAD OF INSERT ON plain
    FOR EACH ROW EXECUTE FUNCTION other.insert_size();
CREATE RULE noted AS ON UPDATE TO other.above DO INSTEAD INSERT INTO other.log VALUES (NEW.id);
COMMENT ON VIEW plain IS 'for reports';
COMMENT ON COLUMN plain.size IS 'in bytes';
COMMENT ON TRIGGER inserted ON plain IS 'through the view';
COMMENT ON RULE noted ON other.above IS 'who looks';
GRANT USAGE ON SCHEMA other TO zoo_reader, zoo_writer;
GRANT SELECT ON plain TO zoo_reader WITH GRANT OPTION;
SET ROLE zoo_reader; GRANT SELECT ON plain TO zoo_writer; RESET ROLE;
GRANT SELECT (id), UPDATE (size) ON checked TO zoo_writer;
GRANT SELECT ON counted TO PUBLIC;
GRANT CREATE ON SCHEMA other TO zoo_writer;
GRANT SELECT ON plain TO zoo_writer; GRANT SELECT ON zoo_size TO zoo_writer;
ALTER VIEW other.above OWNER TO zoo_writer;
REVOKE DELETE, TRUNCATE ON other.above FROM zoo_writer;
ALTER DEFAULT PRIVILEGES GRANT INSERT ON TABLES TO zoo_reader;
"""


def exchange(replacement: Replacement, *, revert: bool = False) -> None:
    for _ in swap(replacement, using="default", revert=revert):
        pass


def type_of(database: Database, relation: str, column: str) -> str:
    return str(
        database.value(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attname = %s",
            relation,
            column,
        )
    )


def views_of(database: Database) -> dict[str, int]:
    """The oids of the views by name: a view that is made again has another."""
    found = "SELECT relname, oid FROM pg_class WHERE relkind = 'v' AND oid > 16383"
    return dict(database.fetch(found))


def refusal(replacement: Replacement) -> str:
    """What the swap refuses; and the dry run lists the same."""
    with pytest.raises(Refused) as told:
        exchange(replacement)
    listed = SwapRequest(connections["default"], replacement, revert=False).inventory
    for each in listed.refused:
        assert f"- {each} ({each.how}): {each.refused}." in str(told.value)
    return str(told.value)


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


def test_a_chain_of_views_is_made_again_with_all_it_has_and_back(
    empty_database: Database, sizes: Replacement
) -> None:
    database = empty_database
    with role(database, "zoo_writer"), role(database, "zoo_reader"):
        database.run(CHAIN)
        if server_version() >= 15:
            database.run("ALTER VIEW other.above SET (security_invoker = true)")
        before = statements(database.dump())
        oids = views_of(database)
        exchange(sizes)
        assert statements(database.dump()) == before
        assert type_of(database, "plain", "size") == "bigint"
        assert type_of(database, "other.above", "how large") == "bigint"
        assert type_of(database, "top", "both") == "bigint"
        assert {name for name, oid in views_of(database).items() if oids[name] == oid} == {"stays"}
        database.run("INSERT INTO plain (size) VALUES (5000000000)")
        database.run("UPDATE zoo_size SET size = 1 WHERE size > 1000000")
        exchange(sizes, revert=True)
        assert statements(database.dump()) == before
        assert type_of(database, "top", "both") == "integer"


@pytest.mark.parametrize(
    ("made_by", "named"),
    [
        (
            "CREATE FUNCTION first() RETURNS SETOF plain LANGUAGE sql AS 'SELECT * FROM plain'",
            "view public.plain .*function public.first\\(\\) would go with it",
        ),
        (
            "CREATE MATERIALIZED VIEW copy AS SELECT size FROM plain",
            "view public.plain .*materialized view public.copy would go with it",
        ),
    ],
    ids=["a function of its row", "a materialized view"],
)
def test_what_would_go_with_a_view_is_named_before_anything_is_changed(
    made_by: str, named: str, empty_database: Database, sizes: Replacement
) -> None:
    empty_database.run("CREATE VIEW plain AS SELECT id, size FROM zoo_size")
    empty_database.run(made_by)
    assert re.search(named, refusal(sizes))
    assert type_of(empty_database, "zoo_size", "size") == "integer"


ABOVE_VIEWS = """
CREATE VIEW plain AS SELECT id, size FROM zoo_size;
CREATE VIEW upper AS SELECT id, size AS high FROM plain WHERE size > 1;
CREATE TABLE seen (id integer, size bigint);
GRANT ALL ON seen, plain, upper, zoo_size TO zoo_reader;
CREATE POLICY few ON seen FOR SELECT TO zoo_reader
    USING (id IN (SELECT p.id FROM plain p WHERE p.size = seen.size));
CREATE POLICY more ON seen AS RESTRICTIVE TO PUBLIC
    USING (true) WITH CHECK (size >= (SELECT max(high) FROM upper));
CREATE POLICY own ON zoo_size USING (id IN (SELECT id FROM upper)) WITH CHECK (size > 0);
COMMENT ON POLICY few ON seen IS 'those that are known';
ALTER TABLE seen ENABLE ROW LEVEL SECURITY;
CREATE RULE kept AS ON DELETE TO seen
    DO ALSO INSERT INTO seen SELECT id, high FROM upper WHERE upper.id = OLD.id;
COMMENT ON RULE kept ON seen IS 'nothing is lost';
CREATE FUNCTION largest() RETURNS bigint LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT max(high) FROM upper; END;
CREATE FUNCTION known(IN id integer, OUT size bigint) RETURNS SETOF bigint LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT p.size FROM plain p WHERE p.id = known.id; END;
COMMENT ON FUNCTION largest() IS 'of all';
REVOKE EXECUTE ON FUNCTION largest() FROM PUBLIC;
CREATE VIEW calls AS SELECT largest();
CREATE PROCEDURE tidy() LANGUAGE sql BEGIN ATOMIC
    DELETE FROM seen WHERE id NOT IN (SELECT id FROM plain); SELECT 1; END;
"""


def test_what_reads_a_view_that_is_made_again_reads_it_afterwards_too(
    empty_database: Database, sizes: Replacement
) -> None:
    database = empty_database
    with role(database, "zoo_reader"):
        database.run(ABOVE_VIEWS)
        before = statements(database.dump())
        database.run("UPDATE zoo_size SET size = id")
        database.run("INSERT INTO seen VALUES (1, 1), (2, 2), (3, 7)")
        for revert in (False, True, False):
            exchange(sizes, revert=revert)
            assert statements(database.dump()) == before
            assert database.value("SELECT largest()") == 3
            assert database.fetch("SELECT * FROM known(2)") == [(2,)]
            with database.connect(autocommit=True) as session:
                session.execute("SET ROLE zoo_reader")
                assert session.execute("SELECT id FROM seen ORDER BY id").fetchall() == [(1,), (2,)]
            assert "row-level security" in database.complaint(
                "INSERT INTO seen VALUES (9, 1)", role="zoo_reader"
            )


def test_a_view_of_an_extension_is_named(empty_database: Database, sizes: Replacement) -> None:
    empty_database.run("CREATE VIEW plain AS SELECT id, size FROM zoo_size")
    empty_database.run("ALTER EXTENSION plpgsql ADD VIEW plain")
    assert "it belongs to the extension plpgsql" in refusal(sizes)


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
        exchange(labels)
        assert "(code, note)" in database.value("SELECT pg_get_indexdef('apart'::regclass)")
        exchange(labels, revert=True)
        assert database.dump() == before
    exchange(labels)
    # What is made while exchanged goes back with its name.
    database.run("CREATE INDEX later ON zoo_label (code DESC)")
    exchange(labels, revert=True)
    assert "(code DESC)" in database.value("SELECT pg_get_indexdef('later'::regclass)")


@SINCE_15
def test_a_filter_of_a_publication_goes_there_and_back(
    empty_database: Database, references: Replacement
) -> None:
    empty_database.run("CREATE PUBLICATION chosen FOR TABLE zoo_reference WHERE (token <> 'x')")
    empty_database.run("ALTER PUBLICATION chosen SET TABLE zoo_reference WHERE (token IS NOT NULL)")
    before = empty_database.dump()
    exchange(references)
    exchange(references, revert=True)
    assert empty_database.dump() == before


def test_an_index_for_like_stays_with_the_text_and_serves_again_after_a_revert(
    empty_database: Database, references: Replacement
) -> None:
    database = empty_database
    database.run("CREATE INDEX plain_index ON zoo_reference (token)")
    database.run("CREATE INDEX plain_like ON zoo_reference (token text_pattern_ops)")
    before = database.dump()
    exchange(references)
    indexes = dict(
        database.fetch("SELECT indexname, indexdef FROM pg_indexes WHERE indexname LIKE 'plain%'")
    )
    assert indexes["plain_index"].endswith("btree (token)")
    assert indexes["plain_like"].endswith("btree (token_uuid text_pattern_ops)")
    exchange(references, revert=True)
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
    exchange(labels)
    check = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'some_check'"
    assert database.value(check) == "CHECK ((code <> ''::text))"
    exchange(labels, revert=True)
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


def test_a_grant_on_a_view_that_is_made_again_meanwhile_is_not_lost(
    empty_database: Database, sizes: Replacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view stands above another: nothing of it is bound to the table."""
    database = empty_database
    database.run("CREATE VIEW plain AS SELECT id, size FROM zoo_size")
    database.run("CREATE VIEW above AS SELECT size FROM plain")
    seized = locks.seize

    def granted_first(*arguments: Any, **options: Any) -> Any:
        if database.value("SELECT NOT has_table_privilege('pg_monitor', 'above', 'SELECT')"):
            database.run("GRANT SELECT ON above TO pg_monitor")
        return seized(*arguments, **options)

    monkeypatch.setattr(locks, "seize", granted_first)
    exchange(sizes)
    assert database.value("SELECT has_table_privilege('pg_monitor', 'above', 'SELECT')")
    assert type_of(database, "above", "size") == "bigint"


def test_a_chain_of_names_that_hide_each_other_goes_there_and_back_too(
    empty_database: Database, sizes: Replacement
) -> None:
    """Two relations of one name, a recursive view, and an older view above a younger one."""
    database = empty_database
    for statement in (
        "CREATE VIEW other.zoo_size AS SELECT * FROM zoo_size",
        (
            'CREATE VIEW "V w" AS SELECT o.size, s.size_big FROM other.zoo_size o '
            "JOIN zoo_size s USING (id)"
        ),
        (
            "CREATE VIEW rec AS WITH RECURSIVE t (n) AS "
            '(SELECT size FROM zoo_size UNION SELECT size FROM "V w") SELECT * FROM t'
        ),
        "CREATE VIEW grouped AS SELECT id, size, note FROM zoo_size GROUP BY id",
        "CREATE VIEW late AS SELECT 1 AS id",
        "CREATE VIEW young AS SELECT size FROM zoo_size",
        "CREATE OR REPLACE VIEW late AS SELECT 1 AS id, size FROM young",
    ):
        database.run(statement)
    before = database.dump()
    exchange(sizes)
    assert type_of(database, "late", "size") == type_of(database, "rec", "n") == "bigint"
    exchange(sizes, revert=True)
    assert database.dump() == before


def test_a_cast_to_the_other_type_is_lost_with_it_and_the_view_goes_on(
    empty_database: Database, sizes: Replacement
) -> None:
    empty_database.run("CREATE VIEW plain AS SELECT id, size::bigint AS large FROM zoo_size")
    exchange(sizes)
    exchange(sizes, revert=True)
    assert type_of(empty_database, "plain", "large") == "integer"
    assert empty_database.value("SELECT count(large) FROM plain") == 3
