"""What the commands refuse: one sentence that names the remedy, and the exit code."""

from __future__ import annotations

import os
from typing import Any

import pytest
from django.core.management import (
    call_command,
    execute_from_command_line,
    get_commands,
    load_command_class,
)
from django.db import connections
from django.db.backends.signals import connection_created

from tests.fixtures.database import Database
from tests.fixtures.tickets import Phase, add_old_tickets, bring_to

OURS = sorted(
    name for name, app in get_commands().items() if app in ("migrations_playbook", "tickets")
)


def run(*arguments: str) -> int:
    """A command line in this process, to its exit code."""
    try:
        execute_from_command_line(["manage.py", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize(
    ("phase", "command", "parts"),
    [
        ("none", "backfill_new_token", ['no column "new_token"', "manage.py migrate"]),
        ("none", "swap_token_columns", ['no column "new_token"', "manage.py migrate"]),
        ("none", "swap_token_columns --revert", ['no column "new_token"', "manage.py migrate"]),
        ("none", "swap_token_columns --dry-run", ['no column "new_token"', "manage.py migrate"]),
        ("expanded", "swap_token_columns", ["3 null rows", "manage.py backfill_new_token"]),
        ("expanded", "swap_token_columns --dry-run", ["3 null rows"]),
        ("expanded", "swap_token_columns --revert", ["nothing to revert", "playbook_status"]),
        ("filled", "swap_token_columns --revert", ["nothing to revert", "playbook_status"]),
        ("swapped", "backfill_new_token", ["is swapped", "nothing to fill", "playbook_status"]),
        ("swapped", "swap_token_columns", ["swapped already", "swap_token_columns --revert"]),
        ("swapped", "swap_token_columns --dry-run", ["swapped already"]),
        ("reverted", "swap_token_columns --revert", ["nothing to revert", "playbook_status"]),
    ],
)  # fmt: skip
def test_in_the_wrong_phase_it_refuses_with_the_next_right_command(
    database: Database,
    phase: Phase,
    command: str,
    parts: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_old_tickets(database, 3)
    bring_to(phase)
    before = database.dump()
    capsys.readouterr()
    assert run(*command.split()) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("CommandError: ")
    assert shown.err.count("\n") == 1
    for part in parts:
        assert part in shown.err
    assert database.dump() == before


@pytest.mark.parametrize("command", ["backfill_new_token", "swap_token_columns"])
@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        ("DROP TRIGGER {} ON tickets_ticket", "manage.py pgtrigger install"),
        ("ALTER TABLE tickets_ticket DISABLE TRIGGER {}", "manage.py pgtrigger enable"),
    ],
)
def test_without_its_trigger_it_refuses_until_the_trigger_is_back(
    database: Database, command: str, damage: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = database.value("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgtrigger_fill_%'")
    database.run(damage.format(name))
    assert run(command) == 1
    assert remedy in capsys.readouterr().err
    assert run(*remedy.split()[1:]) == 0
    assert run(command) == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("backfill_new_token --batch-size 0", "'0' is not a whole number from 1"),
        ("backfill_new_token --batch-size=-5", "'-5' is not a whole number from 1"),
        ("backfill_new_token --batch-size many", "'many' is not a whole number from 1"),
        ("backfill_new_token --batch-size 1.5", "'1.5' is not a whole number from 1"),
        ("backfill_new_token --database nowhere", "invalid choice: 'nowhere'"),
        ("swap_token_columns --database nowhere", "invalid choice: 'nowhere'"),
        ("swap_token_columns --lock-timeout 0", "'0' is not a whole number from 1"),
        ("swap_token_columns --attempts none", "'none' is not a whole number from 1"),
        ("swap_token_columns --max-hold-ms=-1", "'-1' is not a whole number from 1"),
        ("playbook_status --database nowhere", "invalid choice: 'nowhere'"),
        ("playbook_status --quickly", "unrecognized arguments: --quickly"),
    ],
)
def test_what_it_does_not_understand_is_a_usage_error(
    arguments: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments.split()) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["backfill_new_token", "swap_token_columns", "playbook_status", "seed_tickets 5"]
)
def test_a_database_that_is_not_postgresql_is_refused(database: Database, command: str) -> None:
    settings = "tests.fixtures.other_vendor"
    refused = database.manage(*command.split(), "--database", "other", settings=settings)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert 'The database "other" is SQLite' in refused.stderr
    assert "--database" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["backfill_new_token", "swap_token_columns", "playbook_status"])
def test_a_server_that_is_not_there_is_one_sentence(
    database: Database, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Database,
        "environment",
        {**os.environ, "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"},
    )
    refused = database.manage(command)
    assert refused.returncode == 75
    assert "Run the same command again" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "playbook_status",
        "playbook_status --json",
        "backfill_new_token",
        "backfill_new_token --json",
        "backfill_new_token --dry-run",
        "swap_token_columns --dry-run",
    ],
)
def test_output_that_nobody_reads_ends_quietly(database: Database, command: str) -> None:
    bring_to("filled")
    process = database.start(*command.split())
    # As `| head` does when it has seen enough.
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.parametrize("command", OURS)
def test_help_names_every_option_and_its_default(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("help", command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    instance = load_command_class(get_commands()[command], command)
    assert instance.help.split()[0] in shown
    for action in instance.create_parser("manage.py", command)._actions:
        if action.default not in (None, False, "==SUPPRESS==") and action.option_strings:
            assert str(action.default) in shown, action.option_strings


def test_a_wrapper_of_the_projects_gets_text_from_every_command(database: Database) -> None:
    """As Django documents wrappers: a project puts a comment behind each statement."""
    add_old_tickets(database, 3)

    def tag(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        return execute(sql + " /* tag */", params, many, context)

    def wrap(connection: Any, **kwargs: Any) -> None:
        connection.execute_wrappers.append(tag)

    connections["default"].close()
    connection_created.connect(wrap)
    try:
        call_command("migrate", "tickets", "0001", verbosity=0)
        call_command("migrate", verbosity=0)
        call_command("check", databases=["default"])
        call_command("backfill_new_token", no_progress=True)
        for options in ({"dry_run": True}, {}, {"verify": True}, {"revert": True}, {}):
            call_command("swap_token_columns", **options)
        call_command("playbook_status")
    finally:
        connection_created.disconnect(wrap)
        connections["default"].execute_wrappers.clear()
