"""The threads that fill: each with a connection and a walk of its own, and nothing to coordinate.

They leapfrog through SKIP LOCKED, as workers on other hosts do. They share the pace.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors

from migrations_playbook.backfill.batch import application_name
from migrations_playbook.backfill.events import Batch, Event, Lost, Waiting
from migrations_playbook.backfill.interference import refuse_failed, say_kept_back, say_null
from migrations_playbook.backfill.nulls import count_nulls
from migrations_playbook.backfill.pacing.pace import Pacer
from migrations_playbook.backfill.roster import (
    FILLS,
    LONG_PAUSE,
    WAITS,
    Voice,
    name_session,
    spell_signals,
)
from migrations_playbook.backfill.walk import Walk
from migrations_playbook.errors import ConnectionLost, PlaybookError, RowsLeft
from migrations_playbook.postgres.holders import read_holders
from migrations_playbook.postgres.sessions import Session
from migrations_playbook.postgres.tables import Table
from migrations_playbook.replacement import Replacement

# Between two sweeps that found only locked rows, in seconds; and for how long to come back.
PAUSE_FOR_LOCKED_ROWS = 0.2
PATIENCE_FOR_LOCKED_ROWS = 60.0
# A worker that has lost its connection is replaced so often, on average, and after so many seconds:
# a server that starts again is back by then.
REPLACEMENTS, REPLACE_AFTER = 5, 1.0
# A failed batch may be tried again, smaller, so often in a row.
FAILURES = 20
# Errors that a smaller batch may avoid: a statement timeout, a lock timeout, a deadlock.
PASSING = (pg_errors.QueryCanceled, pg_errors.LockNotAvailable, pg_errors.DeadlockDetected)


class Team:
    """The workers of a process, and their shared state.

    Arguments:
        using: the database alias.
        replacement: the replacement to fill.
        table: its table.
        pacer: how hard they push.
        size: how many they are.
        skipped: the triggers of the site to be left out.
    """

    def __init__(
        self,
        using: str,
        replacement: Replacement,
        table: Table,
        pacer: Pacer,
        size: int,
        skipped: Sequence[str] = (),
    ) -> None:
        self.using = using
        self.replacement = replacement
        self.table = table
        self.pacer = pacer
        self.skipped = skipped
        # Bounded, so that a display that hangs holds the work up rather than filling the memory.
        self.events: queue.Queue[Event] = queue.Queue(maxsize=1000)
        self.stopping = threading.Event()
        self.go = threading.Event()
        self.complete = threading.Event()
        # Rows for which no value can be made, once complete.
        self.valueless = 0
        self.application = application_name(replacement)
        self.waits_for = ""
        self._workers = [self.new_session(self._fill, FILLS) for _ in range(size)]
        # Since when, on the monotonic clock.
        self._lost: dict[Session, float] = {}
        self._spare = REPLACEMENTS * size

    def new_session(self, work: Callable[[BaseDatabaseWrapper], None], doing: str) -> Session:
        """Make a session with the name of all of ours, and its doing."""
        return Session(self.using, name_session(self.application, doing), work)

    def hold(self, signals: Sequence[str]) -> None:
        """Make the workers wait for some signals, or go where there is none."""
        self.waits_for = spell_signals(signals) if signals else ""
        if signals:
            self.go.clear()
        else:
            self.go.set()

    def start(self) -> None:
        """Start the workers. They wait for `go`."""
        for worker in self._workers:
            worker.start()

    def cancel(self) -> None:
        """Stop at once: the batches under way are rolled back."""
        self.stopping.set()
        for worker in self._workers:
            worker.cancel()

    def join(self) -> None:
        """Wait for the workers to end, with the batches under way."""
        self.stopping.set()
        for worker in self._workers:
            if worker.ident is not None:
                worker.join()

    @property
    def at_work(self) -> bool:
        """Whether any worker is alive, or will have a successor."""
        return any(each.is_alive() or self._is_replaceable(each) for each in self._workers)

    def _is_replaceable(self, worker: Session) -> bool:
        return worker.lost and self._spare > 0 and not self.stopping.is_set()

    def replace_lost(self) -> Lost | None:
        """Replace workers that have lost the connection, a moment later and boundedly often.

        Any other failure of a worker stops the team.

        Returns:
            The event for those met for the first time; None without any.
        """
        now, new = time.monotonic(), 0
        for place, worker in enumerate(self._workers):
            if worker.is_alive() or worker.error is None:
                continue
            if not worker.lost:
                self.stopping.set()
            elif worker not in self._lost:
                self._lost[worker] = now
                new += 1
            elif self._is_replaceable(worker) and now - self._lost[worker] > REPLACE_AFTER:
                self._spare -= 1
                self._workers[place] = self.new_session(self._fill, FILLS)
                self._workers[place].start()
        return Lost(new, replaced=self._spare > 0) if new else None

    def raise_failure(self) -> None:
        """Raise the failure that ended the work before the last row was filled, if any.

        Raises:
            ConnectionLost: every worker has lost its connection.
        """
        if self.complete.is_set():
            return
        for worker in self._workers:
            if worker.error is not None and not worker.lost:
                raise worker.error
        if all(worker.lost for worker in self._workers):
            raise ConnectionLost("The connection to the server was lost.")

    def put(self, event: Event) -> None:
        """Report an event, unless nobody listens any more."""
        while True:
            try:
                return self.events.put(event, timeout=0.2)
            except queue.Full:
                if self.stopping.is_set():
                    return None

    def _is_over(self) -> bool:
        """Tell whether all are to stop, or one has seen that no null is left."""
        return self.stopping.is_set() or self.complete.is_set()

    def _fill(self, connection: BaseDatabaseWrapper) -> None:
        """Sweep until no null is left, or until all are to stop: a single worker.

        Raises:
            RowsLeft: the remaining rows have been locked by others for too long.
            PlaybookError: the value expression makes nulls, or a trigger keeps rows back.
        """
        walk = Walk(self.replacement, self.table, self.skipped)
        voice = Voice(connection, self.application, FILLS)
        idle_since: float | None = None
        while not self._is_over():
            filled, valueless, kept_back = self._sweep(connection, walk, voice)
            if self._is_over():
                return
            left = count_nulls(connection, self.replacement, self.table)
            # Each of them was tried in this sweep, or in another worker's.
            if left <= valueless:
                self.valueless = left
                self.complete.set()
                return
            if kept_back >= left:
                raise PlaybookError(say_kept_back(connection, self.replacement, self.table, left))
            if filled:
                # The others are at their last rows: one of them may be helped.
                idle_since = None
                continue
            news = idle_since is None
            if idle_since is None:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > PATIENCE_FOR_LOCKED_ROWS:
                raise RowsLeft(self._say_locked(connection, left))
            voice.say(WAITS, "locked rows")
            text = f"{left:,} rows are locked by others"
            self.put(Waiting(text, seconds=PAUSE_FOR_LOCKED_ROWS, news=news))
            self.stopping.wait(PAUSE_FOR_LOCKED_ROWS)

    def _sweep(
        self, connection: BaseDatabaseWrapper, walk: Walk, voice: Voice
    ) -> tuple[int, int, int]:
        """Go through the table once; return the rows filled, without a value, and kept back."""
        walk.begin(connection)
        total = left = kept_back = failures = 0
        while not self._is_over():
            if not self.go.wait(0.1):
                voice.say(WAITS, self.waits_for or None)
                continue
            try:
                filled = walk.fill(connection, self.pacer.rows)
            except DatabaseError as error:
                failures += 1
                if not isinstance(error.__cause__, PASSING) or failures > FAILURES:
                    refuse_failed(connection, self.replacement, self.table, error)
                    raise
                self.pacer.failed()
                continue
            if filled is None:
                break
            failures = 0
            kept_back += filled.kept_back
            if filled.left and not self.replacement.meaning.may_leave_rows:
                raise PlaybookError(say_null(connection, self.replacement, self.table))
            left += filled.left
            if filled.rows:
                total += filled.rows
                self.put(Batch(filled.rows, filled.seconds))
                pause = self.pacer.took(filled.rows, filled.seconds)
                if pause > LONG_PAUSE:
                    voice.say(WAITS, "pace")
                else:
                    voice.say(FILLS)
                if pause > 0:
                    self.stopping.wait(pause)
        return total, left, kept_back

    def _say_locked(self, connection: BaseDatabaseWrapper, left: int) -> str:
        holders = read_holders(connection, self.table.identifier)
        named = "; ".join(str(holder) for holder in holders[:5])
        return (
            f"{left:,} rows of {self.table} are left: other transactions have kept them locked "
            f"for {PATIENCE_FOR_LOCKED_ROWS:.0f} s ({named or 'none of them visible'}). End those "
            "transactions, then run the same command again."
        )
