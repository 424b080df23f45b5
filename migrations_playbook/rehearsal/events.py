"""What happens in a rehearsal, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from migrations_playbook.rehearsal.measure import Figures, Phase, Request, figures


@dataclass(frozen=True)
class Began:
    """A phase begins."""

    name: str


@dataclass(frozen=True)
class Going:
    """How a phase goes.

    Arguments:
        seconds: since it began.
        requests: answered in it so far.
        errors: of these.
        longest_ms: the longest of them, in milliseconds.
    """

    name: str
    seconds: float
    requests: int
    errors: int
    longest_ms: float


@dataclass(frozen=True)
class Ended:
    """A phase ended.

    Arguments:
        lock_hold_ms: how long its strongest lock was held, where it says so.
    """

    figures: Figures
    lock_hold_ms: float | None


@dataclass(frozen=True)
class Note:
    """Something that a person wants to see.

    Arguments:
        text: one sentence or a few lines.
    """

    text: str


@dataclass(frozen=True)
class Tickets:
    """A few rows, each with a fingerprint of its live value.

    Arguments:
        when: in a few words.
        rows: pairs of a primary key and a fingerprint.
    """

    when: str
    rows: tuple[tuple[str, str], ...]


Event = Began | Going | Ended | Note | Tickets


@dataclass
class Result:
    """What came of it.

    Arguments:
        rows: in the table at the start.
        phases: with their times.
        requests: all of them.
        swap: the first exchange's lock: wait and hold in milliseconds, attempts.
        checks: what must be zero, by name.
        reasons: a sentence for each way in which it failed.
    """

    rows: int = 0
    phases: list[Phase] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    swap: dict[str, float] = field(default_factory=dict)
    checks: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not any(self.checks.values())

    @property
    def figures(self) -> list[Figures]:
        return [figures(phase, self.requests) for phase in self.phases]

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "phases": [each.as_json() for each in self.figures],
            "swap": self.swap,
            "checks": self.checks,
            "passed": self.passed,
        }
