"""The events of a backfill at work."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

from migrations_playbook.backfill.cost import Cost


@dataclass(frozen=True)
class Started:
    """The work ahead.

    Arguments:
        total: rows to fill.
        exact: whether the rows were counted, not estimated from a sample.
        workers: filling threads.
    """

    total: int
    exact: bool
    workers: int = 1


@dataclass(frozen=True)
class Batch:
    """A committed batch.

    Arguments:
        rows: rows filled.
        seconds: from its first statement to its commit.
    """

    level: ClassVar[int] = logging.DEBUG

    rows: int
    seconds: float


@dataclass(frozen=True)
class Recounted:
    """The remaining rows, whoever filled the others.

    Arguments:
        remaining: how many.
        exact: whether they were counted, not estimated from a sample.
    """

    level: ClassVar[int] = logging.DEBUG

    remaining: int
    exact: bool


@dataclass(frozen=True)
class Waiting:
    """Nothing could be done just now.

    Arguments:
        reason: why, in a few words.
        signals: the names of the signals waited for, by which the time is counted.
        seconds: the wait since the last event of this kind.
        news: whether the last look found other signals, or none.
    """

    reason: str
    signals: tuple[str, ...] = ("locked rows",)
    seconds: float = 0.0
    news: bool = True

    @property
    def level(self) -> int:
        """Return the level in the log, where a wait is looked at twice a second."""
        return logging.INFO if self.news else logging.DEBUG


@dataclass(frozen=True)
class Paced:
    """The site's feeling, and the resulting pace, twice a second beside others.

    Arguments:
        felt_ms: by how much the 99th percentile of requests has grown, as near as probes tell.
        allowed_ms: the growth allowed, in milliseconds.
        target_ms: how long a batch should take.
        duty: the share of the time at work for a worker.
    """

    level: ClassVar[int] = logging.DEBUG

    felt_ms: float
    allowed_ms: float
    target_ms: float
    duty: float

    def __str__(self) -> str:
        rests = "" if self.duty == 1 else f", {self.duty:.0%} of the time"
        return (
            f"the site feels {self.felt_ms:.1f} ms of {self.allowed_ms:g} ms, batches of "
            f"{self.target_ms:.0f} ms{rests}"
        )

    def as_json(self) -> dict[str, float]:
        """Build the form of the event in the JSON result."""
        return {name: round(value, 2) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Note:
    """Something to be said once.

    Arguments:
        text: a sentence.
    """

    level: ClassVar[int] = logging.WARNING

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Lost:
    """Workers have lost the connection; what they had committed stays.

    Arguments:
        number: how many, since the last event of this kind.
        replaced: whether others take their places, or have done so too often.
    """

    level: ClassVar[int] = logging.WARNING

    number: int
    replaced: bool

    def __str__(self) -> str:
        who = "A worker" if self.number == 1 else f"{self.number} workers"
        then = (
            "is replaced in a moment" if self.replaced else "is not replaced again, after so many"
        )
        return f"{who} lost the connection, and {then}; nothing is lost."


@dataclass(frozen=True)
class Vacuumed:
    """A slice was vacuumed, or another vacuum was at work already.

    Arguments:
        ran: whether the vacuum was ours.
    """

    ran: bool


@dataclass(frozen=True)
class Finished:
    """The end: no null is left, a stop was asked for, or a bound was reached.

    Arguments:
        rows_remaining: exact; None when the server could not be asked any more.
        complete: whether no null is left.
        batch_size: rows in a batch, at the end.
        cost: the prediction, and the backfill's real cost; None as above.
        reason: which bound was reached, in a sentence; None without.
        valueless: the remaining rows whose value cannot be converted, once all others are filled.
    """

    rows_remaining: int | None
    complete: bool
    batch_size: int
    cost: Cost | None = None
    reason: str | None = None
    valueless: int = 0


Event = Started | Batch | Recounted | Waiting | Paced | Note | Lost | Vacuumed | Finished
