"""The last rehearsal's verdict, from the report that `rehearse --report` leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from migrations_playbook.errors import PlaybookError
from migrations_playbook.replacement import Replacement
from migrations_playbook.settings import SETTINGS


@dataclass(frozen=True)
class Report:
    """What a rehearsal came to.

    Arguments:
        passed: whether every check was zero.
        rows: how many rows it was played with.
        reasons: a sentence for each way in which it failed.
        written: when.
    """

    passed: bool
    rows: int
    reasons: tuple[str, ...]
    written: datetime


def read_report(replacement: Replacement) -> Report | None:
    """Read the last report of a replacement's rehearsal; None where there is none to be read."""
    try:
        folder = SETTINGS["report"].read()
        if folder is None:
            return None
        path = folder / "report.json"
        found: dict[str, Any] = json.loads(path.read_text())
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValueError, PlaybookError):
        return None
    if not isinstance(found, dict) or found.get("replacement") != str(replacement):
        return None
    return Report(
        passed=found.get("passed") is True,
        rows=int(found.get("rows", 0)),
        reasons=tuple(map(str, found.get("reasons", ()))),
        written=written,
    )
