# ruff: noqa: S608 - the tables are the tests' own
"""Partitioned tables: what the table has, and what a partition has of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from psycopg import errors

from migrations_playbook.contract.play import contract
from migrations_playbook.errors import Refused, VerificationFailed
from migrations_playbook.phase import Phase, read_state
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.postgres.roles import refuse_without_fill_rights
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.quarantine.watch import read_stale_writes
from migrations_playbook.swap.dependents.inventory import read_inventory
from migrations_playbook.swap.gate import SwapRequest, pass_gate
from migrations_playbook.swap.play import swap
from migrations_playbook.swap.prepare import prepare
from tests.fixtures.database import Database, role
from tests.fixtures.models_partitioned import (
    OF_ITS_OWN,
    STATEMENTS,
    Hashes,
    Levels,
    Partitioned,
    Ranges,
    expand,
    verified,
)
from tests.fixtures.models_zoo import fill, play, tokens

APP = "partitions_app"
shapes = pytest.mark.parametrize("model", STATEMENTS, ids=lambda model: model.__name__)


@pytest.fixture
def app(database: Database) -> Iterator[Database]:
    with role(database, APP):
        yield database


@shapes
def test_a_partitioned_table_is_swapped_and_reverted_and_swapped_again(
    model: type[Partitioned], database: Database
) -> None:
    replacement = expand(database, model)
    leaked = tokens(model)
    fill(replacement)
    before = database.dump()
    for _ in range(2):
        assert play(replacement).passed
        assert read_state(connection, replacement).phase is Phase.SWAPPED
        assert len(tokens(model)) == 90
        assert not tokens(model) & leaked
        assert play(replacement, revert=True).passed
        assert tokens(model) == leaked
        assert database.dump() == before


def as_app(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.connect(autocommit=True) as session:
        session.execute(f"SET ROLE {APP}")
        cursor = session.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_privileges_on_a_partition_are_its_own(app: Database) -> None:
    replacement = expand(app, Ranges)
    app.run(f"GRANT SELECT (key) ON by_range TO {APP}")
    app.run(f'GRANT SELECT (token) ON "Low" TO {APP}')
    fill(replacement)

    def look() -> None:
        assert len(as_app(app, 'SELECT token FROM "Low"')) == 30
        assert len(as_app(app, "SELECT key FROM by_range")) == 90
        for forbidden in ('SELECT new_token FROM "Low"', "SELECT token FROM by_range"):
            with pytest.raises(errors.InsufficientPrivilege):
                as_app(app, forbidden)

    look()
    play(replacement)
    look()
    play(replacement, revert=True)
    look()


def test_a_retired_index_of_a_partitions_own_is_missed_whatever_the_order_of_its_columns(
    database: Database,
) -> None:
    """In the attached partition `number` has the number that the token has in the table."""
    replacement = expand(database, Ranges)
    database.run("ALTER TABLE by_range DROP CONSTRAINT one")
    database.run("CREATE UNIQUE INDEX own_index ON other.high (token)")
    fill(replacement)
    assert play(replacement).passed
    assert verified(replacement).passed
    database.run("DROP INDEX other.own_index_new_token")
    with pytest.raises(VerificationFailed, match='"new_token" has no unique index any more'):
        verified(replacement)


@shapes
def test_both_releases_write_through_the_table_and_into_a_partition(
    model: type[Partitioned], database: Database
) -> None:
    replacement = expand(database, model)
    table, leaf = OF_ITS_OWN[model]
    fill(replacement)
    leaked = {(row.key, row.number): row.token for row in model._default_manager.all()}
    play(replacement)
    key, number = database.fetch(f"SELECT key, number FROM {leaf} LIMIT 1")[0]
    own = leaked[key, number]
    fresh = model._default_manager.get(key=key, number=number).token
    for name in (table, leaf):
        # A stale save of an object from before the swap, with another column.
        database.run(
            f"UPDATE {name} SET token = %s, note = 'saved' WHERE key = %s AND number = %s",
            own, key, number,
        )  # fmt: skip
        row = model._default_manager.get(key=key, number=number)
        assert (row.token, row.note) == (fresh, "saved")
        # The constraint knows the leaked values of its key.
        with pytest.raises(errors.UniqueViolation):
            database.run(f"INSERT INTO {name} (key, number, token) VALUES (%s, 100, %s)", key, own)
        # The old release inserts.
        database.run(
            f"INSERT INTO {name} (key, number, token) "
            "VALUES (%s, (SELECT max(number) + 1 FROM by_all), gen_random_uuid())"
            .replace("by_all", table),
            key,
        )  # fmt: skip
    found = read_table(connection, replacement.identifier)
    assert found is not None
    stale = read_stale_writes(connection, found, replacement.live, replacement.shadow)
    assert stale is not None
    assert stale.hits == 2
    assert database.value(f"SELECT count(*) FROM {table} WHERE token = new_token") == 2
    assert verified(replacement).passed
    written = tokens(model) - set(leaked.values())
    assert play(replacement, revert=True).passed
    assert set(leaked.values()) < tokens(model)
    assert len(tokens(model) & written) == 2


def test_a_unique_index_of_a_partition_keeps_every_leaked_value_out_of_it(
    database: Database,
) -> None:
    replacement = expand(database, Ranges)
    database.run("CREATE UNIQUE INDEX own_index ON other.high (token)")
    fill(replacement)
    leaked = database.value("SELECT token FROM other.high WHERE key = 20 LIMIT 1")
    play(replacement)
    with pytest.raises(errors.UniqueViolation, match="own_index"):
        database.run("INSERT INTO by_range (key, number, token) VALUES (21, 100, %s)", leaked)


def test_a_row_that_moves_to_another_partition_brings_its_quarantine(database: Database) -> None:
    replacement = expand(database, Ranges)
    fill(replacement)
    leaked = database.value("SELECT token FROM by_range WHERE key = 1 AND number = 1")
    play(replacement)
    fresh = database.value("SELECT token FROM by_range WHERE key = 1 AND number = 1")
    database.run("UPDATE by_range SET key = 11, number = 50 WHERE key = 1 AND number = 1")
    database.run("UPDATE by_range SET token = %s WHERE key = 11 AND number = 50", leaked)
    assert database.fetch("SELECT token, new_token FROM mid WHERE number = 50") == [(fresh, leaked)]
    assert verified(replacement).passed
    play(replacement, revert=True)
    assert database.value("SELECT token FROM mid WHERE number = 50") == leaked


def test_values_that_collide_across_partitions_are_refilled_where_they_are(
    database: Database,
) -> None:
    """Two rows of two partitions have the same place, each in its own."""
    replacement = expand(database, Ranges)
    database.run("ALTER TABLE by_range ADD UNIQUE (key, note, token)")
    fill(replacement)
    with database.connect() as session:
        session.execute("SELECT set_config('pgtrigger.ignore', %s, true)",
                        ["{" + ",".join(replacement.trigger_names) + "}"])  # fmt: skip
        session.execute(
            "UPDATE by_range SET new_token = (SELECT new_token FROM by_range "
            "WHERE key = 12 AND number = 2) WHERE key = 12"
        )
    kept = set(database.fetch("SELECT new_token FROM by_range WHERE key <> 12"))
    assert play(replacement).passed
    assert len(tokens(Ranges)) == 90
    assert set(database.fetch("SELECT token FROM by_range WHERE key <> 12")) == kept


def test_an_index_that_is_replaced_after_the_preparation_is_prepared_anew(
    database: Database,
) -> None:
    replacement = expand(database, Levels)
    database.run("CREATE INDEX wanted ON by_level (token)")
    database.run("CREATE INDEX here ON odd (token)")
    fill(replacement)
    inventory = pass_gate(SwapRequest(connection, replacement, revert=False))
    for _ in prepare(connection, inventory, LockPolicy()):
        pass
    for statement in (
        "DROP INDEX wanted",
        "CREATE INDEX wanted ON by_level (token, note)",
        # What a build that has failed leaves behind.
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'here_new_token'::regclass",
    ):
        database.run(statement)
    before = database.value("SELECT pg_get_indexdef('wanted'::regclass)")
    said = [
        event.what
        for event in prepare(connection, read_inventory(connection, inventory.pair), LockPolicy())
    ]
    assert "Drop wanted_new_token, which is not like its original" in said
    assert "Drop the index here_new_token, which was left invalid by a failed build" in said
    assert play(replacement).passed
    assert database.value("SELECT pg_get_indexdef('wanted'::regclass)") == before
    assert not database.fetch("SELECT FROM pg_index WHERE NOT indisvalid")


def test_what_a_partition_alone_stands_in_the_way_with_is_named(database: Database) -> None:
    replacement = expand(database, Ranges)
    fill(replacement)
    database.run("CREATE MATERIALIZED VIEW copies AS SELECT token FROM mid")
    database.run(
        "CREATE TABLE stub (key integer, token uuid, "
        "FOREIGN KEY (key, token) REFERENCES by_range (key, token))"
    )
    database.run("ALTER TABLE mid ADD EXCLUDE USING hash (token WITH =)")
    with pytest.raises(Refused) as refusal:
        play(replacement)
    said = str(refusal.value).splitlines()[1:]
    assert [line.split(" (")[0] for line in said] == [
        "- index mid_token_excl",
        "- foreign key stub_key_token_fkey on public.stub",
        "- materialized view public.copies",
    ]


def test_a_materialized_view_of_a_partition_is_refreshed_on_request(database: Database) -> None:
    replacement = expand(database, Ranges)
    fill(replacement)
    leaked = tokens(Ranges)
    database.run("CREATE MATERIALIZED VIEW copies AS SELECT token FROM mid")
    for _ in swap(replacement, using="default", refresh=True):
        pass
    shown = {token for (token,) in database.fetch("SELECT token FROM copies")}
    assert len(shown) == 30
    assert not shown & leaked


def test_the_backfill_names_the_partitions_that_its_role_may_not_write(app: Database) -> None:
    replacement = expand(app, Ranges)
    app.run(f"GRANT SELECT, UPDATE ON by_range, mid TO {APP}")
    table = read_table(connection, replacement.identifier)
    assert table is not None
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL ROLE {APP}")
        with pytest.raises(Refused) as refusal:
            refuse_without_fill_rights(connection, table)
        cursor.execute("RESET ROLE")
    assert str(refusal.value) == (
        f'The role "{APP}" may not fill public.by_range. Run: '
        f'GRANT USAGE ON SCHEMA "other" TO "{APP}"; '
        f'GRANT SELECT ON "public"."Low", "other"."high" TO "{APP}"; '
        f'GRANT UPDATE ON "public"."Low", "other"."high" TO "{APP}".'
    )


CARRIED: dict[str, tuple[type[Partitioned], str]] = {
    "a NOT NULL of a partition's own": (
        Hashes,
        "ALTER TABLE by_hash ALTER token DROP NOT NULL; ALTER TABLE first ALTER token SET NOT NULL",
    ),
    "a NOT NULL that a partition says again": (
        Ranges,
        "CREATE TABLE late PARTITION OF by_range (token NOT NULL) FOR VALUES FROM (30) TO (40)",
    ),
    "the replica identities of the table and of a partition": (
        Levels,
        (
            "ALTER TABLE by_level REPLICA IDENTITY USING INDEX one; "
            "ALTER TABLE odd REPLICA IDENTITY USING INDEX odd_key_token_key; "
            "ALTER TABLE even REPLICA IDENTITY FULL"
        ),
    ),
    "an index with a constraint for one of its parts": (
        Hashes,
        (
            "CREATE UNIQUE INDEX whole ON ONLY by_hash (token, key); "
            "ALTER TABLE first ADD CONSTRAINT a_part UNIQUE (token, key); "
            "CREATE UNIQUE INDEX other_part ON second (token, key) WITH (fillfactor = 55); "
            "ALTER INDEX whole ATTACH PARTITION a_part; "
            "ALTER INDEX whole ATTACH PARTITION other_part"
        ),
    ),
    "what the level between has of its own": (
        Levels,
        (
            "CREATE INDEX halfway ON upper (token); "
            "ALTER TABLE upper ADD CONSTRAINT real CHECK (token::text <> 'no'); "
            "ALTER TABLE upper ALTER COLUMN token SET DEFAULT gen_random_uuid(); "
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
            "CREATE TRIGGER noted AFTER UPDATE OF token ON upper "
            "FOR EACH ROW EXECUTE FUNCTION note()"
        ),
    ),
}


@pytest.mark.parametrize("what", CARRIED)
def test_it_is_carried_over_and_back_and_lets_the_column_go(what: str, database: Database) -> None:
    model, script = CARRIED[what]
    replacement = expand(database, model)
    for statement in re.split(r"; (?=[A-Z]{5})", script):
        database.run(statement)
    fill(replacement)
    before = database.dump()
    for _ in range(2):
        assert play(replacement).passed
        assert play(replacement, revert=True).passed
        assert database.dump() == before
    play(replacement)
    with transaction.atomic():
        contract(
            connection,
            replacement.identifier,
            live=replacement.live,
            shadow=replacement.shadow,
            triggers=replacement.trigger_names,
        )
    assert read_state(connection, replacement).phase is Phase.NONE
