"""The page on locks says what the code does."""

from __future__ import annotations

import re
import runpy

from tests.fixtures.database import PROJECT, Database

# The major version since which NOT NULL constraints have names, which the swap carries over.
NAMES_NOT_NULL = 18


def without_times(page: str) -> str:
    return re.sub(r"\| [\d.]+ \|$", "| |", page, flags=re.MULTILINE)


def test_the_page_on_locks_is_what_its_script_would_write(database: Database) -> None:
    script = runpy.run_path(str(PROJECT / "docs" / "locks.py"))
    written = (PROJECT / "docs" / "locks.md").read_text()
    found = script["page"](list(script["measure"](2500)), 1_000_000)
    if database.value("SELECT current_setting('server_version_num')::int / 10000") < NAMES_NOT_NULL:
        # Fewer statements are needed there, and no other.
        new = set(without_times(found).splitlines()) - set(without_times(written).splitlines())
        assert not [line for line in new if line.startswith("|")]
    else:
        assert without_times(found) == without_times(written), 'run "python docs/locks.py"'
