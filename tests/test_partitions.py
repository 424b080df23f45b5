# ruff: noqa: S608 - the tables are the tests' own
"""Partitioned tables: what the table has, and what a partition has of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from psycopg import errors

from migrations_playbook import catalog, contract, quarantine
from migrations_playbook.catalog import Phase
from migrations_playbook.errors import Refused
from migrations_playbook.locks import DEFAULT_POLICY
from migrations_playbook.prepare import prepare
from migrations_playbook.proof import Verified
from migrations_playbook.rights import refuse_without_fill_rights
from migrations_playbook.shadow import BoundShadow
from migrations_playbook.swap import plan, swap, swappable, verify
from tests.fixtures.database import Database
from tests.fixtures.releases import with_columns_sorted
from tests.models_partitioned import (
    STATEMENTS,
    Hashes,
    Levels,
    Partitioned,
    Ranges,
    add_shadow,
    expand,
    make,
)
from tests.models_zoo import fill

APP = "partitions_app"
shapes = pytest.mark.parametrize("model", STATEMENTS, ids=lambda model: model.__name__)


@pytest.fixture
def app(database: Database) -> Iterator[Database]:
    database.run(f"CREATE ROLE {APP}")
    yield database
    database.run(f"DROP OWNED BY {APP} CASCADE")
    database.run(f"DROP ROLE {APP}")


def tokens(model: type[Partitioned]) -> set[Any]:
    return set(model._default_manager.values_list("token", flat=True))


def play(bound: BoundShadow, *, revert: bool = False) -> Verified:
    """Swap to the end; the proof."""
    last = list(swap(bound, using="default", revert=revert))[-1]
    assert isinstance(last, Verified)
    return last


@shapes
def test_a_partitioned_table_is_swapped_and_reverted_and_swapped_again(
    model: type[Partitioned], database: Database
) -> None:
    bound = expand(database, model)
    leaked = tokens(model)
    fill(bound)
    before = database.dump()
    for _ in range(2):
        assert play(bound).passed
        assert catalog.state(connection, bound).phase is Phase.SWAPPED
        assert len(tokens(model)) == 90
        assert not tokens(model) & leaked
        assert play(bound, revert=True).passed
        assert tokens(model) == leaked
        assert database.dump() == before


# Each with the partition that has something of its own.
EVERYTHING: dict[type[Partitioned], tuple[str, str]] = {
    Ranges: ("by_range", "other.high"),
    Levels: ("by_level", "odd"),
    Hashes: ("by_hash", "second"),
}
BOUND = """
CREATE SCHEMA also;
CREATE INDEX partial ON {table} (token, note) WHERE key > 3;
CREATE INDEX worded ON {table} (lower(token::text)) WITH (fillfactor = 71);
ALTER INDEX worded ALTER COLUMN 1 SET STATISTICS 44;
COMMENT ON INDEX partial IS 'of the table';
ALTER TABLE {table} ADD CONSTRAINT later UNIQUE (token, key) INCLUDE (note)
    DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE {table} ADD CONSTRAINT real CHECK (token <> '00000000-0000-0000-0000-000000000000');
COMMENT ON CONSTRAINT real ON {table} IS 'no zero';
COMMENT ON CONSTRAINT real ON {leaf} IS 'no zero here';
ALTER TABLE {table} ALTER COLUMN token SET DEFAULT gen_random_uuid();
ALTER TABLE ONLY {table} ALTER COLUMN token SET STATISTICS 333;
COMMENT ON COLUMN {table}.token IS 'who knows it gets in';
GRANT SELECT (key, number, token), UPDATE (token, note) ON {table} TO {app};
CREATE VIEW also.plain AS SELECT key, number, token FROM {table};
CREATE STATISTICS also.together ON lower(token::text) FROM {table};
CREATE POLICY bearer ON {table} TO {app} USING (token IS NOT NULL);
CREATE FUNCTION also.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER noted AFTER UPDATE OF token ON {table} FOR EACH ROW EXECUTE FUNCTION also.note();
ALTER TABLE {leaf} DISABLE TRIGGER noted;
CREATE PUBLICATION outgoing FOR TABLE {table} (key, number, token)
    WITH (publish_via_partition_root = true);

