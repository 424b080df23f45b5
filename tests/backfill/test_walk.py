"""What the backfill's way through the table costs the server, in rows read and room taken."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connection

from migrations_playbook.backfill.walk import SHARES
from tests.fixtures.database import Database, wait_until
from tests.fixtures.tickets import add_old_tickets, nulls


def test_a_batch_reads_its_own_rows_only_though_no_analyze_has_seen_the_column(
    database: Database,
) -> None:
    """A column that was just added has no statistics, and 1 in 200 rows is then taken to be null:
    a plan that reads and sorts the whole table for every batch seems the cheaper one."""
    rows, batches = 20_000, 40
    database.run("ALTER TABLE tickets_ticket SET (autovacuum_enabled = off)")
    add_old_tickets(database, rows)
    database.run("ANALYZE tickets_ticket (id)")
    call_command("backfill_new_token", batch_size=rows // batches, no_progress=True)
    connection.close()
    wait_until(
        lambda: (
            database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            == 0
        ),
        "every session is gone, so its figures have arrived",
    )
    read = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'tickets_ticket'"
    wait_until(lambda: database.value(read) > 0, "PostgreSQL 14 gathers them a little later")
    # Once through to count, twice to search for nulls, once to see that none is left; and each
    # page once for each share of its rows.
    assert database.value(read) < rows * (SHARES + 5)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_most_rows_stay_on_their_page_so_that_the_indexes_hardly_grow(
    database: Database, workers: str
) -> None:
    rows = 40_000
    database.run("ALTER TABLE tickets_ticket SET (autovacuum_enabled = off)")
    add_old_tickets(database, rows)
    before = database.value("SELECT pg_indexes_size('tickets_ticket')")
    # Batches so small that a window is a part of the table, as it is of a large one: two workers
    # in the same window would keep each other from pruning it.
    pace = ["--vacuum-every", "0", "--duty", "100%", "--batch-size", "200"]
    process = database.manage("backfill_new_token", *pace, "--workers", workers)
    assert (process.returncode, process.stderr) == (0, "")
    figures = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'tickets_ticket'"
    )
    wait_until(lambda: database.fetch(figures)[0][0] >= rows, "the figures have arrived")
    ((updated, stayed),) = database.fetch(figures)
    assert updated == rows
    # A row of these is a quarter larger afterwards, so not every one can stay.
    assert stayed > rows / 2
    assert database.value("SELECT pg_indexes_size('tickets_ticket')") < 1.4 * before


def test_an_old_snapshot_costs_room_and_nothing_else(database: Database) -> None:
    add_old_tickets(database, 5000)
    with database.connect() as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT FROM tickets_ticket LIMIT 1")
        assert database.manage("backfill_new_token").returncode == 0
        assert nulls(database) == 0
        found = old.execute(
            "SELECT count(*) FROM tickets_ticket WHERE new_token IS NULL"
        ).fetchone()
        assert found == (5000,)
