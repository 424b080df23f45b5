"""Partitions that come while a swap is under way or after it, and writers that hold one."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from django.db import connection, connections, transaction

from migrations_playbook.errors import LockNotAvailable
from migrations_playbook.phase import Phase, read_state
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.exchange import Unprepared, exchange
from migrations_playbook.swap.gate import SwapRequest, pass_gate
from migrations_playbook.swap.play import swap
from migrations_playbook.swap.prepare import prepare
from migrations_playbook.swap.reports import Exchanged, Preparing
from tests.fixtures.database import Database, backend_pid, wait_until, wait_until_blocked
from tests.fixtures.models_partitioned import Levels, Ranges, expand, verified
from tests.fixtures.models_zoo import fill, play, tokens

# The old release's table, in an order of its own, with rows that were filled elsewhere.
ATTACHED = """
CREATE TABLE late (new_token uuid, number integer NOT NULL, token uuid NOT NULL,
    note text NOT NULL DEFAULT '', key integer NOT NULL);
INSERT INTO late (key, number, token, new_token)
    SELECT 30, number, gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 3) AS number;
ALTER TABLE by_range ATTACH PARTITION late FOR VALUES FROM (30) TO (40)"""
CREATED = "CREATE TABLE late PARTITION OF by_range FOR VALUES FROM (30) TO (40)"
INSERT = "INSERT INTO by_range (key, number, token) VALUES (31, 9, gen_random_uuid())"

arrivals = pytest.mark.parametrize("arrival", [CREATED, ATTACHED], ids=["created", "attached"])


def run(database: Database, script: str) -> None:
    for statement in script.split(";"):
        database.run(statement)


def indexes_of(database: Database, table: str) -> set[str]:
    """The definitions of a table's indexes, without their names."""
    return {
        definition.split(" USING ", 1)[1]
        for (definition,) in database.fetch(
            "SELECT indexdef FROM pg_indexes WHERE tablename = %s", table
        )
    }


@arrivals
def test_a_partition_that_comes_between_the_preparation_and_the_exchange_is_exchanged_too(
    arrival: str, database: Database
) -> None:
    replacement = expand(database, Ranges)
    fill(replacement)
    inventory = pass_gate(SwapRequest(connection, replacement, revert=False))
    for _ in prepare(connection, inventory, LockPolicy()):
        pass
    if arrival == ATTACHED:
        # PostgreSQL wants every CHECK of the table on what is attached, that of the swap too.
        arrival = arrival.replace(
            "new_token uuid,",
            "new_token uuid CONSTRAINT by_range_new_token_not_null CHECK (new_token IS NOT NULL),",
        )
    run(database, arrival)
    database.run(INSERT)
    leaked = tokens(Ranges)
    before = indexes_of(database, "late")
    exchanged, _ = exchange(connection, inventory.pair, policy=LockPolicy())
    assert exchanged.phase is Phase.SWAPPED
    assert not tokens(Ranges) & leaked
    assert indexes_of(database, "late") == before
    assert verified(replacement).passed
    assert play(replacement, revert=True).passed
    assert tokens(Ranges) == leaked
    assert indexes_of(database, "late") == {each for each in before if "new_token" not in each}


def test_a_partition_that_comes_while_indexes_are_built_gets_its_part_in_a_second_round(
    database: Database,
) -> None:
    replacement = expand(database, Ranges)
    fill(replacement)
    before = indexes_of(database, "mid")
    came = False
    said = []
    for event in swap(replacement, using="default"):
        if isinstance(event, Preparing):
            said.append(event.what)
            if not came and event.what.startswith("Build the index"):
                came = True
                run(database, CREATED)
    assert read_state(connection, replacement).phase is Phase.SWAPPED
    assert before < indexes_of(database, "late") == indexes_of(database, "mid")
    assert verified(replacement).passed


def test_an_exchange_for_which_a_partition_lacks_its_part_begins_anew(database: Database) -> None:
    replacement = expand(database, Ranges)
    fill(replacement)
    inventory = pass_gate(SwapRequest(connection, replacement, revert=False))
    for event in prepare(connection, inventory, LockPolicy()):
        if event.what.startswith("Let "):
            break
    with pytest.raises(Unprepared):
        exchange(connection, inventory.pair, policy=LockPolicy())
    assert read_state(connection, replacement).phase is Phase.FILLED
    assert play(replacement).passed


@arrivals
def test_a_partition_that_comes_after_the_swap_is_under_quarantine_and_is_reverted_with_the_others(
    arrival: str, database: Database
) -> None:
    replacement = expand(database, Ranges)
    fill(replacement)
    leaked = tokens(Ranges)
    play(replacement)
    run(database, arrival)
    database.run(INSERT)
    assert database.value("SELECT token = new_token FROM late WHERE number = 9")
    assert verified(replacement).passed
    assert indexes_of(database, "late") >= indexes_of(database, "mid")
    assert play(replacement, revert=True).passed
    assert leaked < tokens(Ranges)
    assert indexes_of(database, "late") == indexes_of(database, "mid")
    assert play(replacement).passed


