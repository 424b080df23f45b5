"""One command for every play: the same options, results and exit codes as its aliases have."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from django.contrib.postgres.functions import RandomUUID
from django.core.management import CommandError, call_command

from migrations_playbook import Shadow, commands, history, replacement
from migrations_playbook.management import base
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database, wait_until
from tests.fixtures.tickets import add_old_tickets, nulls, past_the_triggers
from tests.management.test_commands import run
from tickets.models import Ticket

TICKETS = "tickets.Ticket.new_token"


SHOWN = """
CREATE FUNCTION spare() RETURNS SETOF uuid LANGUAGE plpgsql AS
    'BEGIN RETURN QUERY SELECT new_token FROM public.tickets_ticket; END';
CREATE VIEW shows AS
    SELECT spare.token FROM tickets_ticket AS t, spare() AS spare (token) WHERE t.token IS NOT NULL;
"""


@pytest.fixture
def without_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project as one that has written no alias."""
    monkeypatch.setattr(commands, "_read_aliases", dict)


@pytest.fixture
def second_shadow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project as one that declares two shadow columns."""
    other = Shadow(live="token", shadow="other_token", value=RandomUUID())
    both = [find_replacement("tickets.Ticket", "new_token"), replacement.Replacement(Ticket, other)]
    for module in (base, history, replacement):
        monkeypatch.setattr(module, "declared_replacements", lambda: both)


def json_of(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one JSON object that was printed."""
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("target", [TICKETS, "tickets.ticket.new_token", ""])
def test_it_fills_swaps_verifies_and_goes_back(
    database: Database, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_old_tickets(database, 3)
    for arguments, part in (
        ("backfill --no-progress", "Filled 3 rows"),
        ("swap --dry-run", "RENAME"),
        ("swap", "Verified 3 of 3 rows"),
        ("swap --verify", "Verified 3 of 3 rows"),
        ("swap --revert", "Exchanged back"),
    ):
        play, *options = arguments.split()
        assert run("playbook", play, *filter(None, [target]), *options) == 0
        assert part in capsys.readouterr().out
    assert nulls(database) == 0


def test_the_status_shows_all_of_them_or_one(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("playbook", "status", "--json") == 0
    (of_all,) = json_of(capsys)
    assert run("playbook", "status", TICKETS, "--json") == 0
    assert json_of(capsys) == [of_all]


@pytest.mark.parametrize("where", ["before", "after"])
def test_djangos_own_options_may_stand_before_the_play_or_after_it(
    database: Database, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    play, own = ["swap", TICKETS, "--revert"], ["--traceback", "--skip-checks"]
    arguments = [*own, *play] if where == "before" else [*play, *own]
    with pytest.raises(CommandError, match="nothing to revert"):
        run("playbook", *arguments)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("", "required: PLAY"),
        ("swop", "invalid choice: 'swop'"),
        ("swap tickets.Ticket", "'tickets.Ticket' is not app.Model.shadow"),
        ("swap tickets..new_token", "'tickets..new_token' is not app.Model.shadow"),
        ("swap one.two.three.four", "'one.two.three.four' is not app.Model.shadow"),
        ("backfill --batch-size 0", "'0' is not a whole number from 1"),
        ("status --quickly", "unrecognized arguments: --quickly"),
    ],
)
def test_what_it_does_not_understand_is_a_usage_error(
    arguments: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("playbook", *arguments.split()) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize("play", ["backfill", "swap", "status"])
@pytest.mark.parametrize(
    "target", ["tickets.Ticket.old_token", "tickets.Nothing.new_token", "nowhere.Ticket.new_token"]
)
def test_what_nobody_declares_is_one_sentence_that_names_what_is_declared(
    database: Database, play: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("playbook", play, target) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"Declared are: {TICKETS}." in shown.err
    assert shown.err.count("\n") == 1


def test_of_two_it_must_be_said_which(
    database: Database, second_shadow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("playbook", "swap") == 1
    assert f"say which of {TICKETS}, tickets.Ticket.other_token" in capsys.readouterr().err


def test_where_there_is_no_alias_every_message_names_this_command(
    database: Database, without_aliases: None, capsys: pytest.CaptureFixture[str]
) -> None:
    add_old_tickets(database, 3)
    for arguments, exit_code, following in (
        ("swap", 1, f"manage.py playbook backfill {TICKETS}"),
        ("swap --revert", 1, f"manage.py playbook status {TICKETS}"),
        ("status", 0, f"manage.py playbook backfill {TICKETS}"),
        ("backfill --no-progress", 0, f"manage.py playbook swap {TICKETS}"),
        ("status", 0, f"manage.py playbook swap {TICKETS}"),
        ("swap", 0, ""),
        ("swap", 1, f"manage.py playbook swap {TICKETS} --revert"),
        ("backfill", 1, f"manage.py playbook status {TICKETS}"),
    ):
        assert run("playbook", *arguments.split()) == exit_code
        shown = capsys.readouterr()
        assert following in shown.out + shown.err


def test_where_there_is_an_alias_a_message_names_it() -> None:
    found = find_replacement("tickets.Ticket", "new_token")
    assert found.command("backfill") == "manage.py backfill_new_token"
    assert found.command("swap", "--revert") == "manage.py swap_token_columns --revert"
    assert found.command("status") == "manage.py playbook_status"


def test_an_alias_of_another_column_is_never_named() -> None:
    other = replacement.Replacement(
        Ticket, Shadow(live="token", shadow="other_token", value=RandomUUID())
    )
    assert other.command("swap") == "manage.py playbook swap tickets.Ticket.other_token"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("playbook swap", "3 null rows"),
        ("playbook backfill nowhere.Ticket.new_token", "declares no shadow column"),
        ("playbook status nowhere.Ticket.new_token", "declares no shadow column"),
        ("swap_token_columns --revert", "nothing to revert"),
    ],
)
def test_with_json_a_refusal_is_one_object(
    database: Database, arguments: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_old_tickets(database, 3)
    assert run(*arguments.split(), "--json") == 1
    assert part in json_of(capsys)["error"]


def test_with_json_a_stop_is_what_was_done_and_a_sentence(database: Database) -> None:
    add_old_tickets(database, 3)
    with database.connect() as other:
        # A row that is never free keeps the backfill at work.
        other.execute("SELECT FROM tickets_ticket FOR UPDATE LIMIT 1")
        started = database.start("playbook", "backfill", "--json")
        wait_until(lambda: nulls(database) == 1, "two rows are filled")
        started.send_signal(signal.SIGINT)
        output, _ = started.communicate()
    assert started.returncode == 130
    shown = json.loads(output)
    assert shown["rows_filled"] == 2
    assert shown["stopped"].startswith("Stopped: 2 rows filled and kept")


def test_with_json_a_plan_is_data(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    add_old_tickets(database, 3)
    call_command("backfill_new_token", no_progress=True)
    capsys.readouterr()
    assert run("playbook", "swap", "--dry-run", "--json") == 0
    plan = json_of(capsys)
    assert set(plan) >= {"dependents", "before", "exchange", "after"}
    assert "token" in {each["name"] for each in plan["dependents"]}
    assert all(set(step) == {"what", "lock", "statement"} for step in plan["exchange"])
    assert any("CONCURRENTLY" in step["statement"] for step in plan["before"])
    database.run("CREATE TABLE seat (token uuid REFERENCES tickets_ticket (token)); ")
    assert run("playbook", "swap", "--dry-run", "--json") == 1
    plan = json_of(capsys)
    assert "refused" in {each["action"] for each in plan["dependents"]}
    assert "cannot be exchanged" in plan["error"]


def test_with_json_a_backfill_says_its_plan_and_its_control_as_data(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    add_old_tickets(database, 3)
    assert run("playbook", "backfill", "--dry-run", "--json", "--no-throttle") == 0
    plan = json_of(capsys)
    assert (plan["table"], plan["signals"], plan["reasons"]) == (
        "public.tickets_ticket",
        None,
        [],
    )
    assert plan["statements"]
    assert "UPDATE" in plan["statements"][0]
    assert nulls(database) == 3
    assert run("playbook", "backfill", "--pause", "--json") == 0
    assert json_of(capsys)["control"]["paused"] is True


def test_with_json_a_failed_proof_is_what_was_found_and_an_error(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    add_old_tickets(database, 3)
    call_command("backfill_new_token", no_progress=True)
    call_command("swap_token_columns")
    past_the_triggers(
        database,
        "UPDATE tickets_ticket AS t SET token = o.new_token FROM tickets_ticket AS o "
        "WHERE t.id = 1 AND o.id = 2",
    )
    capsys.readouterr()
    assert run("playbook", "swap", "--verify", "--json") == 1
    shown = json_of(capsys)
    assert (shown["passed"], shown["leaked"]) == (False, 1)
    assert "not what they must be" in shown["error"]


def test_with_json_a_swap_whose_proof_fails_tells_its_numbers_too(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """A view over code that goes by name shows the retired values once they are exchanged."""
    add_old_tickets(database, 3)
    database.run(SHOWN)
    call_command("backfill_new_token", no_progress=True)
    capsys.readouterr()
    assert run("playbook", "swap", "--json") == 1
    shown = json_of(capsys)
    assert (shown["phase"], shown["passed"]) == ("swapped", False)
    assert (shown["rows"], shown["leaked"], shown["exposed"]) == (3, 0, 3 * 3)
    assert shown["exposing"] == ["public.shows"]
    assert "not what they must be" in shown["error"]


def test_with_json_a_server_that_is_not_there_is_an_error_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgres://nobody@127.0.0.1:1/none"
    monkeypatch.setattr(Database, "environment", {**database.environment, "DATABASE_URL": url})
    done = database.manage("playbook", "backfill", "--json")
    assert done.returncode == 75
    assert "Run the same command again" in json.loads(done.stdout)["error"]


def test_help_names_each_play_and_each_of_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("help", "playbook") == 0
    shown = capsys.readouterr().out
    for play in ("status", "backfill", "swap"):
        assert play in shown
    assert run("playbook", "backfill", "--help") == 0
    shown = capsys.readouterr().out
    for part in ("app.Model.shadow", "--workers", "--max-slot-wal", "--database", "--skip-checks"):
        assert part in shown
