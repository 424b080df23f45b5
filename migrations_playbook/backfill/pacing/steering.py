"""The pace by the site: batches are lengthened and shortened as requests feel them.

A probe works like a request, again and again (`probe`). Here its times are compared with the site's
times at rest, and a pace follows from the difference. Knows no database and no clock.

There is a single number, the level, in milliseconds. The level is the length of a batch at full
duty, since a request waits for a batch to end, down to batches that are shorter than the allowance.
What is felt of these is the want of a core; so from there on batches stay as short as they are, and
rests come between them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

# The first and the longest batch beside others, in milliseconds.
FIRST_MS, LONGEST_MS = 4.0, 50.0
# The shortest batch: so much of the allowance, within these bounds in milliseconds. Shorter batches
# cost more a row than they spare the site.
SHORTEST_SHARE, SHORTEST_MS = 0.8, (2.0, FIRST_MS)
# The lowest level: a twentieth of the time in the shortest batches.
LOWEST_DUTY = 1 / 20
# Where there is no probe: shorter than the scheduler's tick (4 ms on a Linux of 250 Hz). With every
# core taken a request waits until a process sleeps or its tick is over.
UNFELT_MS = 4.0
# Of so many probes at rest the second highest stands for the 99th percentile.
REST_SAMPLES, REST_KEPT = 40, 120
# A step down: above the allowance more often than one probe in a hundred, and than at rest; by
# more than chance explains, among the last few probes or among the last many.
ONE_IN, WINDOWS = 100, (10, 50, 250)
CHANCE = 3.0
MOST_RECENT, TOLD = 500, 100
DOWN = 0.5
# A step up: among so many, none was above this share of the allowance, but as at rest.
UP_AFTER, UP_SHARE = 100, 0.7
UP = 1.25
# For how long too high a level is not tried again, in seconds; twice as long each time.
HOLD, LONGEST_HOLD = 30.0, 480.0
# Probes under way when the level changed say nothing of the new level, in seconds.
SETTLE = 0.2


@dataclass(frozen=True)
class Felt:
    """A probe: the feeling of a request.

    Arguments:
        read_ms: how long a read by key took, in milliseconds.
        commit_ms: how long a commit without a change took, in milliseconds.
        behind_us: whether a session of the site's stood behind a row of ours.
    """

    read_ms: float
    commit_ms: float
    behind_us: bool = False


class Baseline:
    """The site without us: probes made while no worker and no vacuum of ours was at work."""

    def __init__(self) -> None:
        self._probes: deque[Felt] = deque(maxlen=REST_KEPT)
        # Another process's baseline, felt before us: its workers do not rest for us.
        self.told: tuple[float, float] | None = None

    def add(self, felt: Felt) -> None:
        """Take a probe at rest into account."""
        self._probes.append(felt)

    @property
    def known(self) -> bool:
        """Whether the site at rest is known: by our own probes, or from another process."""
        return self._own or self.told is not None

    @property
    def _own(self) -> bool:
        return len(self._probes) >= REST_SAMPLES

    @property
    def felt(self) -> tuple[float, float]:
        """The 99th percentiles of reads and of commits, as near as so few samples come to them.

        Those of our own probes, or else those that were told.
        """
        if self.told is not None and not self._own:
            return self.told
        return (
            near_highest([each.read_ms for each in self._probes]),
            near_highest([each.commit_ms for each in self._probes]),
        )

    @property
    def high(self) -> tuple[float, float]:
        """The lower of both: of two that began together each has rested beside the other's work."""
        reads, commits = self.felt
        told_reads, told_commits = self.told or self.felt
        return min(reads, told_reads), min(commits, told_commits)

    def added(self, felt: Felt) -> float:
        """Compute by how much a probe took longer than at rest, in milliseconds."""
        return max(0.0, *_exceed(felt, self.high))

    def share_above(self, ms: float) -> float:
        """Compute the share of the probes at rest that took longer than usual by so much."""
        if not self._own:
            return 0.0
        high = self.felt
        above = sum(max(_exceed(each, high)) > ms for each in self._probes)
        return above / len(self._probes)


