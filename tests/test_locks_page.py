"""The page on locks says what the code does."""

from __future__ import annotations

import re
import runpy

from tests.fixtures.database import PROJECT, Database


def without_times(page: str) -> str:
    return re.sub(r"\| [\d.]+ \|$", "| |", page, flags=re.MULTILINE)


def test_the_page_on_locks_is_what_its_script_would_write(database: Database) -> None:
    script = runpy.run_path(str(PROJECT / "docs" / "locks.py"))
    written = (PROJECT / "docs" / "locks.md").read_text()
    found = script["page"](list(script["measure"](2500)), 1_000_000)
    assert without_times(found) == without_times(written), 'run "python docs/locks.py"'
