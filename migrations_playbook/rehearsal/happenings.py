"""The happenings of a rehearsal, for a command to show."""

from __future__ import annotations

from dataclasses import dataclass

from migrations_playbook.rehearsal.traffic.measure import PhaseFigures


@dataclass(frozen=True)
class PhaseBegan:
    """A phase begins."""

    name: str


@dataclass(frozen=True)
class PhaseGoing:
    """How a phase goes.

    Arguments:
        seconds: since the phase began.
        requests: answered in the phase so far.
        errors: of these.
        longest_ms: the longest of them, in milliseconds.
    """

    name: str
    seconds: float
    requests: int
    errors: int
    longest_ms: float


@dataclass(frozen=True)
class PhaseEnded:
    """A phase ended.

    Arguments:
        figures: the sums of its requests, and its strongest lock.
    """

    figures: PhaseFigures


@dataclass(frozen=True)
class Remark:
    """Something that a person wants to see.

    Arguments:
        text: a sentence or a few lines.
    """

    text: str


@dataclass(frozen=True)
class Fingerprints:
    """A few rows, each with a fingerprint of its live value.

    Arguments:
        when: in a few words.
        rows: pairs of a primary key and a fingerprint.
    """

    when: str
    rows: tuple[tuple[str, str], ...]


Happening = PhaseBegan | PhaseGoing | PhaseEnded | Remark | Fingerprints
