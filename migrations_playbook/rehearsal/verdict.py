"""The verdict of a rehearsal: the numbers that must be zero, and the reasons against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from migrations_playbook.rehearsal.traffic.measure import (
    ClientRequest,
    PhaseFigures,
    PlayedPhase,
    add_up,
)


@dataclass(frozen=True)
class Added:
    """The backfill's addition to the requests of the site, in milliseconds.

    No check fails because of this: a baseline of a few seconds on a shared machine proves little.

    Arguments:
        baseline_ms: the 99th percentile of the baseline.
        backfill_ms: the 99th percentile of the backfill.
        allowed_ms: the growth allowed.
    """

    baseline_ms: float
    backfill_ms: float
    allowed_ms: float

    @property
    def added_ms(self) -> float:
        """By how much the 99th percentile grew."""
        return self.backfill_ms - self.baseline_ms

    @property
    def kept(self) -> bool:
        """Whether the 99th percentile grew by no more than allowed."""
        return self.added_ms <= self.allowed_ms

    def __str__(self) -> str:
        return (
            f"In the backfill the 99th percentile of the requests was {self.backfill_ms:.1f} ms, "
            f"{abs(self.added_ms):.1f} ms {'more' if self.added_ms >= 0 else 'less'} than the "
            f"{self.baseline_ms:.1f} ms of the baseline. {self.allowed_ms:g} ms more were allowed: "
            f"{'kept' if self.kept else 'not kept'}."
        )

    def as_json(self) -> dict[str, Any]:
        """Give the comparison as `--json` prints it."""
        return {
            "allowed_ms": self.allowed_ms,
            "added_ms": round(self.added_ms, 2),
            "kept": self.kept,
        }


@dataclass
class Verdict:
    """The verdict of a rehearsal.

    Arguments:
        max_added_ms: how much the backfill may add to the 99th percentile, in milliseconds.
        rows: in the table at the start.
        phases: with their times.
        requests: all of them.
        swap: the first exchange's lock: wait and hold in milliseconds, attempts.
        checks: the numbers that must be zero, by name.
        reasons: a sentence for each way in which the rehearsal failed.
    """

    max_added_ms: float
    rows: int = 0
    phases: list[PlayedPhase] = field(default_factory=list)
    requests: list[ClientRequest] = field(default_factory=list)
    swap: dict[str, float] = field(default_factory=dict)
    checks: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check is zero."""
        return not any(self.checks.values())

    @property
    def failed_checks(self) -> list[str]:
        """The checks that are not zero, by name."""
        return [name for name, number in self.checks.items() if number]

    @property
    def figures(self) -> list[PhaseFigures]:
        """The sums of each phase's requests."""
        return [add_up(phase, self.requests) for phase in self.phases]

    @property
    def added(self) -> Added | None:
        """The backfill's addition to the requests; None until both phases have been played."""
        p99 = {each.name: each.p99_ms for each in self.figures}
        if not {"baseline", "backfill"} <= p99.keys():
            return None
        return Added(p99["baseline"], p99["backfill"], self.max_added_ms)

    def add_failure(self, check: str, reason: str) -> None:
        """Count a violation, and name the fault."""
        self.checks[check] = self.checks.get(check, 0) + 1
        self.reasons.append(reason)

    def judge_requests(self, max_stall_ms: float) -> None:
        """Count the requests that failed or took too long.

        Arguments:
            max_stall_ms: how long a request may take, in milliseconds.
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
        """Count the definitions other than expected; each is said."""
        self.checks["schema"] = len(differences)
        self.reasons += [f"Not as expected: {line}" for line in sorted(differences)]

    def as_json(self) -> dict[str, Any]:
        """Give the verdict as `--json` prints it."""
        return {
            "rows": self.rows,
            "phases": [each.as_json() for each in self.figures],
            "backfill": self.added and self.added.as_json(),
            "swap": self.swap,
            "checks": self.checks,
            "reasons": self.reasons,
            "passed": self.passed,
        }
