"""How hard to push: the size of a batch, and the pauses between batches. Knows no database."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass

from migrations_playbook.backfill.pacing.steering import Felt, Steering
from migrations_playbook.settings import ALONE_MS, setting

# So few that the first batches are short on any server; some batches later they are long enough.
FIRST_SIZE = 200
FLOOR, CEILING = 50, 20_000
# The 90th percentile of this many batches steers the size, looked at after so many new batches.
WINDOW, LOOK_AFTER = 10, 4
USUAL_SHARE = 0.9
# Where the site decides, the median steers: whoever shares a core with others is put off now and
# then through no fault of a batch's size, and the probe feels long batches as requests do.
STEERED_SHARE = 0.5
GROWTH = 1.5
# A batch so many times over shrinks the size at once, unless the batch took less than this, in ms.
FAR_OVER, HARDLY_LONG_MS = 5.0, 100.0


@dataclass(frozen=True)
class Pace:
    """The pace that the user asks for.

    Arguments:
        target_ms: how long a batch should take, in milliseconds; None for `ALONE_MS`, and for
            `Steering` while others are at work on the server.
        batch_size: rows in a batch, fixed; None to let `target_ms` decide.
        max_rows_per_second: the most that this process may fill; None for no bound.
        duty: the share of the time at work for a worker, above 0 and up to 1; None for all the
            time, and for `Steering` while others are at work on the server.
        max_added_ms: by how much the 99th percentile of the site's requests may grow, in
            milliseconds.
    """

    target_ms: float | None = setting("target-ms")
    batch_size: int | None = setting("batch-size")
    max_rows_per_second: float | None = setting("max-rows-per-second")
    duty: float | None = setting("duty")
    max_added_ms: float = setting("max-added-ms")

    @property
    def steered(self) -> bool:
        """Whether anything is left for `Steering` to decide."""
        return not ((self.target_ms or self.batch_size) and self.duty)


class BatchSize:
    """Rows in the next batch, from the durations of the last batches.

    Arguments:
        fixed: a size that never changes, but for being halved when a batch fails.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.fixed = fixed is not None
        self.rows = FIRST_SIZE if fixed is None else fixed
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def took(self, rows: int, ms: float, *, target_ms: float, share: float = USUAL_SHARE) -> None:
        """Take a committed batch into account.

        Arguments:
            rows: rows in the batch. A batch that was not full, at the end of a stretch, tells
                little.
            ms: the batch's duration, in milliseconds.
            target_ms: the intended duration, in milliseconds.
            share: of the batches, to take no longer.
        """
        if self.fixed or not rows:
            return
        if ms > max(FAR_OVER * target_ms, HARDLY_LONG_MS):
            self._set(rows * target_ms / ms)
            return
        if rows < self.rows:
            return
        self._recent.append(ms)
        if len(self._recent) >= LOOK_AFTER:
            slow = nearest_rank(self._recent, share)
            self._set(self.rows * min(target_ms / max(slow, 0.001), GROWTH))

    def failed(self) -> None:
        """Halve the size after a statement timeout or a deadlock, also a fixed size."""
        self._recent.clear()
        self.rows = max(1, self.rows // 2)

    def _set(self, rows: float) -> None:
        self._recent.clear()
        self.rows = round(min(max(rows, FLOOR), CEILING))


def nearest_rank(values: deque[float], share: float) -> float:
    """Pick the smallest value not exceeded by at least this share of the values."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


class Pacer:
    """The pace of a process, shared by its workers; may be changed while they work.

    Arguments:
        pace: the user's pace.
    """

    def __init__(self, pace: Pace) -> None:
        self._lock = threading.Lock()
        self._next = 0.0
        self.pace = pace
        # Whether somebody else is at work on the server.
        self.shared = False
        self.steering = Steering()
        self.size = BatchSize(pace.batch_size)

    @property
    def target_ms(self) -> float:
        """How long a batch should take now, in milliseconds."""
        return self.pace.target_ms or (self.steering.target_ms if self.shared else ALONE_MS)

    @property
    def duty(self) -> float:
        """The share of the time at work for a worker now."""
        return self.pace.duty or (self.steering.duty if self.shared else 1.0)

    @property
    def gentle(self) -> bool:
        """Whether the pace is for the sake of others; not when the user has set the pace."""
        return self.shared and self.pace.steered

    @property
    def rows(self) -> int:
        """Rows in the next batch. A bound on the rate also bounds them, to a second's worth."""
        most = self.pace.max_rows_per_second
        return self.size.rows if most is None else max(1, min(self.size.rows, int(most)))

    def feel(self, felt: Felt, *, at_rest: bool, now: float) -> None:
        """Take a probe of the site into account, at rest or beside our own work.

        Arguments:
            now: in seconds of the monotonic clock.
        """
        if at_rest:
            self.steering.baseline.add(felt)
        elif self.gentle:
            self.steering.feel(felt, self.pace.max_added_ms, now)

    def failed(self) -> None:
        """Halve the size after a batch that failed."""
        with self._lock:
            self.size.failed()

    def took(self, rows: int, seconds: float, *, now: float | None = None) -> float:
        """Take a committed batch into account; return how long to pause, in seconds.

        Arguments:
            rows: rows in the batch.
            seconds: the batch's duration.
            now: for tests; `time.monotonic()`.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            steered = self.gentle and not self.pace.target_ms
            share = STEERED_SHARE if steered else USUAL_SHARE
            self.size.took(rows, seconds * 1000, target_ms=self.target_ms, share=share)
            pause = seconds * (1 / self.duty - 1)
            if self.pace.max_rows_per_second is not None:
                # Each batch books its share of time behind the shares of the other workers.
                self._next = max(self._next, now - seconds) + rows / self.pace.max_rows_per_second
                pause = max(pause, self._next - now)
            return pause
