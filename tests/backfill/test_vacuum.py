"""VACUUM between slices: never two at once, and never in vain without a word."""

from __future__ import annotations

from psycopg import sql

from migrations_playbook.backfill import vacuum
from migrations_playbook.backfill.vacuum import Slices
from migrations_playbook.postgres.query import fetch_value
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.tables import Table, read_table
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database, wait_until
from tests.fixtures.tickets import add_old_tickets, fill, nulls, past_the_triggers


def table() -> Table:
    table = read_table(
        postgresql("default"), find_replacement("tickets.Ticket", "new_token").identifier
    )
    assert table is not None
    return table


def test_a_slice_is_due_after_its_share_of_the_rows() -> None:
    slices = Slices(1000, 0.1)
    slices.add(99)
    assert slices.due is False
    slices.add(1)
    seen = [slices.due]
    slices.vacuumed()
    assert [*seen, slices.due] == [True, False]


def test_a_share_of_nothing_is_never_due() -> None:
    slices = Slices(1000, 0)
    slices.add(10_000)
    assert not slices.due


def test_the_space_of_old_versions_is_used_again(database: Database) -> None:
    """Old entries of the indexes, that is: the heap's old versions go as their pages are read."""
    database.run("ALTER TABLE tickets_ticket SET (autovacuum_enabled = false)")
    size = "SELECT pg_total_relation_size('tickets_ticket')"
    growths = []
    for every in ("0", "20%"):
        database.run("TRUNCATE tickets_ticket")
        add_old_tickets(database, 20_000)
        before = database.value(size)
        # Slowly, so that a VACUUM has ended before the next slice has.
        result = fill(
            "--vacuum-every", every, "--max-rows-per-second", "8000", "--batch-size", "500"
        )
        assert (result["vacuums"] > 0) == (every != "0")
        growths.append(database.value(size) - before)
    without, with_slices = growths
    assert with_slices < 0.9 * without


def test_two_vacuums_are_never_at_work_at_once(database: Database) -> None:
    add_old_tickets(database, 10)
    with database.connect() as other:
        # What any VACUUM holds while it runs.
        other.execute("LOCK TABLE tickets_ticket IN SHARE UPDATE EXCLUSIVE MODE")
        assert vacuum.vacuum_table(postgresql("default"), table(), gently=False) is False
    assert vacuum.vacuum_table(postgresql("default"), table(), gently=False) is True


def test_beside_others_it_goes_no_faster_than_autovacuum(database: Database) -> None:
    connection = postgresql("default")
    for gently, delay in ((False, "0"), (True, "2ms")):
        assert vacuum.vacuum_table(connection, table(), gently=gently) is True
        assert fetch_value(connection, sql.SQL("SHOW vacuum_cost_delay")) == delay
    connection.close()


def test_an_old_snapshot_is_named(database: Database) -> None:
    connection = postgresql("default")
    with database.connect(application_name="month end report") as report:
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM tickets_ticket")
        since = vacuum.next_transaction(connection)
        add_old_tickets(database, 1)
        (named,) = vacuum.find_holders(connection, since, besides="a batch")
        assert f"pid {report.info.backend_pid}" in named
        assert "month end report" in named
    assert vacuum.find_holders(connection, since, besides="a batch") == []


def test_our_own_batches_are_left_out_by_their_name(database: Database) -> None:
    connection = postgresql("default")
    with (
        database.connect(application_name="a batch") as batch,
        database.connect(application_name='report on "a batch"') as report,
    ):
        for session in (batch, report):
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            session.execute("SELECT count(*) FROM tickets_ticket")
        since = vacuum.next_transaction(connection)
        add_old_tickets(database, 1)
        (named,) = vacuum.find_holders(connection, since, besides="a batch")
        assert f"pid {report.info.backend_pid}" in named


def test_a_prepared_transaction_is_named(database: Database) -> None:
    connection = postgresql("default")
    other = database.connect()
    other.tpc_begin("forgotten")
    other.execute("SELECT pg_current_xact_id()")
    other.tpc_prepare()
    other.close()
    try:
        since = vacuum.next_transaction(connection)
        database.run("SELECT pg_current_xact_id()")
        (named,) = vacuum.find_holders(connection, since, besides="a batch")
        assert 'prepared transaction "forgotten"' in named
    finally:
        database.run("ROLLBACK PREPARED 'forgotten'")


def test_with_an_old_snapshot_it_says_so_once_and_goes_on(database: Database) -> None:
    add_old_tickets(database, 1000)
    with database.connect(application_name="month end report") as report:
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM tickets_ticket")
        result = fill("--max-rows-per-second", "500")
    assert result["rows_remaining"] == 0
    assert result["vacuums"] == 0
    (note,) = [note for note in result["notes"] if "vacuum would be useless" in note.lower()]
    assert "month end report" in note


def test_asked_to_it_waits_for_an_old_snapshot_to_end(database: Database) -> None:
    add_old_tickets(database, 1000)
    with database.connect() as report:
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM tickets_ticket")
        process = database.start(
            "backfill_new_token", "--wait-for-snapshots", "--max-rows-per-second", "200"
        )
        lines = iter(process.stdout.readline, "")
        assert any("vacuum would be useless" in line for line in lines)
        assert nulls(database) > 0
    wait_until(lambda: process.poll() is not None, "it goes on")
    process.communicate()
    assert process.returncode == 0
    assert nulls(database) == 0


def test_a_run_goes_on_with_the_slice_that_an_earlier_run_has_left(
    database: Database,
) -> None:
    """As slices of time do, each of which may fill less than a tenth of the rows."""
    database.run("ALTER TABLE tickets_ticket SET (autovacuum_enabled = false)")
    add_old_tickets(database, 2000)
    fill("--vacuum-every", "0")
    past_the_triggers(database, "UPDATE tickets_ticket SET token = token, new_token = new_token")
    dead = "SELECT pg_stat_get_dead_tuples('tickets_ticket'::regclass)"
    wait_until(lambda: database.value(dead) >= 500, "the server counts the dead")
    add_old_tickets(database, 10)
    result = fill()
    assert (result["rows_filled"], result["vacuums"]) == (10, 1)
