"""The backfill beside a live site, stopped by every means there is, and resumed."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import models
from django.db.models import Value
from django.db.models.functions import Cast

from migrations_playbook import Shadow
from migrations_playbook.backfill.play import backfill
from migrations_playbook.errors import PlaybookError
from migrations_playbook.replacement import Replacement
from tests.fixtures.database import Database, wait_until
from tests.fixtures.nursery import Program
from tests.fixtures.tickets import add_old_tickets, changed, fill, nulls, remember
from tickets.models import Ticket

# Enough that, a row a batch, nobody gets to the end before it can be stopped.
MANY = 20_000


def test_it_fills_every_row_and_says_so_in_json(database: Database) -> None:
    add_old_tickets(database, 25)
    remember(database, "token")
    result = fill("--batch-size", "10")
    assert (result["rows_filled"], result["rows_remaining"]) == (25, 0)
    assert {"seconds", "rows_per_second", "batches", "batch_size"} <= result.keys()
    assert result["batches"] >= 3
    assert database.fetch(
        "SELECT count(DISTINCT new_token), bool_and(new_token <> token), "
        "bool_and(substr(new_token::text, 15, 1) = '4') FROM tickets_ticket"
    ) == [(25, True, True)]
    assert changed(database, "token") == 0


def test_on_an_empty_table_there_is_nothing_to_do(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    result = fill()
    assert (result["rows_filled"], result["rows_remaining"], result["batches"]) == (0, 0, 0)
    call_command("backfill_new_token")
    shown = capsys.readouterr().out
    assert "0 rows" in shown
    assert "swap_token_columns" in shown


def test_run_again_it_fills_nothing_twice(database: Database) -> None:
    add_old_tickets(database, 25)
    fill()
    remember(database, "new_token")
    assert fill()["rows_filled"] == 0
    assert changed(database, "new_token") == 0


def test_two_at_once_share_the_work(database: Database) -> None:
    add_old_tickets(database, 4000)
    both = [
        database.start("backfill_new_token", "--json", "--batch-size", "50"),
        database.start("backfill_new_token", "--json", "--batch-size", "50"),
    ]
    results = [json.loads(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(result["rows_filled"] for result in results) == 4000
    assert nulls(database) == 0


def test_it_goes_round_locked_rows_and_comes_back_for_them(database: Database) -> None:
    add_old_tickets(database, 20)
    with database.connect() as busy:
        busy.execute("SELECT FROM tickets_ticket WHERE id IN (1, 7, 20) FOR UPDATE")
        # At full duty, so that this test's own looks are no reason to say anything.
        process = database.start("backfill_new_token", "--batch-size", "5", "--duty", "100%")
        wait_until(lambda: nulls(database) == 3, "all but the locked rows are filled")
        # Piped, it says every few seconds what it does.
        line = process.stdout.readline()
        assert "17 / 20" in line
        assert "locked by others" in line
        assert "\x1b" not in line
        assert process.poll() is None
    _, complaint = process.communicate()
    assert (process.returncode, complaint) == (0, "")
    assert nulls(database) == 0


def test_it_blocks_no_insert_that_refers_to_a_row(database: Database) -> None:
    add_old_tickets(database, 1)
    database.run("CREATE TABLE scan (ticket bigint REFERENCES tickets_ticket (id))")
    with database.connect() as batch:
        batch.execute(
            "UPDATE tickets_ticket SET new_token = gen_random_uuid() WHERE new_token IS NULL"
        )
        with database.connect(options="-c lock_timeout=1s") as scanner:
            scanner.execute("INSERT INTO scan VALUES (1)")


def insert(session: psycopg.Connection[Any], n: int) -> None:
    session.execute("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")


def save_stale(session: psycopg.Connection[Any], n: int) -> None:
    session.execute(
        "UPDATE tickets_ticket SET redeemed_at = now(), new_token = NULL WHERE id = %s", [n * 7]
    )


def delete(session: psycopg.Connection[Any], n: int) -> None:
    session.execute("DELETE FROM tickets_ticket WHERE id = %s", [n * 5])


def insert_and_roll_back(session: psycopg.Connection[Any], n: int) -> None:
    with suppress(ZeroDivisionError), session.transaction():
        insert(session, n)
        save_stale(session, n + 1)
        raise ZeroDivisionError


@contextmanager
def working(
    database: Database, *writes: Callable[[psycopg.Connection[Any], int], None]
) -> Iterator[None]:
    """Writers that go on for as long as this lasts; every one has begun before it starts."""
    over = threading.Event()
    begun = threading.Barrier(len(writes) + 1)
    failed: list[str] = []

    def write(what: Callable[[psycopg.Connection[Any], int], None]) -> None:
        with database.connect(autocommit=True) as session:
            for n in range(1, 1_000_000):
                try:
                    what(session, n)
                except psycopg.Error as error:
                    failed.append(f"{what.__name__}: {error.diag.message_primary}")
                if n == 1:
                    begun.wait()
                if over.is_set():
                    return

    threads = [threading.Thread(target=write, args=[what]) for what in writes]
    for thread in threads:
        thread.start()
    begun.wait()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == []


def test_beside_writers_and_deleters_no_row_is_left_and_none_of_them_fails(
    database: Database,
) -> None:
    add_old_tickets(database, 5000)
    remember(database, "token")
    with working(database, insert, save_stale, delete, insert_and_roll_back):
        result = fill("--batch-size", "20")
    assert result["rows_remaining"] == 0
    assert nulls(database) == 0
    assert database.value("SELECT count(DISTINCT new_token) = count(*) FROM tickets_ticket") is True
    assert (
        database.value(
            "SELECT count(*) FROM memory.ticket w JOIN tickets_ticket t USING (id) "
            "WHERE w.token <> t.token"
        )
        == 0
    )


@contextmanager
def halted_half_way(database: Database) -> Iterator[tuple[Program, int]]:
    """A backfill that stands in the middle of a batch, with others behind and before it.

    Yields its process and its server process; at the end the way is free again.
    """
    add_old_tickets(database, MANY)
    process = database.start("backfill_new_token", "--json", "--batch-size", "1")
    wait_until(lambda: nulls(database) < MANY, "the first batches are committed")
    with database.connect() as gate:
        gate.execute("LOCK TABLE tickets_ticket IN SHARE MODE")
        wait_until(lambda: waiting_for_the_gate(database), "a batch stands before the gate")
        remember(database, "new_token")
        yield process, waiting_for_the_gate(database)


def waiting_for_the_gate(database: Database) -> int:
    """The server process of a batch that cannot go on; 0 when there is none."""
    found = database.fetch(
        "SELECT pid FROM pg_locks WHERE relation = 'tickets_ticket'::regclass "
        "AND mode = 'RowExclusiveLock' AND NOT granted"
    )
    return int(found[0][0]) if found else 0


def resume(database: Database) -> None:
    """Run it again, and see that it did the rest and nothing of the first part."""
    wait_until(
        lambda: (
            not database.value(
                "SELECT count(*) FROM pg_locks WHERE relation = 'tickets_ticket'::regclass"
            )
        ),
        "the first run's session is gone",
    )
    left = nulls(database)
    assert 0 < left < MANY
    assert changed(database, "new_token") == 0
    assert fill()["rows_filled"] == left
    assert nulls(database) == 0
    assert changed(database, "new_token") == 0
    assert database.value("SELECT count(DISTINCT new_token) FROM tickets_ticket") == MANY


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_lets_the_batch_finish_and_says_how_to_go_on(
    database: Database,
    number: signal.Signals,
    exit_code: int,
) -> None:
    with halted_half_way(database) as (process, _):
        half = nulls(database)
        process.send_signal(number)
    output, complaint = process.communicate()
    # A stop is what was asked for: no complaint.
    assert (process.returncode, complaint) == (exit_code, "")
    left = nulls(database)
    assert left < half, "the batch that was under way is kept"
    result = json.loads(output)
    assert result["rows_remaining"] == left
    assert f"{MANY - left:,} rows filled and kept, {left:,} are left" in result["stopped"]
    assert "Run the same command again" in result["stopped"]
    resume(database)


def test_a_stopped_backfill_ends_with_an_ordinary_line(database: Database) -> None:
    add_old_tickets(database, MANY)
    process = database.start("backfill_new_token", "--batch-size", "1")
    wait_until(lambda: nulls(database) < MANY, "it is at work")
    process.send_signal(signal.SIGINT)
    shown, complaint = process.communicate()
    assert (process.returncode, complaint) == (130, "")
    left = nulls(database)
    assert shown.splitlines()[-1] == (
        f"Stopped: {MANY - left:,} rows filled and kept, {left:,} are left. "
        "Run the same command again to go on."
    )


def test_the_second_signal_stops_at_once(database: Database) -> None:
    with halted_half_way(database) as (process, _):
        half = nulls(database)
        # Two of a kind that arrive together are one to the kernel; these are two.
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        # The gate is still shut: the batch cannot finish.
        output, complaint = process.communicate()
        assert nulls(database) == half
    assert process.returncode in (130, 143)
    assert complaint == ""
    result = json.loads(output)
    assert result["rows_remaining"] == half
    assert "Run the same command again" in result["stopped"]
    resume(database)


def test_after_a_kill_it_goes_on_from_the_first_null(database: Database) -> None:
    with halted_half_way(database) as (process, _):
        process.kill()
        process.communicate()
    resume(database)


def test_a_connection_that_the_server_ends_is_one_sentence(database: Database) -> None:
    with halted_half_way(database) as (process, _):
        half = nulls(database)

        def given_up() -> bool:
            """End whoever stands before the gate now: a lost worker is replaced some times."""
            database.run("SELECT pg_terminate_backend(%s)", waiting_for_the_gate(database))
            return process.poll() is not None

        wait_until(given_up, "it gives up")
        _, message = process.communicate()
        assert nulls(database) == half
    assert process.returncode == 75
    assert "connection to the server was lost" in message
    assert f"{MANY - half:,} rows were filled and kept" in message
    assert "Run the same command again" in message
    assert message.count("\n") == 1
    resume(database)


def test_a_value_expression_that_makes_nulls_is_refused(database: Database) -> None:
    nothing = Cast(Value(None), models.UUIDField())
    replacement = Replacement(Ticket, Shadow(live="token", shadow="new_token", value=nothing))
    add_old_tickets(database, 1)
    for trigger in replacement.declaration.triggers:
        database.run(trigger.compile(Ticket).install_sql)  # type: ignore[arg-type]
    with pytest.raises(PlaybookError, match="makes nulls"):
        list(backfill(replacement, using="default"))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own high-water mark is asked for")
def test_memory_does_not_grow_with_the_table(database: Database) -> None:
    peaks = []
    for rows in (20_000, 200_000):
        database.run("TRUNCATE tickets_ticket")
        add_old_tickets(database, rows)
        peaks.append(database.peak_kb("backfill_new_token"))
        assert nulls(database) == 0
    small, large = peaks
    assert large < small * 1.05
