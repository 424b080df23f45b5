"""What a dump alone would not show, or shows only as text: kept, and still at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from psycopg import errors

from tests.fixtures.database import Database, role
from tests.fixtures.models_zoo import TEXTS, Characters, expand, fill, play
from tests.fixtures.server import server_version
from tickets.models import Ticket

APP = "kept_app"
# PostgreSQL 15 brought both.
NULLS = "NULLS NOT DISTINCT" if server_version() >= 15 else ""
AS_INVOKER = "WITH (security_invoker)" if server_version() >= 15 else ""
# What the table's columns and indexes carry, apart from their attribute numbers.
INDEXES = """
    SELECT c.relname, m.amname, pg_get_indexdef(c.oid), c.reloptions, i.indisvalid,
           i.indisclustered, to_jsonb(i) ->> 'indnullsnotdistinct',
           ARRAY(SELECT o.opcname FROM unnest(i.indclass) u JOIN pg_opclass o ON o.oid = u)
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
     WHERE i.indrelid = 'tickets_ticket'::regclass AND c.relname LIKE 'kept%'
       AND c.relname NOT LIKE '%new_token' ORDER BY 1"""
COLUMN = r"""
    -- Some servers keep an option of their own, pg_..., on every column.
    SELECT attstorage::text, attcompression::text,
           ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg\_%%'),
           coalesce(attstattarget, -1),
           col_description(attrelid, attnum), attnotnull, pg_get_expr(adbin, adrelid)
      FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
     WHERE attrelid = %s::regclass AND attname = %s"""


@pytest.fixture
def app(database: Database) -> Iterator[Database]:
    for _ in range(3):
        Ticket.objects.create()
    with role(database, APP):
        yield database


def in_every_phase(database: Database, look: Callable[[], Any]) -> None:
    """What is seen before the swap, after it and after the revert is the same; so is the dump."""
    before, seen = database.dump(), look()
    call_command("swap_token_columns")
    assert look() == seen
    call_command("swap_token_columns", revert=True)
    assert look() == seen
    assert database.dump() == before


def test_indexes_of_every_kind_answer_for_the_live_column(app: Database) -> None:
    for statement in (
        "CREATE INDEX kept_hash ON tickets_ticket USING hash (token) WITH (fillfactor = 63)",
        "CREATE INDEX kept_brin ON tickets_ticket USING brin (token uuid_bloom_ops)",
        "CREATE INDEX kept_gin ON tickets_ticket USING gin (to_tsvector('simple', token::text))",
        (
            "CREATE INDEX kept_text ON tickets_ticket "
            '((token::text) COLLATE "C" text_pattern_ops DESC)'
        ),
        (
            "CREATE UNIQUE INDEX kept_nulls ON tickets_ticket (redeemed_at, token) "
            f"INCLUDE (id) {NULLS}"
        ),
        "ALTER TABLE tickets_ticket CLUSTER ON kept_nulls",
    ):
        app.run(statement)
    by_index = {
        "kept_hash": "token = %s",
        "kept_brin": "token = %s",
        "kept_gin": "to_tsvector('simple', token::text) @@ plainto_tsquery('simple', %s::text)",
        "kept_text": "token::text COLLATE \"C\" LIKE %s::text || '%%'",
    }

    def look() -> Any:
        token = app.value("SELECT token FROM tickets_ticket ORDER BY id LIMIT 1")
        with app.connect() as session:
            session.execute("SET enable_seqscan = off")
            for index, condition in by_index.items():
                # Alone with its index, a query shows whether that finds the row.
                with session.transaction(force_rollback=True):
                    for other in session.execute(
                        "SELECT conname FROM pg_constraint WHERE conrelid = "
                        "'tickets_ticket'::regclass AND contype = 'u'"
                    ).fetchall():
                        session.execute(f'ALTER TABLE tickets_ticket DROP CONSTRAINT "{other[0]}"')
                    for other in by_index.keys() - {index} | {"kept_nulls"}:
                        session.execute(f"DROP INDEX {other}")
                    query = f"SELECT id FROM tickets_ticket WHERE {condition}"  # noqa: S608
                    shown = session.execute(f"EXPLAIN {query}", [token]).fetchall()
                    assert index in str(shown), shown
                    assert len(session.execute(query, [token]).fetchall()) == 1
        return app.fetch(INDEXES)

    in_every_phase(app, look)
    # CLUSTER without a name goes by the live column's index.
    call_command("swap_token_columns")
    app.run("CLUSTER tickets_ticket")


def test_storage_compression_options_and_the_like_index_stay_with_the_name(
    database: Database,
) -> None:
    replacement = expand(Characters, TEXTS)
    for action in (
        "SET STORAGE EXTERNAL",
        "SET COMPRESSION pglz",
        "SET (n_distinct = -0.5, n_distinct_inherited = 7)",
        "SET STATISTICS 321",
        "SET DEFAULT 'none yet'",
    ):
        database.run(f"ALTER TABLE zoo_characters ALTER COLUMN token {action}")
    database.run("COMMENT ON COLUMN zoo_characters.token IS 'who knows it gets in'")
    fill(replacement)
    before = database.dump()
    plain = database.fetch(COLUMN, "zoo_characters", "new_token")
    kept = database.fetch(COLUMN, "zoo_characters", "token")
    assert kept[0][:4] == ("e", "p", ["n_distinct=-0.5", "n_distinct_inherited=7"], 321)
    for revert in (False, True):
        play(replacement, revert=revert)
        assert database.fetch(COLUMN, "zoo_characters", "token") == kept
        assert database.fetch(COLUMN, "zoo_characters", "new_token") == plain
        with database.connect() as session:
            session.execute("SET enable_seqscan = off")
            session.execute("ALTER TABLE zoo_characters DROP CONSTRAINT zoo_characters_token_key")
            shown = session.execute(
                "EXPLAIN SELECT id FROM zoo_characters WHERE token LIKE 'abc%'"
            ).fetchall()
            session.rollback()
            assert "_like" in str(shown)
    assert database.dump() == before


def test_indexes_stay_in_their_tablespaces(app: Database) -> None:
    """A matter of the server's file system: in place, so that no folder has to be named."""
    with app.connect(autocommit=True) as session:
        session.execute("SET allow_in_place_tablespaces = on")
        session.execute("CREATE TABLESPACE kept_fast LOCATION ''")
    try:
        app.run("CREATE INDEX kept_plain ON tickets_ticket (token) TABLESPACE kept_fast")
        app.run(
            "CREATE INDEX kept_partial ON tickets_ticket (token) TABLESPACE kept_fast "
            "WHERE redeemed_at IS NULL"
        )
        app.run(
            "ALTER TABLE tickets_ticket ADD CONSTRAINT kept_unique UNIQUE (token, id) "
            "USING INDEX TABLESPACE kept_fast"
        )
        app.run("CREATE MATERIALIZED VIEW copies AS SELECT token FROM tickets_ticket")
        app.run("CREATE INDEX kept_copies ON copies (token) TABLESPACE kept_fast")
        placed = """
            SELECT c.relname FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace
             WHERE s.spcname = 'kept_fast' AND c.relname IN
                   ('kept_plain', 'kept_partial', 'kept_unique', 'kept_copies') ORDER BY 1"""
        before = app.dump()
        for revert in (False, True):
            call_command("swap_token_columns", revert=revert, refresh_materialized_views=True)
            assert app.fetch(placed) == [
                ("kept_copies",),
                ("kept_partial",),
                ("kept_plain",),
                ("kept_unique",),
            ]
        assert app.dump() == before
    finally:
        app.run("DROP MATERIALIZED VIEW copies")
        app.run("DROP TABLE tickets_ticket")
        app.run("DROP TABLESPACE kept_fast")


