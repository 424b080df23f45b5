"""A step says the lock that it takes: read from pg_locks while its transaction is open."""

from __future__ import annotations

import re

import pytest
from django.db import connection, transaction
from psycopg import sql

from migrations_playbook.postgres.holders import STRONGEST_FIRST
from migrations_playbook.postgres.query import execute, fetch_value, pin_search_path
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.dependents.inventory import read_inventory
from migrations_playbook.swap.pair import Pair
from tests.fixtures.database import Database
from tests.fixtures.models_partitioned import Hashes, expand
from tests.fixtures.models_zoo import fill


def strongest_lock(table: sql.Identifier) -> str:
    """The strongest lock that this session holds on a table, as LOCK TABLE spells it."""
    mode = fetch_value(
        connection,
        sql.SQL("""
            SELECT mode FROM pg_catalog.pg_locks
             WHERE relation = %s::regclass AND pid = pg_backend_pid() AND granted
             ORDER BY array_position(%s, mode) LIMIT 1"""),
        [table.as_string(None), STRONGEST_FIRST],
    )
    return re.sub(r"(?<!^)(?=[A-Z])", " ", str(mode).removesuffix("Lock")).upper()


def steps_of(replacement: Replacement) -> list[Step]:
    """What the preparation still lacks, as the catalog stands."""
    table = read_table(connection, replacement.identifier)
    assert table is not None
    steps = read_inventory(connection, Pair.of(replacement, table)).steps
    return [*steps.build, *steps.prove]


@pytest.fixture
def partitioned(database: Database) -> Replacement:
    replacement = expand(database, Hashes)
    name = replacement.identifier.as_string(None)
    database.run(f"ALTER TABLE {name} ADD CONSTRAINT plausible CHECK (token IS NOT NULL)")
    database.run(f"CREATE INDEX plain ON {name} (token)")
    fill(replacement)
    return replacement


def test_each_step_of_the_preparation_says_the_lock_that_it_takes(
    partitioned: Replacement,
) -> None:
    tried: set[Lock] = set()
    done: set[str] = set()
    while left := [step for step in steps_of(partitioned) if step.what not in done]:
        step = left[0]
        done.add(step.what)
        if step.concurrent:
            # Whoever builds concurrently has the same lock as ANALYZE: it is its own transaction.
            assert step.lock is Lock.SHARE_UPDATE_EXCLUSIVE
            with connection.cursor() as cursor:
                cursor.execute(step.statement)
            continue
        with transaction.atomic():
            pin_search_path(connection)
            execute(connection, step.statement)
            on = step.on or partitioned.identifier
            assert strongest_lock(on) == step.lock, step.what
        tried.add(step.lock)
    assert {Lock.SHARE, Lock.ACCESS_SHARE, Lock.ACCESS_EXCLUSIVE} <= tried
