"""What the site feels: the probe on a real server, alone and beside others, here and elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.core.management import call_command

from migrations_playbook.backfill.batch import application_name
from migrations_playbook.backfill.pacing.pace import Pace, Pacer
from migrations_playbook.backfill.pacing.probe import Probe, read_baselines
from migrations_playbook.backfill.pacing.steering import UNFELT_MS
from migrations_playbook.postgres.sessions import Session, postgresql
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database, at_work, role, wait_until, wait_until_blocked
from tests.fixtures.tickets import add_old_tickets, nulls


@contextmanager
def probing(*, resting: bool) -> Iterator[tuple[Probe, Pacer]]:
    """Within this context a probe is at work, beside others."""
    replacement = find_replacement("tickets.Ticket", "new_token")
    table = read_table(postgresql("default"), replacement.identifier)
    assert table is not None
    pacer, stopping = Pacer(Pace()), threading.Event()
    pacer.shared = True
    name = application_name(replacement)
    probe = Probe(replacement, table, name, pacer, stopping)
    probe.rest(resting=resting)
    session = Session("default", name, probe.run)
    session.start()
    try:
        yield probe, pacer
    finally:
        stopping.set()
        session.join()
        assert session.error is None


def test_at_rest_it_finds_the_baseline_and_says_it_to_other_processes(database: Database) -> None:
    add_old_tickets(database, 1000)
    connection = postgresql("default")
    with probing(resting=True) as (probe, pacer):
        assert probe.wants_rest
        wait_until(lambda: not probe.wants_rest, "the baseline is known")
        reads, commits = pacer.steering.baseline.high
        assert reads > 0
        assert commits > 0
        name = application_name(probe.replacement)
        wait_until(lambda: read_baselines(connection, name), "the session's name says it")
        # A process that joins takes it over, and does not ask for a rest that nobody gives.
        joining = Probe(probe.replacement, probe.table, name, Pacer(Pace()), threading.Event())
        joining.adopt_baseline(connection)
        assert not joining.wants_rest
        assert joining.pacer.steering.processes == 2
        assert joining.pacer.steering.baseline.known
    wait_until(lambda: not read_baselines(connection, name), "it has gone with the probe")
    joining.adopt_baseline(connection)
    assert joining.wants_rest


def test_who_stands_behind_a_row_of_ours_is_felt(database: Database) -> None:
    add_old_tickets(database, 10)
    ours = application_name(find_replacement("tickets.Ticket", "new_token"))
    with (
        probing(resting=True) as (probe, pacer),
        database.connect(application_name=ours) as batch,
        database.connect() as site,
    ):
        wait_until(lambda: not probe.wants_rest, "the baseline is known")
        pacer.steering.level = 50.0
        batch.execute("UPDATE tickets_ticket SET redeemed_at = now()")
        behind = threading.Thread(
            target=site.execute, args=["UPDATE tickets_ticket SET redeemed_at = NULL"]
        )
        behind.start()
        try:
            wait_until_blocked(database, site.info.backend_pid, by=batch.info.backend_pid)
            probe.rest(resting=False)
            wait_until(lambda: pacer.steering.level <= 25.0, "batches are shorter")
        finally:
            batch.rollback()
            behind.join()


def test_a_probe_whose_connection_is_lost_makes_another(database: Database) -> None:
    add_old_tickets(database, 10)
    with probing(resting=True) as (probe, _):
        pid = "SELECT pid FROM pg_stat_activity WHERE application_name ~ 'backfill: rest'"
        wait_until(lambda: database.fetch(pid), "it is at work")
        ((before,),) = database.fetch(pid)
        database.run("SELECT pg_terminate_backend(%s)", before)
        wait_until(lambda: set(database.fetch(pid)) - {(before,)}, "another one is")
        assert probe.impossible is None


def test_without_the_right_to_probe_it_says_so_once_and_keeps_to_short_batches(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = database.name + "_plain"
    add_old_tickets(database, 5000)
    # PostgreSQL 17 has given it one more argument.
    database.run("""
        DO $$ DECLARE each regprocedure; BEGIN
            FOR each IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP
                EXECUTE 'REVOKE EXECUTE ON FUNCTION ' || each || ' FROM public';
            END LOOP;
        END $$""")
    with at_work(database), role(database, plain):
        database.run(f"GRANT SELECT, UPDATE ON tickets_ticket TO {plain}")
        database.run(f"GRANT pg_monitor TO {plain}")
        database.run(f"ALTER DATABASE {database.name} SET role = {plain}")
        postgresql("default").close()
        try:
            capsys.readouterr()
            call_command(
                *("backfill_new_token", "--json"),
                *("--max-rows-per-second", "2000", "--vacuum-every", "0"),
            )
            result = json.loads(capsys.readouterr().out)
            words = database.complaint("SELECT pg_logical_emit_message(true, '', '')", role=plain)
        finally:
            postgresql("default").close()
            with database.connect(autocommit=True) as admin:
                admin.execute("SET ROLE NONE")
                admin.execute(f"ALTER DATABASE {database.name} RESET role")
    (note,) = [note for note in result["notes"] if "cannot be probed" in note]
    assert words in note
    assert f"batches are kept at {UNFELT_MS:g} ms" in note
    assert nulls(database) == 0


def test_beside_others_the_result_says_what_was_felt_and_done(database: Database) -> None:
    add_old_tickets(database, 3000)
    with at_work(database):
        done = database.manage(
            "backfill_new_token", "--json", "--max-added-ms", "500", "--max-rows-per-second", "1000"
        )
    pace = json.loads(done.stdout)["pace"]
    assert pace["allowed_ms"] == 500
    assert pace["felt_ms"] <= pace["felt_ms_at_most"]
    assert pace["target_ms"] >= 2


def test_what_a_backfill_does_is_seen_from_outside(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    add_old_tickets(database, 3000)
    slow = ("backfill_new_token", "--max-rows-per-second", "100")
    with at_work(database):
        process = database.start(*slow)
        names = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE %s"
        wait_until(lambda: database.fetch(names, "%backfill: feels %/5, % ms"), "it says its pace")
        call_command("backfill_new_token", "--pause")
        wait_until(
            lambda: database.fetch(names, "%backfill: waits: pause%"), "it says that it waits"
        )
        capsys.readouterr()
        call_command("playbook_status", "--json")
        (status,) = json.loads(capsys.readouterr().out)
        said = {(each["what"], each["why"]) for each in status["at_work"]}
        # And it may want to rest, besides.
        assert said & {("waits", "pause"), ("waits", "pause+1")}
    process.terminate()
    process.communicate()
