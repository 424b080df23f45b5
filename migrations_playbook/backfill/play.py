"""Play 2: fill the nulls. Yields events, and knows no terminal.

The null predicate is the only state: stop it anyhow, start it anywhere, run it as often as you
like at once. It never waits for a live transaction: rows that somebody has locked are skipped,
and come back in the next sweep.

Here is the supervisor: it starts the workers (`workers`), says when they are to step aside
(`throttle`, `control`), and vacuums between slices (`vacuum`).
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from migrations_playbook.backfill import control, throttle, vacuum, walk
from migrations_playbook.backfill.events import (
    Batch,
    Event,
    Finished,
    Note,
    Recounted,
    Started,
    Vacuumed,
    Waiting,
)
from migrations_playbook.backfill.nulls import (
    count_nulls,
    count_nulls_within,
    estimate_nulls,
    sample_nulls,
)
from migrations_playbook.backfill.pace import Pace, Pacer
from migrations_playbook.backfill.throttle import Limits, Reason
from migrations_playbook.backfill.workers import Session, Team
from migrations_playbook.errors import ConnectionLost, WrongPhase
from migrations_playbook.phase import Phase, read_state
from migrations_playbook.postgres.roles import refuse_without_fill_rights
from migrations_playbook.postgres.server import wal_position
from migrations_playbook.postgres.sessions import named_session, postgresql
from migrations_playbook.postgres.tables import Table, read_table
from migrations_playbook.replacement import Replacement

__all__ = ["Batch", "Event", "Finished", "Options", "Started", "Waiting", "backfill", "fillable"]

# Between two looks at the signals and the control settings, in seconds.
LOOK_EVERY = 0.5
# The server is shared when others were at work at more than a quarter of the last looks: the site
# is at every one of them, and what asks for the server's health now and then at few.
OTHERS_LOOKS, OTHERS_SHARE = 20, 0.25
# How long the first batch may wait for an exact count, and a later count may take, in ms.
COUNT_FIRST_MS, COUNT_AGAIN_MS = 50, 1000
# By how much a sample may be off, as a share.
SAMPLE_ERROR = 0.1
# The share of the time that counting what is left may take.
COUNT_SHARE = 0.01


@dataclass(frozen=True)
class Options:
    """How a backfill goes about it; see `pace.Pace` and `throttle.Limits` too.

    Arguments:
        workers: threads, each with a connection of its own.
        pace: how hard to push.
        limits: where to step aside; None never to.
        vacuum_every: the share of the rows after which to vacuum; 0 for never.
        wait_for_snapshots: whether to wait while an old snapshot makes vacuum useless.
        max_wal: bytes of WAL (the whole server's) after which to end; None for no bound.
    """

    workers: int = 1
    pace: Pace = field(default_factory=Pace)
    limits: Limits | None = None
    vacuum_every: float = 0.0
    wait_for_snapshots: bool = False
    max_wal: float | None = None


def backfill(
    replacement: Replacement,
    *,
    using: str,
    options: Options = Options(),
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Fill every null of the shadow column, in batches of one short transaction each.

    Lock: ROW EXCLUSIVE on the table; FOR NO KEY UPDATE on the rows of a batch, until it commits;
    SHARE UPDATE EXCLUSIVE on the table while a slice is vacuumed. Rows that another session has
    locked are skipped.

    Arguments:
        replacement: what to fill.
        using: the database alias.
        options: how to go about it. By default one worker, never stepping aside.
        stop: asked ten times a second; when it says True, the batches under way end it.

    Raises:
        WrongPhase: there is no shadow column, or the columns are exchanged.
        RowsLeft: the rows that are left have been locked by others for too long.
        ConnectionLost: every worker has lost its connection.
        PlaybookError: the value expression makes nulls.
    """
    # By its name every session of ours is told from others, here and on other hosts.
    with named_session(postgresql(using), walk.application_name(replacement)) as connection:
        yield from _backfill(connection, replacement, options, stop)


def _backfill(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    options: Options,
    stop: Callable[[], bool],
) -> Iterator[Event]:
    table = fillable(connection, replacement)
    run = _Run(connection, replacement, table, options)
    try:
        yield from run.look()
        counted = count_nulls_within(connection, replacement, table, COUNT_FIRST_MS)
        run.start()
        if counted is not None:
            yield Started(counted, exact=True)
        else:
            # It takes a while: the workers are at it meanwhile.
            before = run.rows
            total, exact = estimate_nulls(connection, replacement, table)
            counted = total + before
            yield Started(counted, exact)
        run.left = counted - run.rows
        run.slices = vacuum.Slices(max(counted, int(table.estimate)), options.vacuum_every)
        yield from run.watch(stop)
    except BaseException:
        run.cancel()
        raise
    finally:
        run.end()
    yield from run.finish()


class _Run:
    """One run of the supervisor."""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        replacement: Replacement,
        table: Table,
        options: Options,
    ) -> None:
        self.connection = connection
        self.replacement = replacement
        self.table = table
        self.options = options
        self.team = Team(replacement, table, Pacer(options.pace))
        self.workers = [self._session(self.team.fill) for _ in range(options.workers)]
        self.slices = vacuum.Slices(0, 0)
        self.rows = 0
        # Rows that are left, as far as is known.
        self.left = 0
        self.bound_reached: str | None = None
        self._vacuum: Session | None = None
        # Found when a slice was due: asked again at the next look, and named if it is still there.
        self._snapshot_held = False
        self._snapshot_seen = False
        self._said: set[str] = set()
        self._lost: set[Session] = set()
        # Whether others were at work, at the last looks.
        self._others: deque[bool] = deque(maxlen=OTHERS_LOOKS)
        self._looked = self._counted = time.monotonic()
        self._count_took = 0.0
        self._countable = True
        self._slice_began = vacuum.next_transaction(connection)
        self._wal_began = wal_position(connection)
        self._limits = options.limits and throttle.derive(connection, options.limits)
        self._signals = throttle.Signals(
            walk.application_name(replacement), None if self._limits is None else self._limits.query
        )
        self._unprivileged = [] if self._limits is None else self._signals.unprivileged(connection)

    def _session(self, work: Callable[[BaseDatabaseWrapper], None]) -> Session:
        return Session(self.connection.alias, walk.application_name(self.replacement), work)

    def start(self) -> None:
        for worker in self.workers:
            worker.start()

    def watch(self, stop: Callable[[], bool]) -> Iterator[Event]:
        """Pass the workers' events on, and look after them, until they are done."""
        while any(worker.is_alive() for worker in self.workers):
            try:
                event = self.team.events.get(timeout=0.1)
            except queue.Empty:
                pass
            else:
                self._count_in(event)
                yield event
                # At once: each batch more is one that takes new pages rather than freed ones.
                if self.slices.due and not self._snapshot_held and not self.team.stopping.is_set():
                    yield from self._vacuum_if_due()
            if stop() or self.bound_reached:
                self.team.stopping.set()
            yield from self._look_after_the_lost()
            if time.monotonic() - self._looked >= LOOK_EVERY and not self.team.stopping.is_set():
                yield from self.look()
        while not self.team.events.empty():
            event = self.team.events.get()
            self._count_in(event)
            yield event

    def look(self) -> Iterator[Event]:
        """Look at the control settings and the signals, and tell the workers to go or to wait."""
        now = time.monotonic()
        since, self._looked = now - self._looked, now
        for text in self._unprivileged:
            yield from self._say(text)
        held = [*self._controlled(), *self._throttled()]
        pacer = self.team.pacer
        if pacer.gentle:
            yield from self._say(
                f"Others are at work on the server, so a batch is to take {pacer.target_ms:g} ms, "
                f"and a worker works {pacer.duty:.0%} of the time. --target-ms and --duty overrule "
                "that."
            )
        self._snapshot_held = False
        held += yield from self._vacuum_if_due()
        if held:
            self.team.go.clear()
            yield Waiting(
                "; ".join(reason.text for reason in held),
                tuple(dict.fromkeys(reason.signal for reason in held)),
                since,
            )
        else:
            self.team.go.set()
        if self.options.max_wal is not None:
            written = wal_position(self.connection) - self._wal_began
            if written > self.options.max_wal:
                self.bound_reached = f"The server has written {written / 1e6:,.0f} MB of WAL"
        if time.monotonic() - self._counted > max(5.0, self._count_took / COUNT_SHARE):
            yield from self._recount()

    def cancel(self) -> None:
        """Stop at once: what is under way is rolled back."""
        self.team.stopping.set()
        for worker in self.workers:
            worker.cancel()

    def end(self) -> None:
        """Wait for the sessions to end. A vacuum that nobody waits for is cancelled."""
        complete = self.team.complete.is_set()
        self.team.stopping.set()
        for worker in self.workers:
            if worker.ident is not None:
                worker.join()
        if self._vacuum is not None:
            while not complete and self._vacuum.is_alive():
                self._vacuum.cancel()
                self._vacuum.join(0.2)
            self._vacuum.join()

    def finish(self) -> Iterator[Event]:
        """The result, or the error that ended it."""
        complete = self.team.complete.is_set()
        if not complete:
            for worker in self.workers:
                if worker.error is not None and not worker.lost:
                    raise worker.error
            if self._lost and len(self._lost) == len(self.workers):
                raise ConnectionLost("The connection to the server was lost.")
        remaining = 0 if complete else count_nulls(self.connection, self.replacement, self.table)
        if not remaining:
            # So that none of it is left at the swap, and in a dump of the schema.
            control.clear(self.connection, self.replacement, self.table)
        yield Finished(
            remaining,
            complete=remaining == 0,
            batch_size=self.team.pacer.rows,
            reason=self.bound_reached,
        )

    def _count_in(self, event: Event) -> None:
        if isinstance(event, Batch):
            self.rows += event.rows
            self.left -= event.rows
            self.slices.add(event.rows)

    def _say(self, text: str) -> Iterator[Note]:
        if text not in self._said:
            self._said.add(text)
            yield Note(text)

    def _look_after_the_lost(self) -> Iterator[Note]:
        for worker in self.workers:
            if worker.error is None or worker in self._lost:
                continue
            if not worker.lost:
                self.team.stopping.set()
                continue
            self._lost.add(worker)
            if len(self._lost) < len(self.workers):
                yield Note(
                    f"{len(self._lost)} of {len(self.workers)} workers lost the connection; the "
                    "others go on, and nothing is lost."
                )

    def _controlled(self) -> Iterator[Reason]:
        try:
            settings = control.read(self.connection, self.replacement, self.table)
        except DatabaseError:
            self.connection.close()
            yield Reason("control", "the control settings cannot be read")
            return
        self.team.pacer.pace = settings.over(self.options.pace)
        if settings.paused:
            yield Reason("pause", "paused; --resume goes on")

    def _throttled(self) -> list[Reason]:
        if self._limits is None:
            return []
        readings = self._signals.read(self.connection)
        self._others.append(readings.recent_sessions > 0)
        self.team.pacer.shared = sum(self._others) > len(self._others) * OTHERS_SHARE
        return throttle.reasons(readings, self._limits)

    def _vacuum_if_due(self) -> Generator[Event, None, list[Reason]]:
        if self._vacuum is not None:
            if self._vacuum.is_alive():
                return []
            self._vacuum = None
        if not self.slices.due:
            return []
        held = vacuum.held_by(
            self.connection, self._slice_began, besides=walk.application_name(self.replacement)
        )
        seen, self._snapshot_seen = self._snapshot_seen, bool(held)
        if held:
            self._snapshot_held = True
            if not seen:
                # A request of the site's, perhaps, that is over before the next look.
                return []
            text = f"vacuum would be useless: {'; '.join(held[:3])}"
            if self.options.wait_for_snapshots:
                return [Reason("old snapshot", text)]
            # Its age grows, and it is said once.
            if "old snapshot" not in self._said:
                self._said.add("old snapshot")
                yield Note(text[0].upper() + text[1:] + ". The backfill goes on without it.")
            return []
        self.slices.vacuumed()
        self._slice_began = vacuum.next_transaction(self.connection)
        self._vacuum = self._session(self._vacuum_slice)
        self._vacuum.start()
        return []

    def _vacuum_slice(self, connection: BaseDatabaseWrapper) -> None:
        ran = vacuum.run(connection, self.table, gently=self.team.pacer.gentle)
        self.team.put(Vacuumed(ran=ran))

    def _recount(self) -> Iterator[Event]:
        """Rows that others fill are progress too."""
        began = time.monotonic()
        where = (self.connection, self.replacement, self.table)
        if self._countable:
            # Once it is too large to be counted every now and then, there are samples.
            remaining, self._countable = estimate_nulls(*where, COUNT_AGAIN_MS)
        else:
            remaining = sample_nulls(*where)
        self._counted = time.monotonic()
        self._count_took = self._counted - began
        # A sample is believed where it says more than its own error.
        if self._countable or remaining < self.left * (1 - SAMPLE_ERROR):
            self.left = remaining
            yield Recounted(remaining, self._countable)


def fillable(connection: BaseDatabaseWrapper, replacement: Replacement) -> Table:
    """The table, when its shadow column can be filled now.

    Raises:
        WrongPhase: there is no shadow column, its triggers are not at work, or the columns are
            exchanged.
        Refused: the role lacks a right; says the GRANT to run.
    """
    table = read_table(connection, replacement.identifier)
    if table is not None:
        refuse_without_fill_rights(connection, table)
    state = read_state(connection, replacement)
    if state.table is None or state.phase is Phase.NONE:
        raise WrongPhase(
            f'{replacement.label} has no column "{replacement.shadow}" in the database '
            f'"{connection.alias}". '
            'Run "manage.py migrate" first.'
        )
    if state.swapped:
        raise WrongPhase(
            f'{replacement.label} is swapped: "{replacement.live}" has its new values, and '
            f'"{replacement.shadow}" holds the retired ones. There is nothing to '
            'fill; "'
            f'{replacement.command("status")}" shows what comes next.'
        )
    if state.problem is not None:
        raise WrongPhase(state.problem)
    return state.table