CREATE UNIQUE INDEX own_index ON {leaf} (token);
ALTER TABLE {leaf} REPLICA IDENTITY USING INDEX own_index;
ALTER TABLE {leaf} CLUSTER ON own_index;
COMMENT ON INDEX {schema}.own_index IS 'of a partition';
ALTER TABLE {leaf} ADD CONSTRAINT own CHECK (token IS NOT NULL AND note <> 'never');
ALTER TABLE {leaf} ALTER COLUMN token SET DEFAULT '11111111-1111-4111-8111-111111111111';
ALTER TABLE {leaf} ALTER COLUMN token SET (n_distinct = -1);
COMMENT ON COLUMN {leaf}.token IS 'here too';
GRANT SELECT (key, token) ON {leaf} TO {app};
CREATE VIEW also.of_a_partition AS SELECT p.key, p.token AS secret FROM {leaf} p;
CREATE VIEW also.of_both AS SELECT p.token, s.secret FROM {table} p JOIN also.of_a_partition s
    USING (key);
CREATE RULE kept AS ON UPDATE TO also.of_a_partition DO INSTEAD
    UPDATE {leaf} SET token = NEW.secret WHERE key = NEW.key;
CREATE STATISTICS also.apart ON lower(token::text) FROM {leaf};
CREATE POLICY bearer ON {leaf} TO {app} USING (token IS NOT NULL);
CREATE TRIGGER noted_here AFTER UPDATE ON {leaf} FOR EACH ROW
    WHEN (NEW.token IS DISTINCT FROM OLD.token) EXECUTE FUNCTION also.note();
