"""The plays that write a migration, called as functions."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command

from migrations_playbook.errors import PlaybookError, WrongPhase
from migrations_playbook.writing.play import contract, ensure, expand, forget

TICKET = ("tickets.Ticket", "new_token")


def test_a_function_says_what_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    written = ensure(*TICKET, up_to=7, dry_run=True)
    assert written.path is None
    assert written.name.startswith("tickets.")
    assert written.name.endswith("_ensure_ticket_new_token")
    assert "up_to=7" in written.text
    call_command("playbook", "ensure", "--up-to", "7", "--dry-run", "--json")
    shown = json.loads(capsys.readouterr().out)
    # But for the time of day in the first line.
    assert [written.as_json() | {"text": None}, written.text.splitlines()[1:]] == [
        shown | {"text": None},
        shown["text"].splitlines()[1:],
    ]


def test_out_of_turn_a_function_raises_what_its_command_says() -> None:
    for play in (expand, forget, contract):
        with pytest.raises(WrongPhase):
            play(*TICKET, dry_run=True)
    with pytest.raises(PlaybookError, match="no shadow"):
        expand("tickets.Ticket", "other", dry_run=True)
