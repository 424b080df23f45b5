"""What a backfill reports while it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """The work ahead.

    Arguments:
        total: rows to fill.
        exact: whether that was counted, or told from a sample.
    """

    total: int
    exact: bool


@dataclass(frozen=True)
class Batch:
    """One committed batch.

    Arguments:
        rows: rows filled.
        seconds: from its first statement to its commit.
    """

    rows: int
    seconds: float


@dataclass(frozen=True)
class Recounted:
    """The rows that are left, whoever filled the others.

    Arguments:
        remaining: how many.
        exact: whether they were counted, and not told from a sample.
    """

    remaining: int
    exact: bool


@dataclass(frozen=True)
class Waiting:
    """Nothing could be done just now.

    Arguments:
        reason: why, in a few words.
        signals: the names of what it waits for, by which the time is counted.
        seconds: how long it has waited since the last event of this kind.
    """

    reason: str
    signals: tuple[str, ...] = ("locked rows",)
    seconds: float = 0.0


@dataclass(frozen=True)
class Note:
    """Something to be said once.

    Arguments:
        text: a sentence.
    """

    text: str


@dataclass(frozen=True)
class Vacuumed:
    """A slice was vacuumed, or another vacuum was at work already.

    Arguments:
        ran: whether it was ours.
    """

    ran: bool


@dataclass(frozen=True)
class Finished:
    """The end: no null is left, a stop was asked for, or a bound was reached.

    Arguments:
        rows_remaining: exact.
        complete: whether no null is left.
        batch_size: rows in a batch, at the end.
        reason: which bound was reached, in a sentence; None when it was none.
    """

    rows_remaining: int
    complete: bool
    batch_size: int
    reason: str | None = None


Event = Started | Batch | Recounted | Waiting | Note | Vacuumed | Finished