class Steering:
    """The pace beside others, from what probes feel."""

    def __init__(self) -> None:
        self.level = FIRST_MS
        self.shortest_ms = FIRST_MS
        self.baseline = Baseline()
        # How many processes fill the table, each with a steering of its own.
        self.processes = 1
        # Probes since the last step, and the last ones whatever the steps, to be told.
        self._recent: deque[float] = deque(maxlen=MOST_RECENT)
        self._told: deque[float] = deque(maxlen=TOLD)
        self._changed = -math.inf
        # The baseline of the last rest.
        self._rest_before = (0.0, 0.0)
        self._ceiling, self._until, self._hold = LONGEST_MS, -math.inf, HOLD / 2

    @property
    def target_ms(self) -> float:
        """How long a batch should take, in milliseconds."""
        return max(self.level, self.shortest_ms)

    @property
    def duty(self) -> float:
        """The share of the time at work for a worker."""
        return min(1.0, self.level / self.shortest_ms)

    @property
    def doubtful(self) -> bool:
        """Whether steps down have not helped: perhaps the site feels somebody else."""
        return self.level <= self.shortest_ms * DOWN

    def renew(self, allowed_ms: float) -> None:
        """Begin anew with the shortest batches if the site at rest has become slower by itself.

        Arguments:
            allowed_ms: as for `feel`, in milliseconds.
        """
        before, self._rest_before = self._rest_before, self.baseline.high
        slower = [now - was for now, was in zip(self._rest_before, before, strict=True)]
        if self.doubtful and max(slower) > allowed_ms / 2:
            self.level = self.shortest_ms
            self._recent.clear()
            self._ceiling, self._until, self._hold = LONGEST_MS, -math.inf, HOLD / 2

    @property
    def felt_ms(self) -> float:
        """The site's feeling: the 99th percentile's growth, as near as the last probes tell."""
        return near_highest(self._told)

    def give_up(self) -> None:
        """Keep to short batches, where there is no probe."""
        self.level = min(self.level, UNFELT_MS)

    def feel(self, felt: Felt, allowed_ms: float, now: float) -> None:
        """Take into account a probe made while workers were at work.

        Arguments:
            felt: the probe's times.
            allowed_ms: the growth allowed, in milliseconds.
            now: in seconds, of any clock.
        """
        self.shortest_ms = find_shortest(allowed_ms)
        if now - self._changed < SETTLE or not self.baseline.known:
            return
        added = self.baseline.added(felt)
        if felt.behind_us:
            # Who waits for a row of a batch may wait for all of the batch.
            added = max(added, self.target_ms)
        self._recent.append(added)
        self._told.append(added)
        if self._too_much(allowed_ms):
            self._step_down(now)
        elif self._bearable(allowed_ms * UP_SHARE):
            self._step_up(now)

    def _too_much(self, allowed_ms: float) -> bool:
        values = [value > allowed_ms for value in self._recent]
        share = self.baseline.share_above(allowed_ms) + 1 / ONE_IN
        return any(is_often(sum(values[-most:]), most, share) for most in WINDOWS)

    def _bearable(self, ms: float) -> bool:
        # All processes feel the same, and their steps up add up.
        enough = min(UP_AFTER * self.processes, MOST_RECENT)
        values = list(self._recent)[-enough:]
        most = self.baseline.share_above(ms) * enough
        return len(values) == enough and sum(value > ms for value in values) <= most

    def _step_down(self, now: float) -> None:
        if now >= self._until:
            self._hold = min(2 * self._hold, LONGEST_HOLD)
        self._ceiling, self._until = self.level / UP, now + self._hold
        self._set(self.level * DOWN, now)

    def _step_up(self, now: float) -> None:
        most = self._ceiling if now < self._until else LONGEST_MS
        if self.level < most:
            self._set(min(self.level * UP, most), now)

    def _set(self, level: float, now: float) -> None:
        self.level = min(max(level, self.shortest_ms * LOWEST_DUTY), LONGEST_MS)
        self._changed = now
        self._recent.clear()


def find_shortest(allowed_ms: float) -> float:
    """Find how short batches may become for the sake of an allowance, in milliseconds."""
    least, most = SHORTEST_MS
    return min(max(SHORTEST_SHARE * allowed_ms, least), most)


def _exceed(felt: Felt, high: tuple[float, float]) -> tuple[float, float]:
    return felt.read_ms - high[0], felt.commit_ms - high[1]


def is_often(times: int, of: int, share: float) -> bool:
    """Tell whether something was seen more often than by this share, beyond chance.

    Arguments:
        times: how often it was seen.
        of: how often it was looked for.
        share: how often it is to be expected, as a share.
    """
    expected = of * share
    return times > expected + CHANCE * math.sqrt(expected) + 1


def near_highest(values: Sequence[float] | deque[float]) -> float:
    """Pick the highest value after the top fiftieth, at least the second highest; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, len(ordered) - 1 - max(1, len(ordered) // 50))]
