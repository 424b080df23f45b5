"""Views whose columns change their type with a table's are made again, with all they have."""

from __future__ import annotations

import re
from typing import Any

import pytest

from migrations_playbook.postgres import locks
from migrations_playbook.replacement import Replacement
from tests.fixtures.another_type import refusal, type_of
from tests.fixtures.database import Database, role
from tests.fixtures.dumps import statements
from tests.fixtures.models_conversions import SIZES, Size
from tests.fixtures.models_zoo import expand, fill, play
from tests.fixtures.server import server_version

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


def views_of(database: Database) -> dict[str, int]:
    """The oids of the views by name: a view that is made again has another."""
    found = "SELECT relname, oid FROM pg_class WHERE relkind = 'v' AND oid > 16383"
    return dict(database.fetch(found))


@pytest.fixture
def sizes(empty_database: Database) -> Replacement:
    replacement = expand(Size, SIZES)
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
        play(sizes)
        assert statements(database.dump()) == before
        assert type_of(database, "plain", "size") == "bigint"
        assert type_of(database, "other.above", "how large") == "bigint"
        assert type_of(database, "top", "both") == "bigint"
        assert {name for name, oid in views_of(database).items() if oids[name] == oid} == {"stays"}
        database.run("INSERT INTO plain (size) VALUES (5000000000)")
        database.run("UPDATE zoo_size SET size = 1 WHERE size > 1000000")
        play(sizes, revert=True)
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
            play(sizes, revert=revert)
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
    play(sizes)
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
    play(sizes)
    assert type_of(database, "late", "size") == type_of(database, "rec", "n") == "bigint"
    play(sizes, revert=True)
    assert database.dump() == before


def test_a_cast_to_the_other_type_is_lost_with_it_and_the_view_goes_on(
    empty_database: Database, sizes: Replacement
) -> None:
    empty_database.run("CREATE VIEW plain AS SELECT id, size::bigint AS large FROM zoo_size")
    play(sizes)
    play(sizes, revert=True)
    assert type_of(empty_database, "plain", "large") == "integer"
    assert empty_database.value("SELECT count(large) FROM plain") == 3
