"""What a person sees while the backfill is at work."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress

import pytest

from migrations_playbook.backfill.events import Batch, Event, Finished, Recounted, Started, Waiting
from migrations_playbook.management import progress
from migrations_playbook.management.progress import Tally, draw_progress
from tests.fixtures.database import PROJECT, Database
from tests.fixtures.tickets import add_old_tickets


def test_on_a_terminal_it_draws_one_live_line(database: Database) -> None:
    add_old_tickets(database, 200)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "manage.py", "backfill_new_token", "--batch-size", "20"],
        cwd=PROJECT,
        env={**database.environment, "TERM": "xterm-256color", "COLUMNS": "120"},
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
    ) as process:
        os.close(theirs)
        drawn = b""
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 65536):
                drawn += chunk
        os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())
    assert "200 / 200" in text
    assert re.search(r"100 ?%", text)
    assert "rows/s" in text
    # The bar and the result: a bar that prints a line a frame would leave many.
    assert text.count("\r\n") < 12


def test_on_80_columns_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    ours, theirs = pty.openpty()
    drawn = b""

    def events() -> Generator[Event, None, None]:
        nonlocal drawn
        yield Started(1_000_000, exact=True)
        yield Batch(500_000, 1.0)
        yield Waiting("paused; --resume goes on")
        while b"goes on" not in drawn:
            drawn += os.read(ours, 65536)

    with os.fdopen(theirs, "w") as terminal:
        draw_progress(events(), Tally(), what="new_token", stream=terminal)
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())
    shown = next(line for line in text.splitlines() if "500,000 / 1,000,000" in line)
    assert "50 %" in shown
    assert len(shown.rstrip()) <= 80
    assert "…" not in text
    assert "paused; --resume goes on" in text.splitlines()


def test_a_batch_that_was_counted_already_is_not_shown_twice() -> None:
    shown = io.StringIO()

    def events() -> Generator[Event, None, None]:
        yield Started(100, exact=True)
        yield Batch(30, 0.1)
        # Of the 40 that are left none is in the batch that is told of only now.
        yield Recounted(40, exact=True)
        yield Batch(30, 0.1)
        yield Batch(40, 0.1)
        yield Finished(0, complete=True, batch_size=40)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "PLAIN_EVERY", 0)
        draw_progress(events(), Tally(), what="new_token", stream=shown)
    counts = re.findall(r"(\d+) / (\d+) rows", shown.getvalue())
    assert {total for _, total in counts} == {"100"}
    assert [done for done, _ in counts] == ["0", "30", "60", "90", "100", "100"]
