"""The phases in their order, each under traffic. Yields events, and knows no terminal.

What is played are the commands that an operator types, each in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

from migrations_playbook.errors import PlaybookError
from migrations_playbook.postgres.names import column_of
from migrations_playbook.rehearsal.audit import Audit, Names
from migrations_playbook.rehearsal.events import Began, Ended, Event, Going, Note, Result, Tickets
from migrations_playbook.rehearsal.fleet import THREADS, Fleets, environment
from migrations_playbook.rehearsal.measure import Phase, figures
from migrations_playbook.rehearsal.scratch import drop_orphans, scratch
from migrations_playbook.rehearsal.script import Options, Script
from migrations_playbook.rehearsal.witness import Witness
from migrations_playbook.replacement import Replacement

# Between two looks at a process, in seconds; and between two events that say how it goes.
LOOK = 0.02
TELL = 0.25
# Nothing that is played takes longer, in seconds, whatever the table's size.
DEADLINE = 3600.0
# Processes of the fleets over the whole rehearsal, and some in reserve.
PROCESSES = 8
# How far the backfill gets before it is killed, as a fraction of the rows.
KILLED_AT = 0.3


class StepFailed(Exception):
    """A step of the play ended otherwise than it must; the text is what it said."""


class Play:
    """One rehearsal.

    Arguments:
        script: what is rehearsed.
        options: how.
        replacement: the script's shadow.
        connection: any of the server.
    """

    def __init__(
        self,
        script: Script,
        options: Options,
        replacement: Replacement,
        connection: BaseDatabaseWrapper,
    ) -> None:
        self.script = script
        self.options = options
        self.replacement = replacement
        self.connection = connection
        self.result = Result()
        self._url = ""
        self._schema_differs: set[str] = set()
        self._lock_hold_ms: float | None = None
        self._last: dict[str, Any] = {}

    def run(self) -> Generator[Event, None, None]:
        """Play it all; `result` says what came of it.

        Raises:
            PlaybookError: it could not be started: no such template, no right to create a
                database, a table that is not as release N has it.
        """
        if len(self.replacement.key) != 1:
            raise PlaybookError(
                f"{self.replacement.label} has a composite key: it cannot be rehearsed."
            )
        for name in drop_orphans(self.connection):
            yield Note(f"Dropped {name}: the rehearsal that made it was killed.")
        with ExitStack() as stack:
            self._url = stack.enter_context(scratch(self.connection, self.options.template))
            yield from self._set_the_stage()
            books = stack.enter_context(psycopg.connect(self._url, autocommit=True))
            self.audit = Audit(books, self._names())
            self.result.rows = self.audit.open()
            self.fleets = Fleets(
                self.script, self._url, self.audit.sample(PROCESSES * THREADS * 25)
            )
            stack.callback(self.fleets.kill)
            self.result.requests = self.fleets.requests
            self._watched = self.audit.sample(3)
            self._plain = self.audit.schema()
            yield self._tickets("before")
            try:
                for _ in itertools.zip_longest(self._join("N"), self._join("N")):
                    pass
                yield from self._phases()
            except (StepFailed, PlaybookError) as error:
                self._fail("failed_steps", str(error))
            yield from self._curtain()

    # The phases

    def _phases(self) -> Iterator[Event]:
        """The phases in their order, to the last one that is asked for."""
        for name, play in {
            "baseline": self._baseline,
            "expand": self._expand,
            "backfill": self._backfill,
            "prepare": self._prepare,
            "swap": self._swap,
            "revert": self._swap,
            "swap again": self._swap,
            "contract": self._contract,
        }.items():
            yield Began(name)
            with self._phase(name):
                yield from play(name)
            last = self.result.phases[-1]
            yield Ended(figures(last, self.result.requests), last.lock_hold_ms)
            if name == "swap":
                yield self._tickets("after the swap")
            if name == self.options.until:
                return

    def _baseline(self, phase: str) -> Iterator[Event]:
        """Release N alone."""
        yield from self._dwell(phase)

    def _expand(self, phase: str) -> Iterator[Event]:
        """The migration of release N+1, then its processes beside those of release N."""
        yield from self._migrate(phase, self.script.releases.n1)
        self._expanded = self.audit.schema()
        yield from self._going(phase, self._join("N+1"))
        yield from self._going(phase, self.fleets.leave("N"))

    def _backfill(self, phase: str) -> Iterator[Event]:
        """Killed once on its way, and resumed."""
        yield from self._kill_a_backfill(phase)
        yield from self._step(phase, self.script.releases.n1, self.script.backfill, "--json")
        yield Note(
            f"It filled {self._last['rows_filled']:,} rows in {self._last['seconds']:.1f} s "
            f"({self._last['rows_per_second']:,.0f} rows/s)."
        )

    def _prepare(self, phase: str) -> Iterator[Event]:
        """All that scans before the swap."""
        yield from self._run(
            phase,
            self.script.releases.n1,
            [
                "-m",
                "migrations_playbook.rehearsal.prepare",
                self.script.model,
                self.script.shadow,
            ],
        )

    def _swap(self, phase: str) -> Iterator[Event]:
        """Exchange the columns, or exchange them back."""
        arguments = ["--json"] + (["--revert"] if phase == "revert" else [])
        with Witness(
            self._url, self.replacement.identifier, self.replacement.live, self.replacement.shadow
        ) as witness:
            try:
                yield from self._step(phase, self.script.releases.n1, self.script.swap, *arguments)
            finally:
                witness.close()
                self.audit.note(witness.exchanges)
        self._lock_hold_ms = self._last["lock_hold_ms"]
        if not self.result.swap:
            self.result.swap = {
                key: self._last[key] for key in ("lock_wait_ms", "lock_hold_ms", "attempts")
            }
        self._schema_differs |= self._expanded - self.audit.schema()
        yield from self._dwell(phase)
        if phase == "swap again":
            yield from self._status(self.script.releases.n1)

    def _contract(self, phase: str) -> Iterator[Event]:
        """Release N+2 takes over; once N+1 has left, release N+3 drops the column."""
        releases = self.script.releases
        yield from self._migrate(phase, releases.n2)
        yield from self._going(phase, self._join("N+2"))
        yield from self._going(phase, self.fleets.leave("N"))
        yield from self._dwell(phase)
        yield from self._going(phase, self._join("N+2"))
        yield from self._going(phase, self.fleets.leave("N+1"))
        self.audit.balance(rotated=True)
        yield from self._migrate(phase, releases.n3)
        yield from self._going(phase, self._join("N+3"))
        yield from self._going(phase, self.fleets.leave("N+2"))
        yield from self._dwell(phase)
        self._schema_differs |= self._plain ^ self.audit.schema()

    def _join(self, release: str) -> Iterator[None]:
        """One more process of a release, with half of the requests."""
        settings = getattr(self.script.releases, release.lower().replace("+", ""))
        yield from self.fleets.join(release, settings, self.options.rate / 2)

    def _migrate(self, phase: str, settings: str) -> Iterator[Event]:
        yield from self._step(phase, settings, "migrate", self.script.app_label, "--verbosity", "0")

    def _kill_a_backfill(self, phase: str) -> Iterator[Event]:
        """Start a backfill, and kill it for real on its way."""
        goal = self.audit.key_at(KILLED_AT)
        started = self._start(self.script.releases.n1, ["-m", "django", self.script.backfill])
        try:
            while started.poll() is None and not (goal and self.audit.has_got_to(goal)):
                yield from self._tell(phase)
        finally:
            started.kill()
            _, complaint = started.communicate()
        if started.returncode > 0:
            raise StepFailed(f"{self.script.backfill}: {_last_line(complaint)}")
        yield Note(
            "The backfill was killed on its way; the next one goes on where it was."
            if started.returncode
            else "The backfill was done before it could be killed."
        )

    # The verdict

    def _curtain(self) -> Iterator[Event]:
        """Send everybody home, balance the books, and pass judgement."""
        for _ in self.fleets.leave_all():
            pass
        result = self.result
        rotated = self._is_rotated()
        self.audit.balance(rotated=rotated)
        yield Note("Everybody has gone home; the books are being balanced.")
        result.checks.setdefault("failed_steps", 0)
        failed = [each for each in result.requests if each.wrong]
        slow = [each for each in result.requests if each.ms > self.options.max_stall_ms]
        result.checks["failed_requests"] = len(failed)
        result.checks["slow_requests"] = len(slow)
        result.checks["failed_processes"] = len(self.fleets.problems)
        result.checks |= self.audit.checks(rows=result.rows, rotated=rotated)
        result.checks["schema"] = len(self._schema_differs)
        for release, wrong in sorted({(each.release, each.wrong) for each in failed}):
            result.reasons.append(f"Release {release} had a failed request: {wrong}.")
        if slow:
            result.reasons.append(
                f"The longest of {len(slow)} slow requests took {max(r.ms for r in slow):.0f} ms."
            )
        result.reasons += [f"{each[0].upper()}{each[1:]}." for each in self.fleets.problems]
        result.reasons += [f"Not as expected: {line}" for line in sorted(self._schema_differs)]

    def _fail(self, check: str, reason: str) -> None:
        self.result.checks[check] = self.result.checks.get(check, 0) + 1
        self.result.reasons.append(reason)

    def _is_rotated(self) -> bool:
        """Whether the live column is the new one: after an odd number of exchanges."""
        row = self.audit.connection.execute("SELECT count(*) FROM rehearsal.exchange").fetchone()
        assert row is not None
        return bool(row[0] % 2)

    # How a phase goes

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._lock_hold_ms = None
        self._began = self._told = time.monotonic()
        try:
            yield
        finally:
            self.result.phases.append(
                Phase(name, self._began, time.monotonic(), self._lock_hold_ms)
            )

    def _tell(self, phase: str) -> Iterator[Event]:
        """Wait a moment, and say now and then how it goes."""
        # Between two looks at a process under way: nothing is to be done but to let it work.
        time.sleep(LOOK)
        now = time.monotonic()
        if now - self._told < TELL:
            return
        self._told = now
        self.fleets.check()
        so_far = figures(Phase(phase, self._began, now), self.result.requests)
        yield Going(phase, so_far.seconds, so_far.requests, so_far.errors, so_far.max_ms)

    def _dwell(self, phase: str) -> Iterator[Event]:
        """Let the traffic go on for a while."""
        until = time.monotonic() + self.options.seconds
        while time.monotonic() < until:
            yield from self._tell(phase)

    def _going(self, phase: str, waiting: Iterator[None]) -> Iterator[Event]:
        for _ in waiting:
            yield from self._tell(phase)

    # Steps

    def _set_the_stage(self) -> Iterator[Event]:
        """A table as release N has it: copied, or made."""
        script = self.script
        releases = script.releases
        self._began = time.monotonic()
        if self.options.template is None:
            yield Note(f"Making {self.options.rows:,} rows in a scratch database.")
            self._off_stage(releases.n, "migrate", "--verbosity", "0")
            self._off_stage(releases.n1, script.seed, str(self.options.rows))
        else:
            yield Note(f'A copy of "{self.options.template}" in a scratch database.')
            # The copy goes back to before the expand, if it had got there.
            before = (script.app_label, script.before)
            self._off_stage(releases.n1, "migrate", *before, "--verbosity", "0")
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
            # Or the writing out of these rows would come under the requests. It takes a right
            # that a role may not have.
            with suppress(psycopg.errors.InsufficientPrivilege):
                connection.execute("CHECKPOINT")

    def _off_stage(self, settings: str, *arguments: str) -> None:
        """A command of a release, to its end, before there is traffic."""
        self._finish(self._start(settings, ["-m", "django", *arguments]), arguments[0])

    def _step(self, phase: str, settings: str, *arguments: str) -> Iterator[Event]:
        """A command of a release, to its end, under traffic."""
        yield from self._run(phase, settings, ["-m", "django", *arguments])

    def _run(self, phase: str, settings: str, arguments: list[str]) -> Iterator[Event]:
        started = self._start(settings, arguments)
        deadline = time.monotonic() + DEADLINE
        try:
            while started.poll() is None and time.monotonic() < deadline:
                yield from self._tell(phase)
        except BaseException:
            started.kill()
            raise
        self._finish(started, arguments[2] if arguments[1] == "django" else phase)

    def _start(self, settings: str, arguments: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(self._url, settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _finish(self, started: subprocess.Popen[str], name: str) -> None:
        """Take note of what a command printed.

        Raises:
            StepFailed: it ended with an exit code of its own.
        """
        try:
            output, complaint = started.communicate()
        except BaseException:
            started.kill()
            raise
        if started.returncode:
            raise StepFailed(f"{name}: {_last_line(complaint)}")
        self._output = output
        try:
            self._last = json.loads(output.splitlines()[-1]) if output else {}
        except ValueError:
            self._last = {}

    def _status(self, settings: str) -> Iterator[Event]:
        yield from self._run("swap again", settings, ["-m", "django", "playbook_status"])
        yield Note(self._output.rstrip())

    def _tickets(self, when: str) -> Tickets:
        return Tickets(when, tuple(self.audit.fingerprints(self._watched)))

    def _names(self) -> Names:
        return Names(
            table=self.replacement.identifier,
            key=self.replacement.key[0],
            live=self.replacement.live,
            shadow=self.replacement.shadow,
            stamp=column_of(self.replacement.model, self.script.stamp),
        )


def _last_line(complaint: str) -> str:
    """What a command said last: the one sentence of a refusal."""
    lines = complaint.strip().splitlines() or ["it said nothing"]
    return lines[-1].removeprefix("CommandError: ")
