"""What the page sees of a replacement: where it stands, what is left, who is at work.

Cheap, for the page asks again and again: a few catalog queries at most every `LOOK_EVERY` seconds
a process, however many people look; and now and then a sample of the rows, which may take no more
than `SAMPLE_SHARE` of the time. The rows are never counted where that takes long.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from itertools import groupby

from django.db.backends.base.base import BaseDatabaseWrapper

from migrations_playbook.admin.places import Place
from migrations_playbook.backfill.nulls import SAMPLE_PAGES, Sample, count_nulls_within, sample_rows
from migrations_playbook.backfill.pacing.control import Control, read_control
from migrations_playbook.backfill.roster import Worker, read_workers, spell_doing
from migrations_playbook.phase import Phase, State, read_catalog_state
from migrations_playbook.postgres.query import engine_transaction
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.tables import Table, sum_statistic
from migrations_playbook.replacement import Replacement

# The least seconds between two looks at who is at work, at the table, and at a sample of its rows.
LOOK_EVERY, TABLE_EVERY, SAMPLE_EVERY = 2.0, 10.0, 10.0
# The most of the time that samples may take.
SAMPLE_SHARE = 0.002
# Over how many seconds the rate is averaged, and from how many on there is one: the server counts
# a session's updates in once a second.
RATE_OVER, RATE_FROM = 30.0, 4.0
# A page that is looked at must keep nobody from their lock, and wait for none for long.
PATIENCE = {"statement_timeout": "2s", "lock_timeout": "500ms"}
COUNT_MS = 1000
NO_CONTROL = Control()


@dataclass(frozen=True)
class Host:
    """The sessions of the backfills on a host.

    Arguments:
        name: its address; None over a socket, and where the role may not see another's.
        workers: the sessions.
    """

    name: str | None
    workers: tuple[Worker, ...]

    @property
    def doings(self) -> list[tuple[str, int]]:
        """What the sessions say that they do, and why they wait, each with how many say so."""
        said = Counter(spell_doing(each.what, each.why) for each in self.workers)
        return sorted(said.items())


@dataclass(frozen=True)
class Sight:
    """What was seen of a replacement.

    Arguments:
        state: the phase; `filled` where a look at all rows has shown so.
        control: the settings for every worker everywhere.
        hosts: where backfills are at work.
        left: the rows to fill, as last sampled; None where that was not asked, or not possible.
        age: how old the sample is, in seconds.
        rate: rows updated a second, by anybody; None where nothing is known yet.
    """

    state: State
    control: Control = NO_CONTROL
    hosts: tuple[Host, ...] = ()
    left: Sample | None = None
    age: float = 0.0
    rate: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take at this rate; None where nothing is known."""
        if self.left is None or not self.left.nulls or not self.hosts or not self.rate:
            return None
        return self.left.nulls / self.rate


