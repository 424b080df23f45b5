"""Everything at once that can be bound to a partitioned table and to one of its partitions."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from django.db import connection, transaction

from migrations_playbook.contract.play import contract
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.swap.dependents.inventory import read_inventory
from migrations_playbook.swap.gate import SwapRequest, pass_gate
from migrations_playbook.swap.play import plan_swap
from migrations_playbook.swap.prepare import prepare
from tests.fixtures.database import Database, role
from tests.fixtures.dumps import statements, with_columns_sorted
from tests.fixtures.models_partitioned import OF_ITS_OWN, Partitioned, make
from tests.fixtures.models_zoo import add_shadow, fill, play, tokens
from tests.fixtures.server import server_version

APP = "everywhere_app"
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
CREATE FUNCTION also.of_key(wanted integer) RETURNS uuid LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT token FROM {leaf} WHERE key = wanted LIMIT 1; END;
"""
# Lists of columns.
SINCE_15 = """
CREATE PUBLICATION outgoing FOR TABLE {table} (key, number, token)
    WITH (publish_via_partition_root = true);
CREATE PUBLICATION of_a_partition FOR TABLE {leaf} (token);
"""


@pytest.fixture
def app(database: Database) -> Iterator[Database]:
    with role(database, APP):
        yield database


@pytest.fixture(params=OF_ITS_OWN, ids=lambda model: model.__name__)
def everything(app: Database, request: pytest.FixtureRequest) -> type[Partitioned]:
    """A partitioned table with all of that, before the expand."""
    model: type[Partitioned] = request.param
    make(app, model)
    table, leaf = OF_ITS_OWN[model]
    schema = leaf.split(".")[0] if "." in leaf else "public"
    with connection.cursor() as cursor:
        cursor.execute(BOUND.format(table=table, leaf=leaf, schema=schema, app=APP))
        if server_version() >= 15:
            cursor.execute(SINCE_15.format(table=table, leaf=leaf))
    return model


def test_everything_that_is_bound_to_a_table_and_to_a_partition_is_carried_over(
    everything: type[Partitioned], app: Database
) -> None:
    leaked = tokens(everything)
    replacement = add_shadow(everything)
    table, leaf = OF_ITS_OWN[everything]
    app.run(f"CREATE INDEX of_both ON {leaf} (new_token, token)")
    app.run(f"CREATE INDEX both_of_all ON {table} (new_token, token)")
    app.run(f"CREATE INDEX shadow_of_all ON {table} (new_token) WHERE key > 2")
    app.run(f"CREATE INDEX on_the_shadow ON {leaf} (new_token)")
    fill(replacement)
    before = app.dump()
    for _ in range(2):
        assert play(replacement).passed
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
        assert not [
            each
            for each in gone
            if not re.search(r"on_the_shadow|shadow_of_all|_new_token_idx", each)
        ]
        assert play(replacement, revert=True).passed
        assert app.dump() == before


def test_the_contract_leaves_a_partitioned_table_as_it_was_before_the_expand(
    everything: type[Partitioned], app: Database
) -> None:
    before = app.dump()
    replacement = add_shadow(everything)
    fill(replacement)
    assert play(replacement).passed
    with transaction.atomic():
        contract(
            connection,
            replacement.identifier,
            live=replacement.live,
            shadow=replacement.shadow,
            triggers=replacement.trigger_names,
        )
    assert sorted(with_columns_sorted(app.dump()).splitlines()) == sorted(
        with_columns_sorted(before).splitlines()
    )


def test_the_plan_is_what_is_done_and_then_nothing_is_left_to_prepare(
    everything: type[Partitioned], app: Database
) -> None:
    replacement = add_shadow(everything)
    fill(replacement)
    before = app.dump()
    inventory = pass_gate(SwapRequest(connection, replacement, revert=False))
    planned = plan_swap(inventory)
    assert app.dump() == before
    assert not [each for each in planned.dependents if each.refused]
    done = [event.what for event in prepare(connection, inventory, LockPolicy())]
    assert done == [step.what for step in planned.index + planned.prove]
    after = plan_swap(read_inventory(connection, inventory.pair))
    assert not after.index + after.prove
    assert {(each.kind, each.name) for each in after.dependents} == {
        (each.kind, each.name) for each in planned.dependents
    }
