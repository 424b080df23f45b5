"""Many workers, on one host or several, without a coordinator; and every order of rows."""

from __future__ import annotations

import json

import pytest

from migrations_playbook.backfill.events import Batch, Recounted
from migrations_playbook.backfill.nulls import sample_nulls
from migrations_playbook.backfill.pacing.pace import Pace
from migrations_playbook.backfill.play import Options, backfill
from migrations_playbook.backfill.walk import SHARES
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database, wait_until
from tests.fixtures.tickets import add_old_tickets, changed, fill, nulls, remember

WORKERS = """
    SELECT pid FROM pg_stat_activity
     WHERE datname = current_database() AND query LIKE '%%claimed%%'
       AND pid <> pg_backend_pid()"""


def test_workers_fill_every_row_once(database: Database) -> None:
    add_old_tickets(database, 5000)
    result = fill("--workers", "4", "--batch-size", "50")
    assert (result["rows_filled"], result["rows_remaining"]) == (5000, 0)
    assert result["workers"] == 4
    assert database.value("SELECT count(DISTINCT new_token) FROM tickets_ticket") == 5000


def test_killing_one_worker_stops_no_other_and_loses_nothing(database: Database) -> None:
    add_old_tickets(database, 20_000)
    process = database.start(
        *("backfill_new_token", "--json", "--batch-size", "1", "--workers", "2", "--duty", "100%")
    )
    pids: list[int] = []

    def both_at_work() -> bool:
        # They bear their name within a batch only, so one look must see both.
        pids[:] = [row[0] for row in database.fetch(WORKERS)]
        return len(pids) == 2

    wait_until(both_at_work, "both are at work")
    remember(database, "new_token")
    database.run("SELECT pg_terminate_backend(%s)", pids[0])
    database.run("UPDATE tickets_ticket SET redeemed_at = now() WHERE id > 500")  # the rest, faster
    output, complaint = process.communicate()
    assert (process.returncode, complaint) == (0, "")
    lost = [note for note in json.loads(output)["notes"] if "lost the connection" in note]
    assert [note.split(";")[0] for note in lost] == ["1 of 2 workers lost the connection"]
    assert nulls(database) == 0
    assert changed(database, "new_token") == 0


def test_rows_that_others_fill_are_progress_too(database: Database) -> None:
    add_old_tickets(database, 2000)
    options = Options(limits=None, pace=Pace(max_rows_per_second=50))
    events = backfill(
        find_replacement("tickets.Ticket", "new_token"), using="default", options=options
    )
    mine = 0
    for event in events:
        if isinstance(event, Batch):
            mine += event.rows
            # Somebody else is faster.
            database.run("UPDATE tickets_ticket SET redeemed_at = now() WHERE id > 1000")
        if isinstance(event, Recounted):
            assert event.remaining <= 1000 < 2000 - mine
            break
    else:
        pytest.fail("it did not count again")
    events.close()


def test_in_a_table_too_large_to_count_a_sample_tells_what_others_filled(
    database: Database,
) -> None:
    add_old_tickets(database, 40_000)
    database.run("UPDATE tickets_ticket SET redeemed_at = now() WHERE id % 2 = 0")
    connection, replacement = postgresql("default"), find_replacement("tickets.Ticket", "new_token")
    table = read_table(connection, replacement.identifier)
    assert table is not None
    assert sample_nulls(connection, replacement, table) == 20_000
    few = sample_nulls(connection, replacement, table, pages=100)
    assert few == pytest.approx(20_000, rel=0.5)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("n::bigint * 1000003", id="wide gaps"),
        pytest.param("-n", id="backwards"),
        pytest.param("hashint8extended(n, 0)", id="in no order"),
    ],
)
def test_the_order_of_the_keys_makes_no_difference(database: Database, key: str) -> None:
    database.run("ALTER TABLE tickets_ticket DISABLE TRIGGER USER")
    database.run(
        f"INSERT INTO tickets_ticket (id, token) "  # noqa: S608 - the keys of this test
        f"SELECT {key}, gen_random_uuid() FROM generate_series(1, 3000) AS n"
    )
    database.run("ALTER TABLE tickets_ticket ENABLE TRIGGER USER")
    result = fill("--batch-size", "100")
    assert result["rows_filled"] == 3000
    # The last batch of a pass is not full.
    assert 30 <= result["batches"] <= 30 + 2 * SHARES


def test_partitions_are_walked_one_by_one(database: Database) -> None:
    """Two rows of two partitions have the same place, each in its own."""
    database.run("ALTER TABLE tickets_ticket RENAME TO plain")
    database.run(
        "CREATE TABLE tickets_ticket (LIKE plain INCLUDING DEFAULTS) PARTITION BY RANGE (id)"
    )
    for low, high in ((0, 100), (100, 200), (200, 10_000)):
        database.run(
            f"CREATE TABLE part_{low} PARTITION OF tickets_ticket "
            f"FOR VALUES FROM ({low}) TO ({high})"
        )
    database.run(
        "INSERT INTO tickets_ticket (id, token) SELECT n, gen_random_uuid() "
        "FROM generate_series(1, 300) AS n"
    )
    replacement = find_replacement("tickets.Ticket", "new_token")
    for trigger in replacement.declaration.triggers:
        database.run(trigger.compile(replacement.model).install_sql)  # type: ignore[arg-type]
    done = [event for event in backfill(replacement, using="default") if isinstance(event, Batch)]
    assert sum(batch.rows for batch in done) == 300
    assert nulls(database) == 0


def test_a_stop_leaves_no_session_behind(database: Database) -> None:
    add_old_tickets(database, 2000)
    options = Options(workers=3, limits=None, pace=Pace(batch_size=1))
    events = backfill(
        find_replacement("tickets.Ticket", "new_token"), using="default", options=options
    )
    next(event for event in events if isinstance(event, Batch))
    events.close()
    wait_until(lambda: not database.fetch(WORKERS), "every worker's session is gone")
    assert 0 < nulls(database) < 2000
