"""The rehearsal passes, and fails for the right reason when the product is broken."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, models
from django.db.models.functions import Cast

from migrations_playbook.errors import PlaybookError
from migrations_playbook.history import find_remembered
from migrations_playbook.rehearsal.happenings import Remark
from migrations_playbook.rehearsal.play import Rehearsal
from migrations_playbook.rehearsal.scratch import MARK, drop_orphans
from migrations_playbook.rehearsal.script import RehearsalOptions, Script
from migrations_playbook.rehearsal.verdict import Verdict
from migrations_playbook.replacement import Replacement, find_replacement
from migrations_playbook.shadow import Shadow
from tests.fixtures.database import Database, create_database, drop_database, wait_until
from tests.fixtures.listener import tokens_in
from tests.fixtures.models_conversions import SECRETS, Document, Secret
from tests.fixtures.models_groups import ACCESS, Access
from tests.fixtures.models_zoo import UUIDS, CompositeKey
from tests.fixtures.tickets import add_old_tickets
from tests.rehearsal.forked import FORKED_COMMANDS
from tickets.management.commands.rehearse import Command

PHASES = [
    "baseline",
    "expand",
    "backfill",
    "prepare",
    "swap",
    "revert",
    "swap again",
    "contract",
]


DOCUMENTS = Shadow(
    live="body",
    shadow="body_json",
    up=Cast("body", models.JSONField()),
    down=Cast("body_json", models.TextField()),
)
SCRIPT = Command().build_script(
    find_replacement("tickets.Ticket", "new_token"), stamp=None, row=None, read=None
)


def scratch_databases(database: Database) -> int:
    found = database.value(
        "SELECT count(*) FROM pg_database WHERE starts_with(datname, 'rehearsal_')"
    )
    return int(found)


def rehearse(
    monkeypatch: pytest.MonkeyPatch, broken: str, until: str, max_stall_ms: float = 30_000
) -> Verdict:
    """Rehearse with the product broken, up to the phase where it must have been seen.

    A shared machine stalls now and then, so only the test of a stall says what is too long.
    """
    monkeypatch.setenv("BROKEN", broken)
    monkeypatch.setattr(settings, "SETTINGS_MODULE", "tests.releases.broken.settings")
    play = build_rehearsal(
        RehearsalOptions(rows=3000, rate=150, seconds=1.0, max_stall_ms=max_stall_ms, until=until)
    )
    said = [str(event) for event in play.run()]
    assert tokens_in(*said, *play.verdict.reasons, json.dumps(play.verdict.as_json())) == set()
    return play.verdict


def build_rehearsal(options: RehearsalOptions, script: Script = SCRIPT) -> Rehearsal:
    return Rehearsal(script, options, find_replacement("tickets.Ticket", "new_token"), connection)


def violations(result: Verdict) -> set[str]:
    return {name for name, number in result.checks.items() if number}


@pytest.mark.timeout(240)
def test_it_passes_and_says_so_in_every_way(database: Database, tmp_path: Path) -> None:
    report = tmp_path / "report"
    started = database.start(
        "rehearse",
        *("--rows", "3000", "--rate", "100", "--seconds", "0.3", "--max-stall-ms", "30000"),
        *("--json", "--report", str(report)),
        program=FORKED_COMMANDS,
    )
    output, complaint = started.communicate()
    assert started.returncode == 0, output + complaint
    assert output.count("\n") == 1
    result = json.loads(output)
    parts = {"replacement", "rows", "phases", "backfill", "swap", "checks", "reasons", "passed"}
    assert set(result) == parts
    assert result["replacement"] == "tickets.Ticket.new_token"
    assert result["rows"] == 3000
    assert [phase["name"] for phase in result["phases"]] == PHASES
    assert all(
        set(phase) == {"name", "seconds", "requests", "errors", "p50_ms", "p99_ms", "max_ms"}
        for phase in result["phases"]
    )
    assert all(phase["requests"] for phase in result["phases"])
    assert set(result["swap"]) == {"lock_wait_ms", "lock_hold_ms", "attempts"}
    assert set(result["checks"].values()) == {0}
    assert result["passed"] is True
    assert json.loads((report / "report.json").read_text()) == result
    page = (report / "report.html").read_text()
    assert all(name in page for name in PHASES)
    assert "<svg" in page
    assert tokens_in(output, complaint, page) == set()
    assert scratch_databases(database) == 0


@pytest.mark.usefixtures("forked")
def test_a_release_that_does_not_come_up_is_named(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = rehearse(monkeypatch, "NoClient", until="baseline")
    assert violations(verdict) == {"failed_steps", "failed_processes"}
    assert "Release N did not come up" in verdict.reasons[0]
    assert "(LookupError)" in verdict.reasons[0]


def test_a_failed_verdict_and_a_refusal_are_json_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = database.manage("rehearse", "--json", "--template", "nowhere")
    sentence = (
        'There is no database "nowhere" to copy on this server. Name another one with --template, '
        "or leave it out to have rows made."
    )
    assert (refused.returncode, refused.stderr) == (1, f"CommandError: {sentence}\n")
    assert json.loads(refused.stdout) == {"error": sentence}
    monkeypatch.setenv("BROKEN", "NoClient")
    broken = "tests.releases.broken.settings"
    failed = database.manage(
        "rehearse", "--json", "--rows", "100", settings=broken, program=FORKED_COMMANDS
    )
    verdict = json.loads(failed.stdout)
    assert (failed.returncode, verdict["passed"]) == (1, False)
    assert verdict["checks"]["failed_steps"] == 1
    assert "Release N did not come up" in verdict["reasons"][0]
    assert verdict["error"] == "The rehearsal failed: failed_steps, failed_processes."


@pytest.mark.usefixtures("forked")
def test_without_the_trigger_rows_stay_without_a_value(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rehearse(monkeypatch, "NoTrigger", until="prepare")
    assert not result.passed
    # Either the next command finds them, or the constraint that it has just added does.
    assert violations(result) <= {"failed_steps", "failed_requests"}
    assert any("still has" in reason or "new_token_not_null" in reason for reason in result.reasons)


@pytest.mark.usefixtures("forked")
def test_without_the_quarantine_a_revert_takes_tokens_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rehearse(monkeypatch, "NoQuarantine", until="revert")
    assert violations(result) == {"changed_tokens"}


@pytest.mark.usefixtures("forked")
def test_a_lock_without_a_timeout_stalls_the_site(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The idle transaction in front of that lock ends after two seconds.
    result = rehearse(monkeypatch, "PlainLock", until="prepare", max_stall_ms=1500)
    assert violations(result) == {"slow_requests"}


@pytest.mark.usefixtures("forked")
def test_triggers_that_stay_with_the_old_columns_are_seen(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rehearse(monkeypatch, "NoReinstall", until="swap")
    assert "schema" in violations(result)
    assert any("pgtrigger_fill_new_token" in reason for reason in result.reasons)


def test_an_interrupt_ends_it_and_drops_the_scratch_database(database: Database) -> None:
    started = database.start("rehearse", "--rows", "2000", "--seconds", "30")
    wait_until(
        lambda: (
            database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE starts_with(datname, 'rehearsal_')"
            )
            >= 8
        ),
        "clients are at work",
    )
    started.terminate()
    shown, complaint = started.communicate(timeout=30)
    assert (started.returncode, complaint) == (143, "")
    assert shown.splitlines()[-1] == (
        "Stopped: the scratch database is dropped, and nothing else was touched."
    )
    assert scratch_databases(database) == 0


def test_a_second_signal_does_not_keep_it_from_dropping_the_database(database: Database) -> None:
    started = database.start("rehearse", "--rows", "2000", program=FORKED_COMMANDS)
    (scratch,) = marked_databases(database)
    with database.connect() as gate:
        # Whoever changes a database's comment keeps it from being dropped until the commit.
        gate.execute(f"COMMENT ON DATABASE {scratch} IS 'not yet'")
        started.terminate()
        wait_until(
            lambda: database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE%%' "
                "AND %s = ANY (pg_blocking_pids(pid))",
                gate.info.backend_pid,
            ),
            "the scratch database is being dropped",
        )
        started.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            started.wait(timeout=1)
        gate.rollback()
    shown, complaint = started.communicate(timeout=30)
    assert started.returncode in (130, 143)
    assert complaint == ""
    assert shown.splitlines()[-1] == (
        "Stopped: the scratch database is dropped, and nothing else was touched."
    )
    assert scratch_databases(database) == 0


@pytest.mark.usefixtures("forked")
def test_the_next_one_drops_what_a_killed_one_left(database: Database) -> None:
    started = database.start(
        "rehearse", "--rows", "2000", "--seconds", "30", program=FORKED_COMMANDS
    )
    (left,) = marked_databases(database)
    assert drop_orphans(connection) == [], "its rehearsal lives"
    started.kill()
    started.communicate()
    wait_until(lambda: not advisory_locks(database), "the server knows that it is gone")
    play = build_rehearsal(RehearsalOptions(rows=10, rate=10, seconds=0.1, until="baseline"))
    remarks = [event.text for event in play.run() if isinstance(event, Remark)]
    assert remarks[0] == f"Dropped {left}: the rehearsal that made it was killed."
    assert scratch_databases(database) == 0


def test_a_database_of_such_a_name_without_the_comment_is_left_alone(database: Database) -> None:
    name = "rehearsal_1_abcdef"
    create_database(name)
    try:
        assert drop_orphans(connection) == []
        assert scratch_databases(database) == 1
    finally:
        drop_database(name)


def marked_databases(database: Database) -> list[str]:
    wait_until(
        lambda: database.value(
            "SELECT count(*) FROM pg_database WHERE shobj_description(oid, 'pg_database') = %s",
            MARK,
        ),
        "the scratch database bears its comment",
    )
    return [
        name
        for (name,) in database.fetch(
            "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') = %s",
            MARK,
        )
    ]


def advisory_locks(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))


def test_what_cannot_be_rehearsed_is_refused_before_it_begins(database: Database) -> None:
    remembered = find_remembered("tickets.Ticket", "new_token")
    assert remembered is not None
    undeclared = (
        "No model declares tickets.Ticket.new_token any more, so release N+1 is not in this code. "
        "Rehearse with the code that declares it."
    )
    composite = "zoo.CompositeKey has a composite key: it cannot be rehearsed."
    grouped = (
        "zoo.Access.new_token is of a group, whose columns are made of each other: it cannot be "
        "rehearsed yet."
    )
    one_way = (
        "zoo.Secret.digest has no way down: release N must be gone before the swap, and the first "
        "write after it ends the revert, so there is nothing to rehearse."
    )
    unknown = (
        "The clients of a rehearsal know no values of a JSONField to write, so "
        "zoo.Document.body_json cannot be rehearsed."
    )
    for replacement, sentence in (
        (remembered.replacement(), undeclared),
        (Replacement(CompositeKey, UUIDS), composite),
        (Replacement(Access, ACCESS.members[0]), grouped),
        (Replacement(Secret, SECRETS), one_way),
        (Replacement(Document, DOCUMENTS), unknown),
    ):
        with pytest.raises(PlaybookError) as refused:
            list(Rehearsal(SCRIPT, RehearsalOptions(), replacement, connection).run())
        assert str(refused.value) == sentence
    assert scratch_databases(database) == 0


def test_a_template_that_is_not_there_is_named(database: Database) -> None:
    done = database.manage("rehearse", "--template", "nowhere")
    assert done.returncode == 1
    assert done.stderr == (
        'CommandError: There is no database "nowhere" to copy on this server. Name another one '
        "with --template, or leave it out to have rows made.\n"
    )


@pytest.mark.usefixtures("forked")
def test_a_release_that_cannot_set_the_stage_is_named(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "SETTINGS_MODULE", "tests.releases.nowhere")
    with pytest.raises(CommandError) as refused:
        call_command(Command(), rows=10)
    assert str(refused.value) == (
        "The stage could not be set: go back: ModuleNotFoundError: No module named "
        "'tests.releases.nowhere'"
    )
    assert scratch_databases(database) == 0


def test_a_template_that_is_in_use_is_refused(database: Database) -> None:
    with database.connect():
        done = database.manage("rehearse", "--template", database.name)
    assert done.returncode == 1
    assert done.stderr == (
        f'CommandError: The database "{database.name}" is in use, and PostgreSQL copies none that '
        "is. Disconnect its sessions, then run the same command again.\n"
    )
    assert scratch_databases(database) == 0


def test_a_report_that_cannot_be_written_is_refused_before_it_begins(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = database.manage("rehearse", "--report", str(tmp_path / "file" / "below"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"CommandError: {tmp_path / 'file' / 'below'} cannot be written: Not a directory. Name "
        "another place with --report.\n"
    )


def test_a_report_without_the_plotting_library_is_refused_before_it_begins(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What Python does with a module that is not there.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CommandError) as refused:
        call_command(Command(), report=tmp_path / "report")
    assert str(refused.value) == (
        "The report needs matplotlib, which is not installed. Run 'pip install "
        '"django-migrations-playbook[report]"\', or leave --report out.'
    )
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("forked")
def test_a_copy_of_a_database_is_rehearsed_and_the_original_left_alone(
    database: Database,
) -> None:
    add_old_tickets(database, 500)
    before = database.dump()
    play = build_rehearsal(
        RehearsalOptions(
            template=database.name, rate=100, seconds=0.2, max_stall_ms=5000, until="baseline"
        )
    )
    for _ in play.run():
        pass
    assert play.verdict.rows == 500
    assert database.dump() == before
    assert scratch_databases(database) == 0
