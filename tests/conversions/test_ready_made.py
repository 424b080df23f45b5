# ruff: noqa: S608 - the tables are the tests' own
"""The conversions of the how-to page, each from its declaration to the end of the way back."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from migrations_playbook.errors import Refused
from migrations_playbook.expand.checks.register import declaration_errors
from migrations_playbook.swap.play import verify
from migrations_playbook.swap.reports import Converted
from tests.fixtures.another_type import exchange, type_of
from tests.fixtures.database import Database
from tests.fixtures.models_ready_made import (
    CONVERSIONS,
    DURATIONS,
    Digested,
    Insensitive,
    Lasting,
    Ready,
)
from tests.fixtures.models_zoo import expand, fill
from tests.fixtures.tickets import past_the_triggers

CASE_INSENSITIVE = (
    "CREATE COLLATION case_insensitive "
    "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
)


ALIEN = (
    "SET timezone = 'Asia/Tokyo'; SET datestyle = 'German, DMY'; SET intervalstyle = 'iso_8601'; "
    "SET extra_float_digits = -10; SET bytea_output = 'escape'; SET search_path = hostile, public"
)


def make_collation(database: Database, ready: Ready) -> None:
    """Make what only one of the conversions needs, and not every server has."""
    if ready.model is Insensitive:
        if database.value("SELECT count(*) FROM pg_collation WHERE collprovider = 'i'") < 2:
            pytest.skip("this build of PostgreSQL has no ICU, and so no such collation")
        database.run(CASE_INSENSITIVE)


def write(database: Database, ready: Ready, pk: int, column: str, value: str) -> None:
    """A write of a release's, by SQL."""
    table = ready.model._meta.db_table
    database.run(f"UPDATE {table} SET {column} = %s WHERE id = %s", value, pk)


def save(ready: Ready, pk: int, value: str) -> None:
    """A write of release N's, by Django's `save()`."""
    row: Any = ready.model._default_manager.defer("value_new").get(pk=pk)
    row.value = row._meta.get_field("value").to_python(value)
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE %s", [ready.zone])
        row.save()
        cursor.execute("SET TIME ZONE 'UTC'")


def assert_rows(database: Database, ready: Ready, expected: dict[int, tuple[str, str]]) -> None:
    """Compare the texts of rows, the column under the live name first."""
    rows = database.fetch(
        f"SELECT id, value::text, value_new::text FROM {ready.model._meta.db_table} "
        "WHERE id = ANY (%s)",
        list(expected),
    )
    assert {pk: (live, shadow) for pk, live, shadow in rows} == expected