ALTER TABLE {leaf} ENABLE ALWAYS TRIGGER noted_here;
CREATE PUBLICATION of_a_partition FOR TABLE {leaf} (token);
CREATE FUNCTION also.of_key(wanted integer) RETURNS uuid LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT token FROM {leaf} WHERE key = wanted LIMIT 1; END;
"""


@pytest.fixture(params=EVERYTHING, ids=lambda model: model.__name__)
def everything(app: Database, request: pytest.FixtureRequest) -> type[Partitioned]:
    """A partitioned table with all of that, before the expand."""
    model: type[Partitioned] = request.param
    make(app, model)
    table, leaf = EVERYTHING[model]
    schema = leaf.split(".")[0] if "." in leaf else "public"
    with connection.cursor() as cursor:
        cursor.execute(BOUND.format(table=table, leaf=leaf, schema=schema, app=APP))
    return model


def statements(dump: str) -> set[str]:
    """The statements of a dump but for those of tables, whose columns change their order."""
    return {
        re.sub(r"\s+", " ", statement)
        for statement in dump.split(";\n")
        if "CREATE TABLE" not in statement
    }


def test_everything_that_is_bound_to_a_table_and_to_a_partition_is_carried_over(
    everything: type[Partitioned], app: Database
) -> None:
    leaked = tokens(everything)
    bound = add_shadow(everything)
    _, leaf = EVERYTHING[everything]
    app.run(f"CREATE INDEX of_both ON {leaf} (new_token, token)")
    app.run(f"CREATE INDEX on_the_shadow ON {leaf} (new_token)")
    fill(bound)
    before = app.dump()
    for _ in range(2):
        assert play(bound).passed
        for query in (
            "SELECT token FROM also.plain",
            "SELECT secret FROM also.of_a_partition",
            "SELECT token FROM also.of_both",
            "SELECT secret FROM also.of_both",
            "SELECT also.of_key(key) FROM also.of_a_partition",
        ):
            shown = {row[0] for row in app.fetch(query)}
            assert shown, query
            assert not shown & leaked, query
        gone = statements(before) - statements(app.dump())
        assert not [each for each in gone if "on_the_shadow" not in each]
        assert play(bound, revert=True).passed
        assert app.dump() == before


def test_the_contract_leaves_a_partitioned_table_as_it_was_before_the_expand(
    everything: type[Partitioned], app: Database
) -> None:
    before = app.dump()
    bound = add_shadow(everything)
    fill(bound)
    assert play(bound).passed
    with transaction.atomic():
        contract.contract(
            connection,
            bound.table,
            live=bound.live,
            shadow=bound.shadow,
            triggers=bound.trigger_names,
        )
    assert sorted(with_columns_sorted(app.dump()).splitlines()) == sorted(
        with_columns_sorted(before).splitlines()
    )


def test_the_plan_is_what_is_done_and_then_nothing_is_left_to_prepare(
    everything: type[Partitioned], app: Database
) -> None:
    bound = add_shadow(everything)
    fill(bound)
    before = app.dump()
    pair = swappable(connection, bound, revert=False)
    planned = plan(connection, pair)
    assert app.dump() == before
    assert not [each for each in planned.dependents if each.refused]
    done = [event.what for event in prepare(connection, pair, DEFAULT_POLICY)]
    assert done == [step.what for step in planned.index + planned.prove]
    after = plan(connection, pair)
    assert not after.index + after.prove
    assert {(each.kind, each.name) for each in after.dependents} == {
        (each.kind, each.name) for each in planned.dependents
    }


def as_app(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.connect(autocommit=True) as session:
        session.execute(f"SET ROLE {APP}")
        cursor = session.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_privileges_on_a_partition_are_its_own(app: Database) -> None:
    bound = expand(app, Ranges)
    app.run(f"GRANT SELECT (key) ON by_range TO {APP}")
    app.run(f'GRANT SELECT (token) ON "Low" TO {APP}')
    fill(bound)

    def look() -> None:
        assert len(as_app(app, 'SELECT token FROM "Low"')) == 30
        assert len(as_app(app, "SELECT key FROM by_range")) == 90
        for forbidden in ('SELECT new_token FROM "Low"', "SELECT token FROM by_range"):
            with pytest.raises(errors.InsufficientPrivilege):
                as_app(app, forbidden)

    look()
    play(bound)
    look()
    play(bound, revert=True)
    look()


@shapes
def test_both_releases_write_through_the_table_and_into_a_partition(
    model: type[Partitioned], database: Database
) -> None:
    bound = expand(database, model)
    table, leaf = EVERYTHING[model]
    fill(bound)
    leaked = {(row.key, row.number): row.token for row in model._default_manager.all()}
    play(bound)
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
    found = catalog.table(connection, bound)
    assert found is not None
    stale = quarantine.stale_writes(connection, found, bound.shadow)
    assert stale is not None
    assert stale.hits == 2
    assert database.value(f"SELECT count(*) FROM {table} WHERE token = new_token") == 2
    assert verified(bound).passed
    written = tokens(model) - set(leaked.values())
    assert play(bound, revert=True).passed
    assert set(leaked.values()) < tokens(model)
    assert len(tokens(model) & written) == 2


def verified(bound: BoundShadow) -> Verified:
    (found,) = verify(bound, using="default")
    assert isinstance(found, Verified)
    return found


def test_a_unique_index_of_a_partition_keeps_every_leaked_value_out_of_it(
    database: Database,
) -> None:
    bound = expand(database, Ranges)
    database.run("CREATE UNIQUE INDEX own_index ON other.high (token)")
    fill(bound)
    leaked = database.value("SELECT token FROM other.high WHERE key = 20 LIMIT 1")
    play(bound)
    with pytest.raises(errors.UniqueViolation, match="own_index"):
        database.run("INSERT INTO by_range (key, number, token) VALUES (21, 100, %s)", leaked)


def test_a_row_that_moves_to_another_partition_brings_its_quarantine(database: Database) -> None:
    bound = expand(database, Ranges)
    fill(bound)
    leaked = database.value("SELECT token FROM by_range WHERE key = 1 AND number = 1")
    play(bound)
    fresh = database.value("SELECT token FROM by_range WHERE key = 1 AND number = 1")
    database.run("UPDATE by_range SET key = 11, number = 50 WHERE key = 1 AND number = 1")
    database.run("UPDATE by_range SET token = %s WHERE key = 11 AND number = 50", leaked)
    assert database.fetch("SELECT token, new_token FROM mid WHERE number = 50") == [(fresh, leaked)]
    assert verified(bound).passed
    play(bound, revert=True)
    assert database.value("SELECT token FROM mid WHERE number = 50") == leaked


def test_values_that_collide_across_partitions_are_refilled_where_they_are(
    database: Database,
) -> None:
    """Two rows of two partitions have the same place, each in its own."""
    bound = expand(database, Ranges)
    database.run("ALTER TABLE by_range ADD UNIQUE (key, note, token)")
    fill(bound)
    with database.connect() as session:
        session.execute("SELECT set_config('pgtrigger.ignore', %s, true)",
                        ["{" + ",".join(bound.trigger_names) + "}"])  # fmt: skip
        session.execute(
            "UPDATE by_range SET new_token = (SELECT new_token FROM by_range "
            "WHERE key = 12 AND number = 2) WHERE key = 12"
        )
    kept = set(database.fetch("SELECT new_token FROM by_range WHERE key <> 12"))
    assert play(bound).passed
    assert len(tokens(Ranges)) == 90
    assert set(database.fetch("SELECT token FROM by_range WHERE key <> 12")) == kept


def test_an_index_that_is_replaced_after_the_preparation_is_prepared_anew(
    database: Database,
) -> None:
    bound = expand(database, Levels)
    database.run("CREATE INDEX wanted ON by_level (token)")
    database.run("CREATE INDEX here ON odd (token)")
    fill(bound)
    pair = swappable(connection, bound, revert=False)
    for _ in prepare(connection, pair, DEFAULT_POLICY):
        pass
    for statement in (
        "DROP INDEX wanted",
        "CREATE INDEX wanted ON by_level (token, note)",
        # What a build that has failed leaves behind.
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'here_new_token'::regclass",
    ):
        database.run(statement)
    before = database.value("SELECT pg_get_indexdef('wanted'::regclass)")
    said = [event.what for event in prepare(connection, pair, DEFAULT_POLICY)]
    assert "Drop wanted_new_token, which is not like its original" in said
    assert "Drop the index here_new_token, which was left invalid by a failed build" in said
    assert play(bound).passed
    assert database.value("SELECT pg_get_indexdef('wanted'::regclass)") == before
    assert not database.fetch("SELECT FROM pg_index WHERE NOT indisvalid")


def test_what_a_partition_alone_stands_in_the_way_with_is_named(database: Database) -> None:
    bound = expand(database, Ranges)
    fill(bound)
    database.run("CREATE MATERIALIZED VIEW copies AS SELECT token FROM mid")
    database.run(
        "CREATE TABLE stub (key integer, token uuid, "
        "FOREIGN KEY (key, token) REFERENCES by_range (key, token))"
    )
    database.run("ALTER TABLE mid ADD EXCLUDE USING hash (token WITH =)")
    with pytest.raises(Refused) as refusal:
        play(bound)
    said = str(refusal.value).splitlines()[1:]
    assert [line.split(" (")[0] for line in said] == [
        "- index mid_token_excl",
        "- foreign key stub_key_token_fkey on public.stub",
        "- materialized view public.copies",
    ]


def test_a_materialized_view_of_a_partition_is_refreshed_on_request(database: Database) -> None:
    bound = expand(database, Ranges)
    fill(bound)
    leaked = tokens(Ranges)
    database.run("CREATE MATERIALIZED VIEW copies AS SELECT token FROM mid")
    for _ in swap(bound, using="default", refresh=True):
        pass
    shown = {token for (token,) in database.fetch("SELECT token FROM copies")}
    assert len(shown) == 30
    assert not shown & leaked


def test_the_backfill_names_the_partitions_that_its_role_may_not_write(app: Database) -> None:
    bound = expand(app, Ranges)
    app.run(f"GRANT SELECT, UPDATE ON by_range, mid TO {APP}")
    found = catalog.table(connection, bound)
    assert found is not None
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL ROLE {APP}")
        with pytest.raises(Refused) as refusal:
            refuse_without_fill_rights(connection, found)
        cursor.execute("RESET ROLE")
    assert str(refusal.value) == (
        f'The role "{APP}" may not fill public.by_range. Run: '
        f'GRANT USAGE ON SCHEMA "other" TO "{APP}"; '
        f'GRANT SELECT ON "public"."Low", "other"."high" TO "{APP}"; '
        f'GRANT UPDATE ON "public"."Low", "other"."high" TO "{APP}".'
    )
