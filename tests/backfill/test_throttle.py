"""Stepping aside: what each signal makes of it, and what the server really says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from migrations_playbook.backfill.pacing.signals import Readings, Signals
from migrations_playbook.backfill.pacing.throttle import IDLE, Limits, derive_limits, find_reasons
from migrations_playbook.postgres.sessions import postgresql
from tests.fixtures.database import Database, at_work, role, wait_until, wait_until_blocked
from tests.fixtures.nursery import Program
from tests.fixtures.replica import Primary, replicated
from tests.fixtures.tickets import add_old_tickets, nulls

LIMITS = Limits(slot_wal=1e9, active_sessions=4, wal_rate=50e6)


@pytest.mark.parametrize(
    ("readings", "text"),
    [
        (Readings(replica_lag={"paris": 7.0}), "replica paris is 7.0 s behind (limit 5)"),
        (Readings(slot_wal={"cdc": 2e9}), "slot cdc retains 2,000 MB (limit 1,000 MB)"),
        (
            Readings(slot_wal={"cdc": 2e9}, idle_slots=frozenset({"cdc"})),
            f"slot cdc retains 2,000 MB (limit 1,000 MB){IDLE}",
        ),
        (Readings(archive_backlog=65), "65 WAL files wait to be archived (limit 64)"),
        (
            Readings(waiting=2, waiting_ms=300),
            "2 sessions wait behind us, for 300 ms (limit 200)",
        ),
        (Readings(active_sessions=5), "5 sessions are at work (limit 4)"),
        (Readings(wal_rate=60e6), "the server writes 60 MB/s of WAL (limit 50 MB/s)"),
        (Readings(query=1), "the throttle query says stop"),
        (Readings(query=None), "the throttle query gave no value"),
        (
            Readings(unreadable={"WAL rate": "permission denied"}),
            "the signal 'WAL rate' cannot be read: permission denied",
        ),
    ],
)
def test_each_signal_gives_its_reason(readings: Readings, text: str) -> None:
    (reason,) = find_reasons(readings, LIMITS)
    assert reason.text == text


@pytest.mark.parametrize(
    "readings",
    [
        Readings(),
        Readings(replica_lag={"paris": 5.0}, slot_wal={"cdc": 1e9}, archive_backlog=64),
        Readings(waiting=9, waiting_ms=200, active_sessions=4, wal_rate=50e6, query=False),
    ],
)
def test_at_its_limit_no_signal_says_stop(readings: Readings) -> None:
    assert find_reasons(readings, LIMITS) == []


def test_a_busy_server_has_as_many_reasons_as_signals() -> None:
    found = find_reasons(Readings(archive_backlog=99, active_sessions=9, query="stop"), LIMITS)
    assert [reason.signal for reason in found] == [
        "archive backlog",
        "active sessions",
        "throttle query",
    ]


def test_the_defaults_follow_from_the_servers_settings(database: Database) -> None:
    limits = derive_limits(postgresql("default"), Limits())
    assert limits.slot_wal == 8 * 2**30  # max_wal_size is 1 GB
    assert limits.active_sessions is not None
    assert limits.active_sessions >= 4


def test_a_slot_nobody_reads_is_seen(database: Database) -> None:
    database.run("SELECT pg_create_physical_replication_slot('unread', true)")
    try:
        readings = Signals("us").read_all(postgresql("default"))
        assert readings.unreadable == {}
        assert "unread" in readings.slot_wal
    finally:
        database.run("SELECT pg_drop_replication_slot('unread')")


def test_a_session_that_waits_behind_us_is_seen(database: Database) -> None:
    add_old_tickets(database, 1)
    with database.connect(application_name="us") as ours, database.connect() as theirs:
        ours.execute("UPDATE tickets_ticket SET redeemed_at = now()")
        behind = threading.Thread(
            target=theirs.execute, args=["UPDATE tickets_ticket SET redeemed_at = NULL"]
        )
        behind.start()
        try:
            wait_until_blocked(database, theirs.info.backend_pid, by=ours.info.backend_pid)
            readings = Signals("us").read_all(postgresql("default"))
            # Behind somebody else, it is none of our business.
            not_ours = Signals("not us").read_all(postgresql("default"))
        finally:
            ours.rollback()
            behind.join()
    assert (readings.waiting, not_ours.waiting) == (1, 0)
    assert readings.waiting_ms > 0


def test_a_query_that_fails_is_a_signal_that_cannot_be_read(database: Database) -> None:
    readings = Signals("us", "SELECT stop FROM nowhere").read_all(postgresql("default"))
    assert list(readings.unreadable) == ["throttle query"]
    assert "nowhere" in readings.unreadable["throttle query"]


def test_after_a_failed_query_the_other_signals_are_read_on(database: Database) -> None:
    signals = Signals("us", "SELECT 1/0")
    for _ in range(2):
        assert list(signals.read_all(postgresql("default")).unreadable) == ["throttle query"]


def test_without_the_privilege_to_read_a_signal_it_is_said_once_and_works(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = database.name + "_plain"
    add_old_tickets(database, 100)
    with role(database, plain):
        database.run(f"GRANT SELECT, UPDATE ON tickets_ticket TO {plain}")
        database.run(f"ALTER DATABASE {database.name} SET role = {plain}")
        postgresql("default").close()
        try:
            capsys.readouterr()
            call_command("backfill_new_token", "--vacuum-every", "0")
            shown = capsys.readouterr().out
        finally:
            postgresql("default").close()
            with database.connect(autocommit=True) as admin:
                admin.execute("SET ROLE NONE")
                admin.execute(f"ALTER DATABASE {database.name} RESET role")
        assert shown.count("GRANT pg_monitor") == 1
        assert nulls(database) == 0


@pytest.mark.parametrize("unthrottled", [False, True])
def test_what_a_managed_server_refuses_is_said_once_and_left_out(
    database: Database, capsys: pytest.CaptureFixture[str], *, unthrottled: bool
) -> None:
    plain = database.name + "_plain"
    add_old_tickets(database, 100)
    database.run("REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM public")
    database.run("REVOKE SELECT ON pg_stat_replication FROM public")
    with role(database, plain):
        database.run(f"GRANT SELECT, UPDATE ON tickets_ticket TO {plain}")
        database.run(f"GRANT pg_monitor TO {plain}")
        database.run(f"ALTER DATABASE {database.name} SET role = {plain}")
        postgresql("default").close()
        try:
            capsys.readouterr()
            options = ["--no-throttle"] if unthrottled else []
            call_command("backfill_new_token", "--json", "--vacuum-every", "0", *options)
            result = json.loads(capsys.readouterr().out)
            with pytest.raises(CommandError, match="--max-wal would not be kept"):
                call_command("backfill_new_token", "--max-wal", "1GB")
        finally:
            postgresql("default").close()
            with database.connect(autocommit=True) as admin:
                admin.execute("SET ROLE NONE")
                admin.execute(f"ALTER DATABASE {database.name} RESET role")
    refused = [note.split(" (")[0] for note in result["notes"] if "refuses to tell" in note]
    names = [] if unthrottled else ["WAL rate", "replica lag", "slot WAL"]
    assert refused == [f"The server refuses to tell the {name}" for name in names]
    assert result["cost"]["actual"]["wal"] is None
    assert nulls(database) == 0


def test_while_the_users_query_says_stop_it_waits_and_says_why(database: Database) -> None:
    add_old_tickets(database, 100)
    database.run("CREATE TABLE sale AS SELECT true AS running")
    process = database.start(
        *("backfill_new_token", "--target-ms", "50", "--duty", "100%"),
        *("--throttle-query", "SELECT running FROM sale"),
    )
    assert "the throttle query says stop" in process.stdout.readline()
    assert nulls(database) == 100
    database.run("UPDATE sale SET running = false")
    shown, _ = process.communicate()
    assert process.returncode == 0
    assert nulls(database) == 0
    assert "Waited for throttle query" in shown


def test_beside_others_at_work_it_goes_gently_and_says_so(database: Database) -> None:
    add_old_tickets(database, 100)
    with at_work(database):
        beside = database.manage("backfill_new_token")
        told = database.manage("backfill_new_token", "--target-ms", "50", "--duty", "100%")
    assert "their requests may take up to 5 ms longer (--max-added-ms)" in beside.stdout
    assert "Waited for rest" in beside.stdout
    assert "Others are at work" not in told.stdout
    assert nulls(database) == 0


def test_a_request_is_too_short_to_be_met_at_work_and_is_seen_nevertheless(
    database: Database,
) -> None:
    with (
        database.connect(autocommit=True) as request,
        database.connect(autocommit=True, application_name="us") as ours,
    ):
        for session in (request, ours):
            session.execute("SELECT 1")
        readings = Signals("us").read_all(postgresql("default"))
    assert (readings.active_sessions, readings.recent_sessions) == (0, 1)


def test_its_own_workers_and_vacuums_are_no_others(database: Database) -> None:
    add_old_tickets(database, 20_000)
    alone = database.manage(
        "backfill_new_token", "--workers", "2", "--vacuum-every", "5%", "--target-ms", "5"
    )
    assert "Others are at work" not in alone.stdout
    assert nulls(database) == 0


def test_a_backfill_on_another_host_is_no_other(database: Database) -> None:
    add_old_tickets(database, 20_000)
    there = database.start("backfill_new_token", "--batch-size", "10", "--duty", "50%")
    there.stdout.readline()
    here = database.manage("backfill_new_token")
    shown, _ = there.communicate()
    assert "Others are at work" not in shown + here.stdout
    assert nulls(database) == 0


def test_a_signal_that_goes_missing_means_stop_not_go(database: Database) -> None:
    add_old_tickets(database, 20_000)
    database.run("CREATE TABLE sale AS SELECT 0 AS running")
    process = database.start(
        "backfill_new_token",
        "--max-rows-per-second",
        "100",
        "--throttle-query",
        "SELECT running FROM sale",
    )
    wait_until(lambda: nulls(database) < 20_000, "it is at work")
    database.run("DROP TABLE sale")
    lines = iter(process.stdout.readline, "")
    assert any("'throttle query' cannot be read" in line for line in lines)
    left = nulls(database)
    assert any("'throttle query' cannot be read" in line for line in lines)
    assert nulls(database) == left > 0
    process.terminate()
    process.communicate()
    assert process.returncode == 143


def wait_for_a_replica(primary: Primary) -> tuple[Program, Iterator[str]]:
    """Begin a backfill that waits for a replica whose replay is paused; it, and its lines."""
    add_old_tickets(primary, 20_000)
    wait_until(
        lambda: primary.on_the_replica("SELECT count(*) FROM tickets_ticket") == 20_000,
        "the replica has the rows",
    )
    primary.on_the_replica("SELECT pg_wal_replay_pause()")
    process = primary.start("backfill_new_token", "--max-lag", "1", "--max-rows-per-second", "4000")
    lines = iter(process.stdout.readline, "")
    assert any(" s behind (limit 1)" in line for line in lines)
    return process, lines


def test_it_waits_for_a_replica_whose_replay_is_paused() -> None:
    with replicated() as primary:
        process, lines = wait_for_a_replica(primary)
        left = nulls(primary)
        assert left > 0
        assert any(" s behind (limit 1)" in line for line in lines)
        assert nulls(primary) == left, "it stands still"
        primary.on_the_replica("SELECT pg_wal_replay_resume()")
        shown, complaint = process.communicate()
        assert (process.returncode, complaint) == (0, "")
        assert nulls(primary) == 0
        assert "Waited for replica lag" in shown


def test_a_replica_that_goes_away_is_said_and_waited_for_no_longer() -> None:
    with replicated() as primary:
        process, _ = wait_for_a_replica(primary)
        primary.replica.stop()
        shown, complaint = process.communicate()
        assert (process.returncode, complaint) == (0, "")
        assert nulls(primary) == 0
    assert "has gone away" in shown


def test_a_slot_that_nobody_reads_is_named(database: Database) -> None:
    database.run("SELECT pg_create_physical_replication_slot('gone', true)")
    try:
        readings = Signals("us").read_all(postgresql("default"))
    finally:
        database.run("SELECT pg_drop_replication_slot('gone')")
    assert readings.idle_slots == {"gone"}


def test_a_bound_on_the_wal_ends_it_in_time(database: Database) -> None:
    add_old_tickets(database, 20_000)
    done = database.manage(
        "backfill_new_token", "--json", "--max-wal", "100kB", "--max-rows-per-second", "3000"
    )
    assert done.returncode == 75
    result: dict[str, Any] = json.loads(done.stdout)
    assert 0 < result["rows_filled"] < 20_000
    assert result["rows_remaining"] == nulls(database)
    assert "Stopped at --max-wal: the server has written" in done.stderr


def test_a_slice_of_time_ends_and_says_that_rows_are_left_until_none_is(
    database: Database,
) -> None:
    add_old_tickets(database, 3000)
    slow = ("--json", "--max-rows-per-second", "1500")
    first = database.manage("backfill_new_token", "--for", "1s", *slow)
    assert first.returncode == 75
    result: dict[str, Any] = json.loads(first.stdout)
    assert result["rows_filled"] > 0
    assert result["rows_remaining"] == nulls(database) > 0
    assert "Stopped at --for: 1 s are over." in first.stderr
    last = database.manage("backfill_new_token", "--for", "1h", "--json")
    assert (last.returncode, nulls(database)) == (0, 0)


@pytest.mark.parametrize(
    "bound", [("--for", "0.001s"), ("--for", "0.5s"), ("--max-wal", "1B")], ids=" ".join
)
def test_a_bounded_run_beside_others_gets_on_however_small_the_bound(
    database: Database, bound: tuple[str, str]
) -> None:
    add_old_tickets(database, 3000)
    slow = ("--max-rows-per-second", "500", "--vacuum-every", "0")
    with at_work(database):
        done = database.manage("backfill_new_token", "--json", *slow, *bound)
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 75
    assert 0 < result["rows_filled"] < 3000, result


@pytest.mark.parametrize("time", ["0", "soon", "5 weeks", "-1s"])
def test_a_time_that_is_none_is_a_usage_error(database: Database, time: str) -> None:
    with pytest.raises(CommandError, match="is not a time such as"):
        call_command("backfill_new_token", f"--for={time}")


def test_a_dry_run_shows_plan_predictions_and_signals_and_changes_nothing(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    add_old_tickets(database, 100)
    capsys.readouterr()
    call_command("backfill_new_token", "--dry-run")
    shown = capsys.readouterr().out
    for expected in (
        "SKIP LOCKED",
        "Predicted: 100 rows",
        "of WAL",
        "Control: nothing",
        "Signals:",
    ):
        assert expected in shown
    assert nulls(database) == 100
