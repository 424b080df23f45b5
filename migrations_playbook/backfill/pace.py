"""How hard to push: the size of a batch, and the pauses between batches. Knows no database."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

# How long a batch should take, and the share of the time to work, while nobody else is at work on
# the server, and beside others. There a batch is shorter than the scheduler's tick (4 ms on a
# Linux of 250 Hz): a request that finds every core taken waits until a process sleeps or its tick
# is over, so it is the length of the batch that it waits for. docs/explanation-update-cost.md has
# the figures.
ALONE_MS, ALONE_DUTY = 50.0, 1.0
BESIDE_MS, BESIDE_DUTY = 4.0, 1 / 3
FIRST_SIZE = 1000
FLOOR, CEILING = 50, 20_000
# The 90th percentile of this many batches steers the size; it is looked at after so many new ones.
WINDOW, LOOK_AFTER = 10, 4
GROWTH = 1.5
FAR_OVER = 5.0


@dataclass(frozen=True)
class Pace:
    """What the user asks for.

    Arguments:
        target_ms: how long a batch should take, in milliseconds; None for `ALONE_MS`, and
            `BESIDE_MS` while others are at work on the server.
        batch_size: rows in a batch, fixed; None to let `target_ms` decide.
        max_rows_per_second: the most that this process may fill; None for no bound.
        duty: the share of the time that a worker is at work, above 0 and up to 1; None for
            `ALONE_DUTY`, and `BESIDE_DUTY` while others are at work on the server.
    """

    target_ms: float | None = None
    batch_size: int | None = None
    max_rows_per_second: float | None = None
    duty: float | None = None


class BatchSize:
    """Rows in the next batch, from how long the last ones took.

    Arguments:
        fixed: a size that never changes, but for being halved when a batch fails.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.fixed = fixed is not None
        self.rows = FIRST_SIZE if fixed is None else fixed
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def took(self, rows: int, ms: float, *, target_ms: float) -> None:
        """Take a committed batch into account.

        Arguments:
            rows: rows in it. One that was not full, at the end of a stretch, tells little.
            ms: how long it took, in milliseconds.
            target_ms: how long it should have taken.
        """
        if self.fixed or not rows:
            return
        if ms > FAR_OVER * target_ms:
            self._set(rows * target_ms / ms)
            return
        if rows < self.rows:
            return
        self._recent.append(ms)
        if len(self._recent) >= LOOK_AFTER:
            slow = percentile_90(self._recent)
            self._set(self.rows * min(target_ms / max(slow, 0.001), GROWTH))

    def failed(self) -> None:
        """A statement timeout or a deadlock: halve it, also when it is fixed."""
        self._recent.clear()
        self.rows = max(1, self.rows // 2)

    def _set(self, rows: float) -> None:
        self._recent.clear()
        self.rows = round(min(max(rows, FLOOR), CEILING))


def percentile_90(values: deque[float]) -> float:
    """The nearest-rank 90th percentile."""
    ordered = sorted(values)
    return ordered[-(-9 * len(ordered) // 10) - 1]


class Pacer:
    """The pace of a process, shared by its workers; may be changed while they work.

    Arguments:
        pace: what the user asks for.
    """

    def __init__(self, pace: Pace) -> None:
        self._lock = threading.Lock()
        self._next = 0.0
        self.pace = pace
        # Whether somebody else is at work on the server.
        self.shared = False
        self.size = BatchSize(pace.batch_size)

    @property
    def target_ms(self) -> float:
        """How long a batch should take now, in milliseconds."""
        return self.pace.target_ms or (BESIDE_MS if self.shared else ALONE_MS)

    @property
    def duty(self) -> float:
        """The share of the time that a worker is to be at work now."""
        return self.pace.duty or (BESIDE_DUTY if self.shared else ALONE_DUTY)

    @property
    def gentle(self) -> bool:
        """Whether it goes gently for the sake of others; not when the user has said how to go."""
        told = self.pace.target_ms or self.pace.batch_size
        return self.shared and not (told and self.pace.duty)

    @property
    def rows(self) -> int:
        """Rows in the next batch. A bound on the rate also bounds it, to a second's worth."""
        most = self.pace.max_rows_per_second
        return self.size.rows if most is None else max(1, min(self.size.rows, int(most)))

    def failed(self) -> None:
        with self._lock:
            self.size.failed()

    def took(self, rows: int, seconds: float, *, now: float | None = None) -> float:
        """Take a committed batch into account; return how long to pause, in seconds.

        Arguments:
            rows: rows in it.
            seconds: how long it took.
            now: for tests; `time.monotonic()`.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            self.size.took(rows, seconds * 1000, target_ms=self.target_ms)
            pause = seconds * (1 / self.duty - 1)
            if self.pace.max_rows_per_second is not None:
                # Each batch books its share of time behind those of the other workers.
                self._next = max(self._next, now - seconds) + rows / self.pace.max_rows_per_second
                pause = max(pause, self._next - now)
            return pause
