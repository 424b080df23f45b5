"""Requests, and their sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class ClientRequest(NamedTuple):
    """A request of a client.

    Arguments:
        release: the release that made it.
        kind: the kind of request.
        due: its due time, in seconds of the monotonic clock.
        ms: from its due time to its answer, in milliseconds.
        wrong: the fault in words; empty without.
    """

    release: str
    kind: str
    due: float
    ms: float
    wrong: str


@dataclass(frozen=True)
class PlayedPhase:
    """A played phase.

    Arguments:
        name: the phase.
        began: in seconds of the monotonic clock.
        ended: the same.
        lock_hold_ms: how long its strongest lock was held, in milliseconds; None where unknown.
    """

    name: str
    began: float
    ended: float
    lock_hold_ms: float | None = None


@dataclass(frozen=True)
class PhaseFigures:
    """The sums of a phase's requests; latencies in milliseconds, 0 without requests."""

    name: str
    seconds: float
    requests: int
    errors: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    lock_hold_ms: float | None

    def as_json(self) -> dict[str, Any]:
        """Give the figures as `--json` prints them."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 2),
            "requests": self.requests,
            "errors": self.errors,
            "p50_ms": round(self.p50_ms, 2),
            "p99_ms": round(self.p99_ms, 2),
            "max_ms": round(self.max_ms, 2),
        }


def add_up(phase: PlayedPhase, requests: Sequence[ClientRequest]) -> PhaseFigures:
    """Add up the requests due in a phase."""
    within = [each for each in requests if phase.began <= each.due < phase.ended]
    latencies = sorted(each.ms for each in within)
    return PhaseFigures(
        name=phase.name,
        seconds=phase.ended - phase.began,
        requests=len(within),
        errors=sum(1 for each in within if each.wrong),
        p50_ms=find_quantile(latencies, 0.5),
        p99_ms=find_quantile(latencies, 0.99),
        max_ms=latencies[-1] if latencies else 0.0,
        lock_hold_ms=phase.lock_hold_ms,
    )


def find_quantile(ascending: Sequence[float], fraction: float) -> float:
    """Find the smallest value not exceeded by at least this fraction; 0 of none."""
    if not ascending:
        return 0.0
    return ascending[max(0, math.ceil(fraction * len(ascending)) - 1)]