@pytest.mark.parametrize("ready", CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_ready_made_conversion_is_kept_in_step_there_and_back(
    empty_database: Database, ready: Ready
) -> None:
    database, model, (one, two, three, four) = (
        empty_database,
        ready.model,
        ready.pairs,
    )
    make_collation(database, ready)
    database.run(f"ALTER DATABASE {database.name} SET timezone = 'UTC'")
    connection.close()
    assert list(declaration_errors(model, ready.shadow)) == []
    replacement = expand(model, ready.shadow)
    write(database, ready, 1, "value", one[0])
    fill(replacement)
    save(ready, 2, two[0])
    # A release that knows both writes the newer one, where there is a way from there.
    if ready.shadow.down is None:
        save(ready, 3, three[0])
    else:
        write(database, ready, 3, "value_new", four[1])
        write(database, ready, 3, "value_new", three[1])
    assert_rows(database, ready, {1: one, 2: two, 3: three})

    assert exchange(replacement).passed
    assert type_of(database, model._meta.db_table, "value") == ready.types[1]
    assert_rows(database, ready, {1: one[::-1], 2: two[::-1], 3: three[::-1]})
    if ready.shadow.down is not None:
        write(database, ready, 3, "value", four[1])
        assert_rows(database, ready, {3: four[::-1]})
        save(ready, 3, three[0])
        write(database, ready, 2, "value_new", two[0])
    *_, verified = verify(replacement, using="default")
    assert isinstance(verified, Converted)
    assert (verified.passed, verified.no_way_back) == (True, 0)

    assert exchange(replacement, revert=True).passed
    assert type_of(database, model._meta.db_table, "value") == ready.types[0]
    assert_rows(database, ready, {1: one, 2: two, 3: three})
    assert exchange(replacement).passed
    if ready.stranded is not None:
        write(database, ready, 3, "value", ready.stranded)
        with pytest.raises(Refused, match=r"1 rows of zoo\.\w+ have a value that has no way back"):
            exchange(replacement, revert=True)
        assert_rows(database, ready, {1: one[::-1], 2: two[::-1]})


@pytest.mark.parametrize("ready", CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_ready_made_conversion_withstands_sessions_repeated_saves_and_what_passes_triggers_by(
    empty_database: Database, ready: Ready
) -> None:
    database, (one, two, three, _) = empty_database, ready.pairs
    make_collation(database, ready)
    database.run("CREATE SCHEMA hostile")
    for name, kind in (("sha256(bytea)", "bytea"), ("timezone(text, timestamp)", "timestamptz")):
        database.run(
            f"CREATE FUNCTION hostile.{name} RETURNS {kind} LANGUAGE sql AS 'SELECT NULL::{kind}'"
        )
    replacement = expand(ready.model, ready.shadow)
    fill(replacement)
    table = ready.model._meta.db_table
    with database.connect(autocommit=True) as alien:
        alien.execute(ALIEN)
        for pk, (value, _) in enumerate((one, two, three), start=1):
            alien.execute(f"UPDATE {table} SET value = %s WHERE id = %s", [value, pk])
    database.run(f"ALTER DATABASE {database.name} SET timezone = 'UTC'")
    connection.close()
    for note in ("saved", "once more"):
        for row in ready.model._default_manager.all():
            row.note = note  # type: ignore[attr-defined]
            row.save()
    assert_rows(database, ready, {1: one, 2: two, 3: three})
    # What comes past the triggers is brought in step by the swap: the live value is kept.
    database.run(f"DELETE FROM {table} WHERE id = 2")
    past_the_triggers(database, f"UPDATE {table} SET value = '{two[0]}' WHERE id = 1")
    assert exchange(replacement).passed
    assert_rows(database, ready, {1: two[::-1], 3: three[::-1]})


def test_a_change_that_the_type_calls_none_is_followed_too(empty_database: Database) -> None:
    replacement = expand(Lasting, DURATIONS)
    fill(replacement)
    both = "SELECT value::text, value_new::text FROM zoo_lasting WHERE id = 1"
    for duration in ("30 days", "1 mon"):
        empty_database.run("UPDATE zoo_lasting SET value = %s WHERE id = 1", duration)
        assert empty_database.fetch(both) == [(duration, duration)]
    exchange(replacement)
    empty_database.run("UPDATE zoo_lasting SET value_new = '30 days' WHERE id = 1")
    assert empty_database.fetch(both) == [("30 days", "30 days")]


@pytest.mark.parametrize("knows_both", [True, False])
def test_a_save_from_before_the_exchange_brings_no_secret_back(
    empty_database: Database, *, knows_both: bool
) -> None:
    ready = CONVERSIONS["a secret -> its digest"]
    replacement = expand(Digested, ready.shadow)
    fill(replacement)
    rows: Any = (
        Digested._default_manager if knows_both else Digested._default_manager.defer("value_new")
    )
    both = "SELECT value, value_new, note FROM zoo_digested WHERE id = 1"
    ((secret, digest, _),) = empty_database.fetch(both)
    stale = rows.get(pk=1)
    exchange(replacement)
    fresh = rows.get(pk=1)
    stale.note = "saved"
    stale.save()
    assert empty_database.fetch(both) == [(digest, secret, "saved")]
    exchange(replacement, revert=True)
    fresh.save()
    assert empty_database.fetch(both) == [(secret, digest, "")]
