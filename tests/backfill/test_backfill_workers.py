"""Many workers, on one host or several, without a coordinator; and every order of rows."""

from __future__ import annotations

import json

import pytest

from migrations_playbook.backfill.events import Batch, Recounted
from migrations_playbook.backfill.nulls import sample_nulls
from migrations_playbook.backfill.pacing.pace import Pace
from migrations_playbook.backfill.play import Options, backfill
from migrations_playbook.backfill.walk import SHARES
from migrations_playbook.backfill.workers import REPLACEMENTS
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
    result = json.loads(output)
    lost = [note for note in result["notes"] if "lost the connection" in note]
    assert lost == ["A worker lost the connection, and is replaced in a moment; nothing is lost."]
    assert result["workers_lost"] == 1
    assert nulls(database) == 0
    assert changed(database, "new_token") == 0


def test_the_only_worker_and_who_leads_it_may_lose_their_sessions(database: Database) -> None:
    add_old_tickets(database, 20_000)
    process = database.start("backfill_new_token", "--batch-size", "10", "--no-throttle")
    ours = "SELECT pid FROM pg_stat_activity WHERE application_name ~ 'backfill: (fills|leads)'"
    wait_until(lambda: len(database.fetch(ours)) == 2, "both are at work")
    before = {pid for (pid,) in database.fetch(ours)}
    for pid in before:
        database.run("SELECT pg_terminate_backend(%s)", pid)
    wait_until(
        lambda: {pid for (pid,) in database.fetch(WORKERS)} - before, "a successor is at work"
    )
    database.run("UPDATE tickets_ticket SET redeemed_at = now() WHERE id > 500")  # the rest, faster
    output, complaint = process.communicate()
    assert (process.returncode, complaint) == (0, "")
    assert "Workers that lost the connection: 1." in output
    assert nulls(database) == 0


def test_a_worker_that_is_lost_again_and_again_is_not_replaced_for_ever(
    database: Database,
) -> None:
    add_old_tickets(database, 100)
    database.run(
        "CREATE FUNCTION kill() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END'"
    )
    database.run(
        "CREATE TRIGGER kill AFTER UPDATE ON tickets_ticket FOR EACH ROW EXECUTE FUNCTION kill()"
    )
    lost = database.manage("backfill_new_token", "--json")
    assert lost.returncode == 75
    result = json.loads(lost.stdout)
    assert (result["workers_lost"], result["rows_filled"]) == (1 + REPLACEMENTS, 0)
    assert "is not replaced again, after so many" in result["notes"][-1]
    assert "The connection to the server was lost" in result["error"]


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
