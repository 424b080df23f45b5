"""The project's settings: a flag goes before them, they go before the defaults, and are checked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.test import override_settings

from migrations_playbook.backfill.play import Options, plan_backfill
from migrations_playbook.management.base import PlaybookCommand
from migrations_playbook.management.commands.playbook import PLAYS
from migrations_playbook.replacement import find_replacement
from migrations_playbook.settings import SETTINGS, Setting
from tests.fixtures.database import PROJECT, Database
from tests.fixtures.tickets import bring_to

# A value of each kind that no default has.
GIVEN: dict[str, Any] = {"SIZE": "7GB", "SHARE": "7%", "SQL": "SELECT 7", "DIR": "seven"}
PAGE = PROJECT / "docs" / "reference-settings.md"


def options_of(command: type[PlaybookCommand]) -> set[str]:
    parser = command().create_parser("manage.py", command.play)
    return {name[2:] for action in parser._actions for name in action.option_strings}


def plan(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    call_command("backfill_new_token", "--dry-run", "--json", *options)
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown


def complaints() -> list[tuple[str, str | None]]:
    """What the check of the settings says, with its hints."""
    found = run_checks(tags=["migrations_playbook"])
    return [(each.msg, each.hint) for each in found if each.id == "playbook.E033"]


def test_a_flag_goes_before_the_setting_and_the_setting_before_the_default(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(capsys)["vacuum_every"] == 0.1
    with override_settings(PLAYBOOK_VACUUM_EVERY="7%", PLAYBOOK_MAX_ACTIVE=77, PLAYBOOK_WORKERS=3):
        set_so = plan(capsys)
        given = plan(capsys, "--vacuum-every", "0", "--workers", "2", "--max-active", "99")
        called = plan_backfill(
            find_replacement("tickets.Ticket", "new_token"), using="default", options=Options()
        )
    assert (set_so["vacuum_every"], set_so["workers"]) == (0.07, 3)
    assert "sessions at work (limit 77)" in set_so["signals"]
    assert (given["vacuum_every"], given["workers"]) == (0, 2)
    assert "sessions at work (limit 99)" in given["signals"]
    # Neither the signals nor the room on the disk stand still between the two.
    moving = {"signals": None, "predicted": None}
    assert called.as_json() | moving == set_so | moving


def test_a_migrations_lock_is_asked_for_as_the_settings_say(database: Database) -> None:
    bring_to("none")
    with database.connect() as reader, override_settings(PLAYBOOK_ATTEMPTS=2):
        reader.execute("SELECT FROM tickets_ticket")
        with pytest.raises(CommandError, match="in 2 attempts"):
            call_command("migrate", verbosity=0)


@pytest.mark.parametrize("limit", SETTINGS.values(), ids=lambda limit: limit.name)
def test_each_setting_is_read_and_is_an_option_of_the_same_name(limit: Setting) -> None:
    value = GIVEN.get(limit.unit, 7)
    assert limit.read() == limit.default
    with override_settings(**{limit.name: value}):
        assert limit.read() == limit.parse(value) != limit.default
    with override_settings(**{limit.name: None}):
        assert limit.read() == limit.default
    assert any(limit.option in options_of(command) for command in PLAYS.values())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PLAYBOOK_MAX_ADDED", "Write PLAYBOOK_MAX_ADDED_MS."),
        ("PLAYBOOK_LOCK_TIMEOUT_MS", "Write PLAYBOOK_LOCK_TIMEOUT."),
        ("PLAYBOOK_MAXLAG", "Write PLAYBOOK_MAX_LAG."),
        ("PLAYBOK_MAX_LAG", "Write PLAYBOOK_MAX_LAG."),
        ("PLAYBOOK_COLOUR", "Write one of PLAYBOOK_ATTEMPTS, PLAYBOOK_BATCH_SIZE, "),
    ],
)
def test_the_check_finds_a_misspelt_setting_and_says_which_is_meant(name: str, meant: str) -> None:
    assert complaints() == []
    with override_settings(**{name: 5}):
        ((problem, hint),) = complaints()
    assert problem == f"There is no setting {name}."
    assert hint is not None
    assert hint.startswith(meant)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("PLAYBOOK_MAX_LAG", "soon", "'soon' is not a number above 0"),
        ("PLAYBOOK_MAX_LAG", True, "True is not a number above 0"),
        ("PLAYBOOK_MAX_LAG", float("nan"), "nan is not a number above 0"),
        ("PLAYBOOK_WORKERS", 0, "0 is not a whole number from 1"),
        ("PLAYBOOK_WORKERS", 1.5, "1.5 is not a whole number from 1"),
        ("PLAYBOOK_MAX_WAL", "20 apples", "'20 apples' is not a size"),
        ("PLAYBOOK_MAX_WAL", [20], "[20] is not a size"),
        ("PLAYBOOK_DUTY", 2, "2 is not a share"),
        ("PLAYBOOK_THROTTLE_QUERY", 7, "a query is a text"),
    ],
)
def test_the_check_finds_a_wrong_value_and_the_command_does_not_begin(
    database: Database, name: str, value: object, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with override_settings(**{name: value}):
        ((said, hint),) = complaints()
        with pytest.raises(CommandError, match=f"The setting {name} is wrong"):
            call_command("backfill_new_token")
    assert said.startswith(f"The setting {name} is wrong: {problem}")
    assert hint is not None
    assert "the default is" in hint


def test_a_rehearsal_whose_folder_is_none_does_not_begin(database: Database) -> None:
    with override_settings(PLAYBOOK_REPORT=7):
        ((said, _),) = complaints()
        with pytest.raises(CommandError, match="The setting PLAYBOOK_REPORT is wrong"):
            call_command("rehearse")
    assert said == "The setting PLAYBOOK_REPORT is wrong: 7 is not the path of a folder."


def test_the_page_lists_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `(PLAYBOOK_\w+)` \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(each.name, each.standard, each.meaning) for each in SETTINGS.values()]


def test_the_pages_name_no_setting_that_there_is_not() -> None:
    known = {each.name for each in SETTINGS.values()}
    texts = [path.read_text() for path in Path(PROJECT, "docs").glob("*.md")]
    named = {name for text in texts for name in re.findall(r"PLAYBOOK_[A-Z_]*[A-Z]", text)}
    assert named <= known | {"PLAYBOOK_MAX_ADDED"}
