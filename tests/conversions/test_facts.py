"""What PostgreSQL does, and a sync must get right: each fact is a test."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import NotSupportedError, connections
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.models import F, Value
from django.db.models.functions import Coalesce, Replace

from migrations_playbook.backfill.events import Finished
from migrations_playbook.backfill.play import backfill
from migrations_playbook.backfill.unconverted import list_unconverted
from migrations_playbook.errors import Refused, VerificationFailed, WrongPhase
from migrations_playbook.phase import Phase, read_state
from migrations_playbook.replacement import Replacement
from migrations_playbook.shadow import Shadow
from migrations_playbook.status import read as read_status
from migrations_playbook.swap.play import mend, verify
from migrations_playbook.swap.reports import Converted
from tests.fixtures.another_type import disagreements, exchange
from tests.fixtures.database import Database, wait_until
from tests.fixtures.models_conversions import (
    ADDRESSES,
    MOMENTS,
    PRICES,
    REFERENCES,
    SECRETS,
    SIZES,
    Address,
    Label,
    Moment,
    Price,
    Reference,
    Secret,
    Size,
    sizes_of,
)
from tests.fixtures.models_zoo import expand, fill
from tests.fixtures.tickets import past_the_triggers

GOOD = "8a8f8a52-0000-4000-8000-000000000002"


def filling(replacement: Replacement) -> Finished:
    *_, last = backfill(replacement, using="default")
    assert isinstance(last, Finished)
    return last


@pytest.fixture
def sizes(empty_database: Database) -> Replacement:
    return expand(Size, SIZES)


def add_trigger(database: Database, name: str, body: str) -> None:
    database.run(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {body} RETURN NEW; END $$"
    )
    database.run(
        f"CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON zoo_size "
        f"FOR EACH ROW EXECUTE FUNCTION {name}()"
    )


def test_the_sync_sees_what_an_earlier_trigger_has_made_of_the_row(
    empty_database: Database, sizes: Replacement
) -> None:
    fill(sizes)
    add_trigger(empty_database, "a_doubles", "NEW.size := NEW.size * 2;")
    empty_database.run("INSERT INTO zoo_size (size, note) VALUES (21, '')")
    assert sizes_of(empty_database, 4) == (42, 42)


def test_a_later_trigger_that_writes_the_columns_is_named(
    empty_database: Database, sizes: Replacement
) -> None:
    add_trigger(empty_database, "zz_innocent", "NEW.note := 'seen';")
    fill(sizes)
    add_trigger(empty_database, "zz_doubles", "NEW.size := NEW.size * 2;")
    with pytest.raises(WrongPhase, match=r'trigger "zz_doubles" on public.zoo_size fires after'):
        exchange(sizes)


def test_a_save_of_every_field_touches_only_what_has_changed(
    empty_database: Database, sizes: Replacement
) -> None:
    fill(sizes)
    stale = Size._default_manager.get(id=1)
    empty_database.run("UPDATE zoo_size SET size = 7 WHERE id = 2")
    fresh = Size._default_manager.get(id=2)
    fresh.note = "saved"
    fresh.save()
    assert sizes_of(empty_database, 2) == (7, 7)
    stale.size = 9
    stale.save()
    assert sizes_of(empty_database) == (9, 9)
    assert disagreements(sizes) == 0


def test_a_stale_save_of_a_row_that_was_not_filled_yet_undoes_nothing(
    empty_database: Database, sizes: Replacement
) -> None:
    stale = Size._default_manager.get(id=1)
    assert stale.size_big is None
    fill(sizes)
    stale.note = "saved"
    stale.save()
    assert sizes_of(empty_database) == (1, 1)


def test_of_two_values_that_do_not_agree_the_side_with_the_name_wins_and_it_is_counted(
    empty_database: Database, sizes: Replacement
) -> None:
    fill(sizes)
    empty_database.run("UPDATE zoo_size SET size = 5, size_big = 6 WHERE id = 1")
    assert sizes_of(empty_database) == (5, 5)
    exchange(sizes)
    empty_database.run("UPDATE zoo_size SET size = 7, size_big = 8 WHERE id = 1")
    assert sizes_of(empty_database) == (7, 7)
    empty_database.run("INSERT INTO zoo_size (size, size_big, note) VALUES (3, 4, '')")
    assert sizes_of(empty_database, 4) == (3, 3)
    assert disagreements(sizes) == 3


def test_an_upsert_and_a_copy_are_followed_too(
    empty_database: Database, sizes: Replacement
) -> None:
    fill(sizes)
    empty_database.run(
        "INSERT INTO zoo_size (id, size, note) VALUES (1, 8, ''), (9, 9, '') "
        "ON CONFLICT (id) DO UPDATE SET size = EXCLUDED.size"
    )
    with (
        empty_database.connect() as session,
        session.cursor().copy("COPY zoo_size (id, size_big, note) FROM STDIN") as copy,
    ):
        copy.write_row((10, 10, ""))
    assert sizes_of(empty_database) == (8, 8)
    assert sizes_of(empty_database, 9) == (9, 9)
    assert sizes_of(empty_database, 10) == (10, 10)


def test_what_has_not_changed_is_never_made_again(empty_database: Database) -> None:
    """Lower() loses the case: made down again, each save would change the address."""
    addresses = expand(Address, ADDRESSES)
    empty_database.run("UPDATE zoo_address SET email = 'Ann@Example.org' WHERE id = 1")
    fill(addresses)
    both = "SELECT email, email_lower FROM zoo_address WHERE id = 1"
    empty_database.run("UPDATE zoo_address SET note = 'saved' WHERE id = 1")
    assert empty_database.fetch(both) == [("Ann@Example.org", "ann@example.org")]
    exchange(addresses)
    empty_database.run("UPDATE zoo_address SET note = 'again' WHERE id = 1")
    assert empty_database.fetch(both) == [("ann@example.org", "Ann@Example.org")]
    assert exchange(addresses, revert=True).passed


def test_a_source_that_may_be_null_is_done_where_it_is_null(empty_database: Database) -> None:
    addresses = expand(Address, ADDRESSES)
    empty_database.run("UPDATE zoo_address SET email = 'Ann@Example.org' WHERE id = 1")
    finished = filling(addresses)
    assert (finished.complete, finished.rows_remaining) == (True, 0)
    empty_database.run("UPDATE zoo_address SET email = NULL WHERE id = 1")
    assert empty_database.value("SELECT count(email_lower) FROM zoo_address") == 0


def test_a_value_that_the_newer_column_rounds_is_done_and_agrees(empty_database: Database) -> None:
    prices = expand(Price, PRICES)
    assert filling(prices).rows_remaining == 0
    empty_database.run("UPDATE zoo_price SET price = 2.3456, price_short = 2.35 WHERE id = 1")
    rows = empty_database.fetch("SELECT price_short::text FROM zoo_price ORDER BY id")
    assert rows == [("2.35",), ("1.23",), ("1.23",)]
    assert disagreements(prices) == 0
    assert exchange(prices).passed


def test_a_percent_sign_of_the_way_up_is_that_sign_wherever_rows_are_counted(
    empty_database: Database,
) -> None:
    said = Replace(Coalesce("code", Value("")), Value("%"), Value(" per cent"))
    declared = Shadow(live="code", shadow="code_text", up=said, down=F("code_text"))
    labels = expand(Label, declared)
    empty_database.run("UPDATE zoo_label SET code = '5%'")
    finished = filling(labels)
    assert (finished.complete, finished.rows_remaining) == (True, 0)
    (status,) = read_status("default", labels)
    assert (status.phase, status.rows_remaining) == (Phase.FILLED, 0)
    assert exchange(labels).passed
    assert empty_database.fetch("SELECT DISTINCT code FROM zoo_label") == [("5 per cent",)]


def test_every_session_makes_the_same_value(empty_database: Database) -> None:
    moments = expand(Moment, MOMENTS)
    with empty_database.connect(autocommit=True) as session:
        session.execute("SET timezone = 'Asia/Tokyo'")
        session.execute("SET datestyle = 'German, DMY'")
        session.execute("UPDATE zoo_moment SET at = '2026-02-01 12:00+00' WHERE id = 1")
    connections["default"].cursor().execute("SET timezone = 'America/New_York'")
    empty_database.run("UPDATE zoo_moment SET at = '2026-02-01 12:00+00' WHERE id = 2")
    fill(moments)
    rows = empty_database.fetch("SELECT DISTINCT at_text FROM zoo_moment WHERE id < 3")
    assert rows == [("2026-02-01 12:00:00+00",)]


def test_a_value_that_cannot_be_converted_fails_no_write_and_stops_no_backfill(
    empty_database: Database,
) -> None:
    references = expand(Reference, REFERENCES)
    with empty_database.connect() as session:
        session.execute("ALTER TABLE zoo_reference DISABLE TRIGGER USER")
        session.execute(
            "INSERT INTO zoo_reference (token, note) SELECT CASE WHEN i % 50 = 0 THEN 'secret ' "
            "ELSE '8a8f8a52-0000-4000-8000-' END || to_char(i, 'FM000000000000'), '' "
            "FROM generate_series(1, 1000) i"
        )
        session.execute("ALTER TABLE zoo_reference ENABLE TRIGGER USER")
    empty_database.run("UPDATE zoo_reference SET token = 'no uuid' WHERE id = 1")
    finished = filling(references)
    assert (finished.rows_remaining, finished.valueless) == (21, 21)
    filled = "SELECT count(*) FROM zoo_reference WHERE token_uuid::text = token"
    assert empty_database.value(filled) == 1003 - 21
    keys = list_unconverted(connections["default"], references)
    assert len(keys) == 21
    assert keys[:2] == ["1", "53"]
    with pytest.raises(WrongPhase, match=r"21 rows of zoo\.Reference are not converted yet"):
        exchange(references)
    empty_database.run("UPDATE zoo_reference SET token = %s WHERE token_uuid IS NULL", GOOD)
    assert exchange(references).passed


def test_rows_that_would_collide_are_reported_by_their_keys_before_an_index_stands(
    empty_database: Database,
) -> None:
    addresses = expand(Address, ADDRESSES)
    for pk, email in ((1, "Ann@Example.org"), (2, "ann@example.org"), (3, "ANN@example.org")):
        empty_database.run("UPDATE zoo_address SET email = %s WHERE id = %s", email, pk)
    fill(addresses)
    with pytest.raises(Refused, match=r"1 groups of rows of zoo.Address .* keys: 1 and 2 and 3"):
        exchange(addresses)
    assert empty_database.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    # Release N still writes what will have to be changed.
    empty_database.run("INSERT INTO zoo_address (email, note) VALUES ('ann@EXAMPLE.org', '')")


def test_a_value_that_does_not_fit_leaves_null_and_ends_the_way_back(
    empty_database: Database, sizes: Replacement
) -> None:
    fill(sizes)
    exchange(sizes)
    empty_database.run("UPDATE zoo_size SET size = 5000000000 WHERE id = 1")
    empty_database.run("INSERT INTO zoo_size (size, note) VALUES (6000000000, '')")
    assert sizes_of(empty_database) == (5000000000, None)
    with pytest.raises(Refused, match=r"2 rows of zoo\.Size have a size that has no way back"):
        exchange(sizes, revert=True)
    assert list_unconverted(connections["default"], sizes) == ["1", "4"]
    *_, verified = verify(sizes, using="default")
    assert isinstance(verified, Converted)
    assert (verified.passed, verified.no_way_back) == (True, 2)
    empty_database.run("UPDATE zoo_size SET size = 5 WHERE size > 5")
    assert exchange(sizes, revert=True).passed
    assert sizes_of(empty_database, 4) == (5, 5)


def test_without_a_way_down_the_revert_ends_with_the_first_write(empty_database: Database) -> None:
    secrets = expand(Secret, SECRETS)
    fill(secrets)
    assert exchange(secrets).passed
    assert exchange(secrets, revert=True).passed
    exchange(secrets)
    empty_database.run("UPDATE zoo_secret SET secret = 'a digest' WHERE id = 2")
    assert empty_database.value("SELECT digest FROM zoo_secret WHERE id = 2") is None
    with pytest.raises(Refused, match=r"1 rows of zoo\.Secret .* There is no way down"):
        exchange(secrets, revert=True)


def test_rows_written_past_the_triggers_are_found_and_brought_in_step(
    empty_database: Database, sizes: Replacement
) -> None:
    fill(sizes)
    past_the_triggers(empty_database, "UPDATE zoo_size SET size = 9 WHERE id = 1")
    exchange(sizes)
    assert sizes_of(empty_database) == (9, 9)
    past_the_triggers(empty_database, "UPDATE zoo_size SET size = 10 WHERE id = 1")
    with pytest.raises(VerificationFailed, match="1 out of step"):
        list(verify(sizes, using="default"))
    *_, mended = mend(sizes, using="default")
    assert isinstance(mended, Converted)
    assert mended.passed
    assert sizes_of(empty_database) == (10, 10)


def test_a_trigger_that_is_missing_while_exchanged_is_named_and_put_back(
    empty_database: Database, sizes: Replacement
) -> None:
    fill(sizes)
    exchange(sizes)
    empty_database.run(f"DROP TRIGGER {sizes.trigger_names[1]} ON zoo_size")
    problem = read_state(connections["default"], sizes).problem
    assert problem is not None
    assert "the columns fall out of step" in problem
    list(mend(sizes, using="default"))
    empty_database.run("UPDATE zoo_size SET size = 7 WHERE id = 1")
    assert sizes_of(empty_database) == (7, 7)


def test_the_backfill_and_other_columns_never_call_the_function(
    empty_database: Database, sizes: Replacement
) -> None:
    name = empty_database.name
    empty_database.run(f"ALTER DATABASE {name} SET track_functions = 'pl'")
    connections["default"].close()
    fill(sizes)
    empty_database.run("UPDATE zoo_size SET note = 'read', size = size")
    calls = "SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = %s"
    assert empty_database.value(calls, sizes.trigger_names[1]) == 0
    empty_database.run("UPDATE zoo_size SET size = 3")
    wait_until(
        lambda: empty_database.value(calls, sizes.trigger_names[1]) == 3,
        "PostgreSQL 14 gathers them a little later",
    )


def test_the_new_column_has_statistics_when_it_becomes_live(
    empty_database: Database, sizes: Replacement
) -> None:
    fill(sizes)
    exchange(sizes)
    known = "SELECT count(*) FROM pg_stats WHERE tablename = 'zoo_size' AND attname = 'size'"
    assert empty_database.value(known) == 1


@pytest.mark.parametrize(
    ("options", "prepares"),
    [
        ({"server_side_binding": True, "prepare_threshold": 0}, True),
        ({"server_side_binding": True}, False),
        ({"prepare_threshold": 0}, False),
    ],
)
def test_what_a_session_has_prepared_fails_after_the_exchange_until_a_rollback(
    empty_database: Database, sizes: Replacement, options: dict[str, Any], *, prepares: bool
) -> None:
    """The check W048 says so. Django's own cursor prepares nothing, whatever is set."""
    fill(sizes)
    settings = connections["default"].settings_dict
    session = DatabaseWrapper({**settings, "OPTIONS": options}, alias="default")

    def read() -> None:
        with session.cursor() as cursor:
            cursor.execute("SELECT size FROM zoo_size WHERE id = %s", [1])
            cursor.fetchall()

    try:
        for _ in range(3):
            read()
        exchange(sizes)
        if prepares:
            for _ in range(2):
                with pytest.raises(NotSupportedError, match="must not change result type"):
                    read()
            session.set_autocommit(autocommit=False)
            with pytest.raises(NotSupportedError):
                read()
            session.rollback()
        read()
    finally:
        session.close()