class Swapping(threading.Thread):
    """A swap in a session of its own.

    Arguments:
        policy: how it asks for its lock.
    """

    def __init__(self, replacement: Replacement, policy: LockPolicy) -> None:
        super().__init__()
        self.replacement = replacement
        self.policy = policy
        self.error: Exception | None = None
        self.done: list[Exchanged] = []
        self.pid: int | None = None

    def run(self) -> None:
        try:
            self.pid = backend_pid()
            for event in swap(self.replacement, using="default", policy=self.policy):
                if isinstance(event, Exchanged):
                    self.done.append(event)
        except Exception as error:  # it is for the test to judge
            self.error = error
        finally:
            connections.close_all()


@pytest.fixture
def prepared(database: Database) -> Replacement:
    """A table on two levels, with all that needs be built."""
    replacement = expand(database, Levels)
    fill(replacement)
    inventory = pass_gate(SwapRequest(connection, replacement, revert=False))
    for _ in prepare(connection, inventory, LockPolicy()):
        pass
    return replacement


def blocked_by(database: Database, swapping: Swapping, pid: int) -> None:
    wait_until(lambda: swapping.pid, "the swap has its session")
    assert swapping.pid is not None
    wait_until_blocked(database, swapping.pid, by=pid)


def test_a_swap_waits_for_a_writer_of_one_partition(
    prepared: Replacement, database: Database
) -> None:
    patient = LockPolicy(timeout_ms=20_000, old_ms=600_000)
    with database.connect() as writer:
        writer.execute("UPDATE odd SET note = 'held'")
        swapping = Swapping(prepared, patient)
        swapping.start()
        blocked_by(database, swapping, writer.info.backend_pid)
        writer.commit()
        swapping.join()
    assert swapping.error is None
    assert [each.attempts for each in swapping.done] == [1]
    assert verified(prepared).passed


def test_a_swap_that_may_not_wait_names_who_holds_a_partition(
    prepared: Replacement, database: Database
) -> None:
    before = database.dump()
    with database.connect() as writer:
        writer.execute("UPDATE odd SET note = 'held'")
        with pytest.raises(LockNotAvailable) as refusal:
            play_with(prepared, LockPolicy(timeout_ms=20, attempts=2, old_ms=600_000))
        assert f"It is held by pid {writer.info.backend_pid} (RowExclusiveLock" in str(
            refusal.value
        )
        # One that is old is not even asked against.
        with pytest.raises(LockNotAvailable):
            play_with(prepared, LockPolicy(timeout_ms=20_000, attempts=1, old_ms=0))
    assert database.dump() == before


def play_with(replacement: Replacement, policy: LockPolicy) -> None:
    for _ in swap(replacement, using="default", policy=policy):
        pass


def test_a_writer_who_goes_from_a_partition_to_the_table_is_let_by(
    prepared: Replacement, database: Database
) -> None:
    """It holds what the swap waits for, and waits for what the swap holds."""
    with database.connect() as writer:
        # (An UPDATE of a partition looks at its parents, and so holds them too.)
        writer.execute("SELECT FROM odd FOR UPDATE")
        swapping = Swapping(
            prepared, LockPolicy(timeout_ms=500, attempts=100, old_ms=600_000, pause_ms=1)
        )
        swapping.start()
        blocked_by(database, swapping, writer.info.backend_pid)
        # Waits behind the attempt, which ends without its lock.
        assert writer.execute("SELECT count(*) FROM by_level").fetchone() == (90,)
        assert not swapping.done
        writer.commit()
        swapping.join()
    assert swapping.error is None
    (exchanged,) = swapping.done
    assert exchanged.attempts > 1


def test_an_attempt_is_bounded_for_all_partitions_together(
    prepared: Replacement, database: Database
) -> None:
    """lock_timeout alone begins anew with each of them."""
    with database.connect() as first, database.connect() as second:
        first.execute("SELECT FROM low")
        second.execute("SELECT FROM odd")
        policy = LockPolicy(timeout_ms=300, attempts=1, old_ms=600_000)
        asked: list[Any] = []

        def ask() -> None:
            try:
                with transaction.atomic():
                    asked.append(backend_pid())
                    began = time.monotonic()
                    locks.seize(connection, prepared.identifier, policy)
            except LockNotAvailable:
                asked.append(time.monotonic() - began)
            finally:
                connections.close_all()

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: asked, "it has a session")
        wait_until_blocked(database, asked[0], by=first.info.backend_pid)
        first.rollback()
        asking.join()
    assert asked[1] < 2 * 0.3