class Watch:
    """What this process remembers of a place between two looks.

    Arguments:
        place: the place.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._sight: Sight | None = None
        self._looked = 0.0
        self._state: State | None = None
        self._stated = 0.0
        self._left: Sample | None = None
        self._sampled, self._took = 0.0, 0.0
        self._updated_then = 0
        self._updated: deque[tuple[float, int]] = deque()

    def look(self) -> Sight:
        """Look, or hand out what was seen a moment ago, or is being looked at by somebody.

        Lock: ACCESS SHARE on the table while its rows are sampled; none before and after.
        """
        # A server that does not answer must not hold every thread of the site.
        if not self._lock.acquire(blocking=self._sight is None):
            assert self._sight is not None
            return self._sight
        try:
            if self._sight is None or time.monotonic() - self._looked >= LOOK_EVERY:
                self._sight = self._look(postgresql(self.place.using))
                self._looked = time.monotonic()
        except BaseException:
            self._state = None  # the table is another now, perhaps
            raise
        else:
            return self._sight
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Forget the last look, after a change of what is to be seen."""
        self._looked = 0.0

    def _look(self, connection: BaseDatabaseWrapper) -> Sight:
        replacement = self.place.replacement
        with engine_transaction(connection, **PATIENCE):
            state = self._read_state(connection)
            if state.table is None or state.phase is not Phase.EXPANDED:
                self._left = None
                return Sight(state)
            hosts = read_hosts(connection, replacement)
            if state.problem is not None:
                return Sight(state, hosts=hosts)
            control = read_control(connection, replacement, state.table)
            updated = read_updates(connection, state.table)
        rate = self._measure_rate(updated)
        # Whoever follows a run wants its end, not what was left of it when last sampled.
        ended = self._sight is not None and bool(self._sight.hosts) and not hosts
        if ended or self._is_sample_due():
            self._sample(connection, state.table, updated)
        age = time.monotonic() - self._sampled
        left = self._left and self._count_on(self._left, updated)
        if left is not None and left.exact and not left.nulls:
            state = replace(state, phase=Phase.FILLED)
        return Sight(state, control, hosts, left, age, rate)

    def _count_on(self, left: Sample, updated: int) -> Sample:
        """Take off a sample what has been filled since; the last row is a sample's to say."""
        since = updated - self._updated_then
        if not left.nulls or since <= 0:
            return left
        return replace(left, nulls=max(1, left.nulls - since), exact=False)

    def _read_state(self, connection: BaseDatabaseWrapper) -> State:
        """Read the phase as the catalog shows it, which seldom changes, now and then."""
        if self._state is None or time.monotonic() - self._stated >= TABLE_EVERY:
            self._state = read_catalog_state(connection, self.place.replacement)
            self._stated = time.monotonic()
        return self._state

    def _is_sample_due(self) -> bool:
        """Tell whether the last sample is as old as its own cost has samples be."""
        rest = max(SAMPLE_EVERY, self._took / SAMPLE_SHARE)
        return self._left is None or time.monotonic() - self._sampled >= rest

    def _sample(self, connection: BaseDatabaseWrapper, table: Table, updated: int) -> None:
        """Sample the rows; where a sample has no null, look at all of them."""
        began = time.monotonic()
        replacement = self.place.replacement
        # In a transaction of its own, so that the table's lock is given back at once.
        with engine_transaction(connection, **PATIENCE):
            left = sample_rows(connection, replacement, table, SAMPLE_PAGES, seed=0)
        if not left.nulls and not left.exact:
            nulls = count_nulls_within(connection, replacement, table, COUNT_MS)
            if nulls is not None:
                left = replace(left, nulls=nulls, exact=True)
        self._left, self._sampled = left, time.monotonic()
        self._took, self._updated_then = self._sampled - began, updated

    def _measure_rate(self, updated: int) -> float | None:
        """Say how fast rows are updated, from the server's own count of them.

        Not from two samples: their errors are larger than what is filled between them.
        """
        now = time.monotonic()
        if self._updated and updated < self._updated[-1][1]:
            self._updated.clear()  # somebody has reset the statistics
        self._updated.append((now, updated))
        while now - self._updated[0][0] > RATE_OVER:
            self._updated.popleft()
        since, before = self._updated[0]
        return (updated - before) / (now - since) if now - since >= RATE_FROM else None


_watches: dict[str, Watch] = {}


def watch_place(place: Place) -> Watch:
    """Return this process's watch over a place."""
    return _watches.setdefault(str(place), Watch(place))


def forget_watches() -> None:
    """Forget all that this process has seen."""
    _watches.clear()


def read_hosts(connection: BaseDatabaseWrapper, replacement: Replacement) -> tuple[Host, ...]:
    """Read where the backfills of a replacement are at work, on any host.

    Lock: none.
    """
    found = groupby(read_workers(connection, replacement), key=lambda each: each.host)
    return tuple(Host(name, tuple(workers)) for name, workers in found)


def read_updates(connection: BaseDatabaseWrapper, table: Table) -> int:
    """Read how many rows of a table have been updated, by anybody, since its statistics began.

    Lock: none.
    """
    return sum_statistic(connection, table, "pg_stat_get_tuples_updated")
