"""What either release writes, the other column follows; and only where its source has changed."""

from __future__ import annotations

import pytest

from migrations_playbook.replacement import Replacement
from tests.fixtures.another_type import disagreements, type_of
from tests.fixtures.database import Database, wait_until_blocked
from tests.fixtures.models_conversions import ADDRESSES, SIZES, Address, Size, sizes_of
from tests.fixtures.models_zoo import expand, fill, play


@pytest.fixture
def sizes(empty_database: Database) -> Replacement:
    return expand(Size, SIZES)


def test_the_other_column_follows_what_either_release_writes(
    empty_database: Database, sizes: Replacement
) -> None:
    fill(sizes)
    write = empty_database.run
    write("UPDATE zoo_size SET size = 5 WHERE id = 1")
    write("UPDATE zoo_size SET size_big = 6 WHERE id = 2")
    write("UPDATE zoo_size SET note = 'read' WHERE id = 3")
    write("INSERT INTO zoo_size (size, note) VALUES (7, '')")
    write("INSERT INTO zoo_size (size_big, note) VALUES (8, '')")
    write("INSERT INTO zoo_size (size, size_big, note) VALUES (9, 9, '')")
    rows = empty_database.fetch("SELECT size, size_big FROM zoo_size ORDER BY id")
    assert rows == [(5, 5), (6, 6), (1, 1), (7, 7), (8, 8), (9, 9)]


def test_an_exchange_and_its_revert_keep_the_columns_in_step(
    empty_database: Database, sizes: Replacement
) -> None:
    fill(sizes)
    with empty_database.connect(autocommit=True) as old:
        # A session that has run the trigger's function before.
        old.execute("UPDATE zoo_size SET size = 5 WHERE id = 1")
        play(sizes)
        assert type_of(empty_database, "zoo_size", "size") == "bigint"
        old.execute("UPDATE zoo_size SET size = 10 WHERE id = 1")
        old.execute("UPDATE zoo_size SET size_big = 11 WHERE id = 2")
        assert sizes_of(empty_database, 1) == (10, 10)
        assert sizes_of(empty_database, 2) == (11, 11)
        play(sizes, revert=True)
        assert type_of(empty_database, "zoo_size", "size") == "integer"
        old.execute("UPDATE zoo_size SET size = 12 WHERE id = 1")
        assert sizes_of(empty_database, 1) == (12, 12)


def test_two_releases_at_once_leave_the_row_in_step(
    empty_database: Database, sizes: Replacement
) -> None:
    """The second update waits for the first, and sees the row that the first has left."""
    fill(sizes)
    with empty_database.connect() as old, empty_database.connect(autocommit=True) as new:
        old.execute("UPDATE zoo_size SET size = 5 WHERE id = 1")
        new.pgconn.send_query(b"UPDATE zoo_size SET size_big = 6, note = 'new' WHERE id = 1")
        wait_until_blocked(empty_database, new.info.backend_pid, by=old.info.backend_pid)
        old.execute("UPDATE zoo_size SET note = 'old' WHERE id = 1")
        old.commit()
        while new.pgconn.get_result():
            pass
    assert sizes_of(empty_database, 1) == (6, 6)


def test_the_four_cases_are_those_of_the_page(empty_database: Database) -> None:
    addresses = expand(Address, ADDRESSES)
    fill(addresses)
    for swapped, begin, expected in (
        (
            False,
            ("Ann@x.org", "ann@x.org"),
            [
                ("Ann@x.org", "ann@x.org"),
                ("Bob@x.org", "bob@x.org"),
                ("cy@x.org", "cy@x.org"),
                ("Dee@x.org", "dee@x.org"),
            ],
        ),
        (
            True,
            ("ann@x.org", "Ann@x.org"),
            [
                ("ann@x.org", "Ann@x.org"),
                ("Bob@x.org", "Bob@x.org"),
                ("cy@x.org", "cy@x.org"),
                ("Dee@x.org", "Dee@x.org"),
            ],
        ),
    ):
        if swapped:
            play(addresses)
        for written, both in zip(
            (
                "note = 'read'",
                "email = 'Bob@x.org'",
                "email_lower = 'cy@x.org'",
                "email = 'Dee@x.org', email_lower = 'dee@x.org'",
            ),
            expected,
            strict=True,
        ):
            empty_database.run(
                "UPDATE zoo_address SET email = %s, email_lower = %s WHERE id = 1", *begin
            )
            empty_database.run(f"UPDATE zoo_address SET {written} WHERE id = 1")  # noqa: S608 - a test's table
            found = "SELECT email, email_lower FROM zoo_address WHERE id = 1"
            assert empty_database.fetch(found) == [both]
    assert disagreements(addresses) == 1
