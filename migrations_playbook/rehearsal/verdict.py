"""What came of a rehearsal: what must be zero, and why it was not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from migrations_playbook.rehearsal.traffic.measure import (
    ClientRequest,
    PhaseFigures,
    PlayedPhase,
    add_up,
)


@dataclass
class Verdict:
    """What came of a rehearsal.

    Arguments:
        rows: in the table at the start.
        phases: with their times.
        requests: all of them.
        swap: the first exchange's lock: wait and hold in milliseconds, attempts.
        checks: what must be zero, by name.
        reasons: a sentence for each way in which the rehearsal failed.
    """

    rows: int = 0
    phases: list[PlayedPhase] = field(default_factory=list)
    requests: list[ClientRequest] = field(default_factory=list)
    swap: dict[str, float] = field(default_factory=dict)
    checks: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything is zero that must be."""
        return not any(self.checks.values())

    @property
    def failed_checks(self) -> list[str]:
        """The checks that are not zero, by name."""
        return [name for name, number in self.checks.items() if number]

    @property
    def figures(self) -> list[PhaseFigures]:
        """What the requests of each phase add up to."""
        return [add_up(phase, self.requests) for phase in self.phases]

    def add_failure(self, check: str, reason: str) -> None:
        """Count a violation, and say what it was."""
        self.checks[check] = self.checks.get(check, 0) + 1
        self.reasons.append(reason)

    def judge_requests(self, max_stall_ms: float) -> None:
        """Count the requests that failed or took too long.

        Arguments:
            max_stall_ms: how long one may take, in milliseconds.
        """
        failed = [each for each in self.requests if each.wrong]
        slow = [each.ms for each in self.requests if each.ms > max_stall_ms]
        self.checks["failed_requests"] = len(failed)
        self.checks["slow_requests"] = len(slow)
        for release, wrong in sorted({(each.release, each.wrong) for each in failed}):
            self.reasons.append(f"Release {release} had a failed request: {wrong}.")
        if slow:
            self.reasons.append(
                f"The longest of {len(slow)} slow requests took {max(slow):.0f} ms."
            )

    def judge_processes(self, problems: list[str]) -> None:
        """Count the client processes that ended on their own; each problem is said."""
        self.checks["failed_processes"] = len(problems)
        self.reasons += [f"{each[0].upper()}{each[1:]}." for each in problems]

    def judge_schema(self, differences: set[str]) -> None:
        """Count the definitions that are not as expected; each is said."""
        self.checks["schema"] = len(differences)
        self.reasons += [f"Not as expected: {line}" for line in sorted(differences)]

    def as_json(self) -> dict[str, Any]:
        """Give the verdict as `--json` prints it."""
        return {
            "rows": self.rows,
            "phases": [each.as_json() for each in self.figures],
            "swap": self.swap,
            "checks": self.checks,
            "reasons": self.reasons,
            "passed": self.passed,
        }
