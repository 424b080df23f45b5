"""The books of a client balance on a table of any shape, and do not when something is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from django.db import models

from migrations_playbook.rehearsal.plots.kinds import plot_of
from migrations_playbook.rehearsal.script import Script
from migrations_playbook.rehearsal.traffic.audit import Audit, AuditedColumns
from migrations_playbook.rehearsal.traffic.client import Client
from migrations_playbook.rehearsal.traffic.crew import file_books
from migrations_playbook.rehearsal.traffic.rows import RowFactory
from migrations_playbook.rehearsal.traffic.stamps import choose_stamp
from migrations_playbook.rehearsal.traffic.witness import Witness
from migrations_playbook.rehearsal.verdict import Verdict
from migrations_playbook.replacement import Replacement
from migrations_playbook.shadow import Shadow
from migrations_playbook.swap.play import swap
from tests.fixtures.database import Database
from tests.fixtures.models_conversions import (
    ADDRESSES,
    REFERENCES,
    SIZES,
    Address,
    Reference,
    Size,
)
from tests.fixtures.models_zoo import MODELS, UUIDS, CompositeKey, UuidKey, expand, fill
from tests.fixtures.tickets import past_the_triggers

ROWS, REQUESTS = 20, 60
SHAPES = [each for each in MODELS if each is not CompositeKey]


@contextmanager
def client_of(database: Database, replacement: Replacement) -> Iterator[tuple[Audit, Client]]:
    """Within this context there is a client of a table, which has made its first requests."""
    model = replacement.model
    RowFactory(model, replacement, "default", None).insert(ROWS - 3)
    declared = replacement.declaration
    stamp = choose_stamp(model, None, {declared.live, declared.shadow})
    with database.connect(autocommit=True) as connection:
        audit = Audit(
            connection, AuditedColumns.read(replacement, model, stamp), plot_of(replacement)
        )
        assert audit.open() == ROWS
        script = Script(replacement.label, declared.shadow, stamp=stamp)
        client = Client(model, script, replacement, "default", audit.draw_keys(10))
        make_requests(client)
        fill(replacement)
        audit.filled = time.monotonic()
        yield audit, client


@contextmanager
def books_of(database: Database, replacement: Replacement) -> Iterator[tuple[Audit, Client]]:
    """Within this context one client has been at work on a table, before a swap and after it."""
    with client_of(database, replacement) as (audit, client):
        columns = audit.columns
        with Witness(database.url, columns.table, columns.live, columns.shadow) as witness:
            for _ in swap(replacement, using="default"):
                pass
        audit.enter_exchanges(witness.exchanges)
        make_requests(client)
        file_books(client)
        yield audit, client


def make_requests(client: Client) -> None:
    assert {client.request()[1] for _ in range(REQUESTS)} == {""}


def violations(audit: Audit) -> set[str]:
    audit.balance()
    checks = audit.read_checks(rows=ROWS)
    return {name for name, number in checks.items() if number}


@pytest.mark.parametrize("model", SHAPES, ids=lambda model: model.__name__)
def test_they_balance_on_a_table_of_any_shape(
    model: type[models.Model], database: Database
) -> None:
    with books_of(database, expand(model, MODELS[model])) as (audit, client):
        assert audit.is_swapped()
        assert client.books.told
        assert client.books.wrote
        assert client.books.created
        assert violations(audit) == set()


@pytest.mark.parametrize(
    ("sabotage", "seen"),
    [
        ("UPDATE zoo_uuid_key SET note = 'other' WHERE id::text = ANY (%s)", {"lost_writes"}),
        ("DELETE FROM zoo_uuid_key WHERE id::text = ANY (%s)", {"lost_rows", "lost_writes"}),
        (
            "UPDATE zoo_uuid_key SET token = gen_random_uuid() WHERE id::text = ANY (%s)",
            {"told_otherwise"},
        ),
        (
            """INSERT INTO zoo_uuid_key (id, token, note)
               SELECT gen_random_uuid(), gen_random_uuid(), '' FROM unnest(%s::text[])""",
            {"duplicated_rows"},
        ),
        (
            """INSERT INTO rehearsal.missed
               SELECT key, answered, answered FROM rehearsal.told WHERE key = ANY (%s)""",
            {"unexplained_misses"},
        ),
    ],
)
def test_what_is_wrong_is_seen(database: Database, sabotage: str, seen: set[str]) -> None:
    with books_of(database, expand(UuidKey, UUIDS)) as (audit, client):
        audit.connection.execute(sabotage, [list(client.books.wrote)])
        assert seen <= violations(audit)


def test_a_leaked_value_under_the_live_name_is_seen(database: Database) -> None:
    with books_of(database, expand(UuidKey, UUIDS)) as (audit, _):
        # As the swap left the row, but for its triggers, which would not let this happen.
        past_the_triggers(database, "UPDATE zoo_uuid_key SET token = new_token")
        assert violations(audit) >= {"unrotated_rows", "leaked_values", "told_otherwise"}


@pytest.mark.parametrize(
    ("model", "shadow"), [(Size, SIZES), (Address, ADDRESSES), (Reference, REFERENCES)]
)
def test_they_balance_on_a_conversion(
    model: type[models.Model], shadow: Shadow, database: Database
) -> None:
    with books_of(database, expand(model, shadow)) as (audit, client):
        assert audit.is_swapped()
        assert {role for _, role, *_ in client.books.written} == {"live", "shadow"}
        assert {role for _, role, *_ in client.books.told} == {"live", "shadow"}
        assert violations(audit) == set()


@pytest.mark.parametrize(
    ("sabotage", "seen"),
    [
        # The new column has the live name by now.
        ("UPDATE zoo_size SET size_big = size_big + 1", {"out_of_step", "lost_writes"}),
        ("UPDATE zoo_size SET size = size + 1, size_big = size_big + 1", {"lost_writes"}),
        ("UPDATE rehearsal.told SET value = '-1' WHERE role = 'shadow'", {"told_otherwise"}),
        ("UPDATE rehearsal.told SET value = NULL WHERE role = 'live'", {"told_otherwise"}),
    ],
)
def test_what_is_wrong_with_a_conversion_is_seen(
    database: Database, sabotage: str, seen: set[str]
) -> None:
    with books_of(database, expand(Size, SIZES)) as (audit, _):
        past_the_triggers(database, sabotage)
        assert violations(audit) == seen


def test_triggers_that_are_disabled_half_way_fail_the_verdict(database: Database) -> None:
    with client_of(database, expand(Size, SIZES)) as (audit, client):
        database.run("ALTER TABLE zoo_size DISABLE TRIGGER USER")
        make_requests(client)
        file_books(client)
        audit.balance()
        verdict = Verdict(max_added_ms=5, checks=audit.read_checks(rows=ROWS))
    assert not verdict.passed
    assert set(verdict.failed_checks) == {"out_of_step", "told_otherwise"}


def test_a_row_without_a_value_is_found_by_its_key(database: Database) -> None:
    database.run(
        "CREATE TABLE zoo_uuid_key (id uuid PRIMARY KEY, token uuid, new_token uuid, note text)"
    )
    database.run(
        "INSERT INTO zoo_uuid_key (id) SELECT gen_random_uuid() FROM generate_series(1, 5)"
    )
    with psycopg.connect(database.url, autocommit=True) as connection:
        replacement = Replacement(UuidKey, UUIDS)
        columns = AuditedColumns.read(replacement, UuidKey, "note")
        audit = Audit(connection, columns, plot_of(replacement))
        audit.open()
        script = Script("zoo.UuidKey", "new_token")
        client = Client(UuidKey, script, replacement, "default", audit.draw_keys(5))
        for _ in range(10):
            client.look_up()
        file_books(client)
        audit.balance()
        assert not any(audit.read_checks(rows=5).values())


@pytest.mark.parametrize("model", SHAPES, ids=lambda model: model.__name__)
def test_a_live_value_that_nobody_gives_is_drawn(
    model: type[models.Model], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacement = expand(model, MODELS[model])
    monkeypatch.setattr(model._meta.get_field("token"), "default", models.NOT_PROVIDED)
    factory = RowFactory(model, replacement, "default", None)
    factory.insert(10)
    assert model._default_manager.exclude(token=None).count() == 13
    assert len({factory.read_fields()["token"] for _ in range(600)}) == 600
