"""What a backfill reports while it works."""

from __future__ import annotations

from dataclasses import dataclass

from migrations_playbook.backfill.cost import Cost


@dataclass(frozen=True)
class Started:
    """The work ahead.

    Arguments:
        total: rows to fill.
        exact: whether the rows were counted, and not told from a sample.
        workers: threads that fill.
    """

    total: int
    exact: bool
    workers: int = 1


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
        signals: the names of what is waited for, by which the time is counted.
        seconds: the wait since the last event of this kind.
    """

    reason: str
    signals: tuple[str, ...] = ("locked rows",)
    seconds: float = 0.0


@dataclass(frozen=True)
class Paced:
    """What the site feels, and the pace that follows, twice a second beside others.

    Arguments:
        felt_ms: by how much the 99th percentile of requests has grown, as near as probes tell.
        allowed_ms: by how much it may.
        target_ms: how long a batch should take.
        duty: the share of the time that a worker is at work.
    """

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
        return {name: round(value, 2) for name, value in vars(self).items()}


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
        cost: what was predicted, and what the backfill took; None as above.
        reason: which bound was reached, in a sentence; None when it was none.
    """

    rows_remaining: int | None
    complete: bool
    batch_size: int
    cost: Cost | None = None
    reason: str | None = None


Event = Started | Batch | Recounted | Waiting | Paced | Note | Vacuumed | Finished