def test_views_keep_their_options_owners_and_privileges(app: Database) -> None:
    app.run("CREATE VIEW mine WITH (security_barrier) AS SELECT id, token FROM tickets_ticket")
    app.run(f"ALTER VIEW mine OWNER TO {APP}")
    app.run(f"CREATE VIEW theirs {AS_INVOKER} AS SELECT id, token FROM tickets_ticket")  # noqa: S608
    app.run(f"GRANT SELECT ON theirs TO {APP}")
    app.run("COMMENT ON VIEW theirs IS 'with the rights of who asks'")

    def look() -> Any:
        with app.connect(autocommit=True) as session:
            session.execute(f"SET ROLE {APP}")
            # The one asks for its owner, the other for who reads it: neither may.
            for view in ("mine", "theirs") if AS_INVOKER else ("mine",):
                with pytest.raises(errors.InsufficientPrivilege, match="tickets_ticket"):
                    session.execute(f"SELECT token FROM {view}")  # noqa: S608
        app.run(f"GRANT SELECT (id, token) ON tickets_ticket TO {APP}")
        with app.connect(autocommit=True) as session:
            session.execute(f"SET ROLE {APP}")
            for view in ("mine", "theirs"):
                query = f"SELECT count(*) FROM {view} JOIN tickets_ticket USING (id, token)"  # noqa: S608
                assert session.execute(query).fetchone() == (3,)
        app.run(f"REVOKE SELECT (id, token) ON tickets_ticket FROM {APP}")  # noqa: S608
        return app.fetch(
            "SELECT relname, reloptions, pg_get_userbyid(relowner), relacl::text, "
            "obj_description(oid) FROM pg_class WHERE relname IN ('mine', 'theirs') ORDER BY 1"
        )

    in_every_phase(app, look)


def test_rules_write_down_the_live_value(app: Database) -> None:
    app.run("CREATE TABLE said (token uuid)")
    app.run("CREATE VIEW door AS SELECT id, token FROM tickets_ticket")
    app.run(
        "CREATE RULE by_view AS ON UPDATE TO door DO INSTEAD "
        "INSERT INTO said SELECT token FROM tickets_ticket WHERE id = NEW.id"
    )
    app.run(
        "CREATE RULE by_table AS ON DELETE TO tickets_ticket DO ALSO "
        "INSERT INTO said VALUES (OLD.token)"
    )

    def look() -> None:
        app.run("TRUNCATE said")
        token = app.value("SELECT token FROM tickets_ticket ORDER BY id LIMIT 1")
        app.run("UPDATE door SET token = NULL WHERE token = %s", token)
        app.run("DELETE FROM tickets_ticket WHERE token = %s", token)
        assert app.fetch("SELECT token FROM said") == [(token,), (token,)]

    in_every_phase(app, look)
