"""The processes of a rehearsal reach the scratch database alone, and end with the rehearsal."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from migrations_playbook.errors import PlaybookError
from migrations_playbook.rehearsal.__main__ import point_databases, refuse_other_database
from migrations_playbook.rehearsal.runner import ProcessRunner, StepFailed, finish_all
from migrations_playbook.rehearsal.scratch import ScratchDatabase, compose_conninfo
from migrations_playbook.rehearsal.script import Script
from tests.fixtures.database import Database, wait_until


@pytest.fixture
def runner(database: Database) -> ProcessRunner:
    """What starts processes on a test's database, as if that were the scratch one."""
    name = database.name
    scratch = ScratchDatabase("default", name, compose_conninfo(connection, name))
    return ProcessRunner(Script("tickets.Ticket", "new_token"), scratch)


def test_every_alias_leads_to_the_scratch_database_or_nowhere() -> None:
    databases: dict[str, dict[str, Any]] = {
        "default": {"ENGINE": "django.db.backends.postgresql", "NAME": "site", "HOST": "here"},
        "replica": {
            "ENGINE": "django.db.backends.postgresql",
            "OPTIONS": {"service": "site", "dbname": "site", "sslmode": "require"},
        },
        "notes": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/var/lib/site/notes"},
    }
    point_databases(databases, "rehearsal_1")
    assert [each["NAME"] for each in databases.values()] == [
        "rehearsal_1",
        "rehearsal_1",
        ":memory:",
    ]
    assert databases["default"]["HOST"] == "here"
    assert databases["replica"]["OPTIONS"] == {"service": "site", "sslmode": "require"}


def test_a_process_that_finds_itself_elsewhere_ends(database: Database) -> None:
    with pytest.raises(PlaybookError) as refused:
        refuse_other_database("default", "rehearsal_1")
    assert str(refused.value) == (
        f'The connection of "default" leads to "{database.name}" rather than to the scratch '
        "database. Name the server itself in DATABASES, not a pooler."
    )


def test_a_step_that_fails_says_its_last_line_and_no_value(
    runner: ProcessRunner, database: Database
) -> None:
    database.run("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
    database.run("ALTER TABLE tickets_ticket ADD CHECK (redeemed_at IS NOT NULL) NOT VALID")
    with pytest.raises(StepFailed) as failed:
        finish_all(runner.run("add rows", count=1))
    assert str(failed.value).startswith("add rows: No row of tickets.Ticket can be made of its")
    with pytest.raises(StepFailed) as failed:
        finish_all(runner.run_command("playbook", "swap", "tickets.Ticket.nothing", "--json"))
    assert str(failed.value).startswith("playbook swap tickets.Ticket.nothing: tickets.Ticket")


def test_settings_that_are_in_no_module_are_refused(
    runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "SETTINGS_MODULE", None)
    with pytest.raises(PlaybookError) as refused:
        runner.start("prepare")
    assert str(refused.value) == (
        "The settings are in no module, so no other process can have them. Put them into one, "
        "and name it in DJANGO_SETTINGS_MODULE."
    )


def test_a_command_ends_with_the_rehearsal_that_started_it(
    runner: ProcessRunner, database: Database
) -> None:
    with database.connect() as gate:
        gate.execute("LOCK TABLE tickets_ticket")
        started = runner.start_command("migrate", "tickets", "0001", "--verbosity", "0")
        waiting = (
            "SELECT max(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND %s = ANY (pg_blocking_pids(pid))"
        )
        wait_until(lambda: database.value(waiting, gate.info.backend_pid), "it waits for the lock")
        # As the kernel does for a process that is killed.
        assert started.stdin is not None
        started.stdin.close()
        started.stdin = None
        assert started.wait(timeout=30) == -signal.SIGTERM
        started.communicate()
