"""The work of each phase, under traffic.

The phases play an operator's commands, each in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from migrations_playbook.postgres.names import column_of
from migrations_playbook.rehearsal.course import Course
from migrations_playbook.rehearsal.happenings import Happening, Remark
from migrations_playbook.rehearsal.plots.base import Plot
from migrations_playbook.rehearsal.runner import (
    ProcessRunner,
    StepFailed,
    finish_all,
    look_while,
    read_last_line,
)
from migrations_playbook.rehearsal.script import RehearsalOptions
from migrations_playbook.rehearsal.states import Release, ReleaseStates
from migrations_playbook.rehearsal.traffic.audit import Audit
from migrations_playbook.rehearsal.traffic.fleet import Fleets
from migrations_playbook.rehearsal.traffic.schema import Schema, read_schema
from migrations_playbook.rehearsal.traffic.witness import Witness

# How far the backfill gets before it is killed, as a fraction of the rows; and how many rows, from
# all over the table, tell how far it is.
KILLED_AT, SAMPLE = 0.3, 50

# An act returns how long its strongest lock was held, in milliseconds, where known.
Act = Generator[Happening, None, float | None]


@dataclass
class Acts:
    """The phases, each a generator of its happenings.

    Arguments:
        states: the project's migrations.
        options: how long the traffic goes on, and at which rate.
        runner: starts the commands.
        fleets: the processes of the releases.
        course: says how the phases go.
        audit: the books.
        plot: what the meaning of the shadow decides.
        swap: the first exchange's figures of its lock.
        differences: definitions other than expected.
    """

    states: ReleaseStates
    options: RehearsalOptions
    runner: ProcessRunner
    fleets: Fleets
    course: Course
    audit: Audit
    plot: Plot
    swap: dict[str, float] = field(default_factory=dict)
    differences: set[str] = field(default_factory=set)
    _expanded: Schema = field(default_factory=Schema)

    def play_all(self) -> Generator[Happening, None, None]:
        """Play the phases in their order, to the last wanted phase."""
        acts: dict[str, Callable[[], Act]] = {
            "baseline": self._baseline,
            "expand": self._expand,
            "backfill": self._backfill,
            "prepare": self._prepare,
            "swap": self._swap,
            "revert": self._revert,
            "swap again": self._swap_again,
            "roll out": self._roll_out,
            "roll back": self._roll_back,
            "contract": self._contract,
        }
        for name in self.plot.phases:
            yield from self.course.play(name, acts[name]())
            if name == self.options.until:
                return

    def open_with(self, release: Release) -> None:
        """Let two processes of a release take all requests, before the first phase."""
        finish_all(self._join(release), self._join(release))

    def _baseline(self) -> Act:
        """Let release N work alone."""
        yield from self.course.dwell(self.options.seconds)
        return None

    def _expand(self) -> Act:
        """Migrate to release N+1, then start its processes beside release N's."""
        plain = self._read_schema()
        yield from self._command("migrate", *self.states.expand, "--no-input", "--verbosity", "0")
        self._expanded = self._read_schema()
        self.differences |= plain.find_missing(self._expanded)
        if self.states.has_more:
            yield from self._command("migrate", "--no-input", "--verbosity", "0")
            self._expanded = self._read_schema()
        yield from self.course.watch(self._join("N+1"))
        yield from self.course.watch(self.fleets.leave("N"))
        return None

    def _backfill(self) -> Act:
        """Kill the backfill once on its way, and resume."""
        yield from self._kill_a_backfill()
        done = yield from self._play_command("backfill", *self._read_allowance())
        self.audit.filled = time.monotonic()
        yield Remark(
            f"It filled {done['rows_filled']:,} rows in {done['seconds']:.1f} s "
            f"({done['rows_per_second']:,.0f} rows/s)."
        )
        return None

    def _prepare(self) -> Act:
        """Prepare the swap: everything that scans."""
        yield from self.course.watch(self.runner.run("prepare"))
        return None

    def _swap(self) -> Act:
        """Exchange the columns."""
        done = yield from self._exchange()
        self.swap = {key: done[key] for key in ("lock_wait_ms", "lock_hold_ms", "attempts")}
        return float(done["lock_hold_ms"])

    def _revert(self) -> Act:
        """Exchange the columns back."""
        done = yield from self._exchange("--revert")
        return float(done["lock_hold_ms"])

    def _swap_again(self) -> Act:
        """Exchange the columns for good, and read the status afterwards."""
        done = yield from self._exchange()
        status = yield from self._command("playbook", "status", self.runner.script.target)
        yield Remark(status.rstrip())
        return float(done["lock_hold_ms"])

    def _roll_out(self) -> Act:
        """Let release N+2 take the place of N+1, beside N: three releases live with each other."""
        yield from self._take_over("N+1", "N+2")
        yield from self.course.dwell(self.options.seconds)
        return None

    def _roll_back(self) -> Act:
        """Let release N+1 come back."""
        yield from self._take_over("N+2", "N+1")
        yield from self.course.dwell(self.options.seconds)
        return None

    def _contract(self) -> Act:
        """Let release N+2 take over; once N+1 has left, release N+3 drops the column."""
        yield from self._take_over("N", "N+2")
        yield from self.course.dwell(self.options.seconds)
        yield from self._take_over("N+1", "N+2")
        self.audit.balance(at_work=self.fleets.list_keys())
        yield from self.course.watch(self.runner.run("contract"))
        yield from self._take_over("N+2", "N+3")
        yield from self.course.dwell(self.options.seconds)
        replacement = self.plot.replacement
        dropped = column_of(replacement.model, replacement.declaration.dropped)
        expected = self._expect_schema().without([dropped, *replacement.trigger_names])
        self.differences |= expected.find_differences(self._read_schema(), self._expanded.retyped)
        return None

    def _exchange(self, *options: str) -> Generator[Happening, None, dict[str, Any]]:
        """Exchange the columns before a witness, and look at the table's definition."""
        columns = self.audit.columns
        with Witness(
            self.runner.database.conninfo, columns.table, columns.live, columns.shadow
        ) as witness:
            try:
                done = yield from self._play_command("swap", *options)
            finally:
                witness.close()
                self.audit.enter_exchanges(witness.exchanges)
        self.differences |= self._expect_schema().find_missing(
            self._read_schema(), self._expanded.retyped
        )
        yield from self.course.dwell(self.options.seconds)
        return done

    def _kill_a_backfill(self) -> Generator[Happening, None, None]:
        """Start a backfill, and kill it for real on its way."""
        started = self.runner.start_command(
            "playbook", "backfill", self.runner.script.target, *self._read_allowance()
        )
        try:
            yield from self.course.watch(self._get_going(started))
        finally:
            started.kill()
            _, complaint = started.communicate()
        if started.returncode > 0:
            raise StepFailed(f"playbook backfill: {read_last_line(complaint)}")
        yield Remark(
            "The backfill was killed on its way; the next one goes on where it was."
            if started.returncode
            else "The backfill was done before it could be killed."
        )

    def _read_allowance(self) -> tuple[str, str]:
        """Spell the option by which the backfill knows how much it may add to the requests."""
        return "--max-added-ms", str(self.options.max_added_ms)

    def _get_going(self, started: subprocess.Popen[str]) -> Generator[None, None, None]:
        """Wait until a backfill has filled its share of the rows, or has ended."""
        sample = self.audit.draw_keys(SAMPLE)
        yield from look_while(
            lambda: started.poll() is None and self.audit.read_filled_share(sample) < KILLED_AT
        )

    def _read_schema(self) -> Schema:
        """Read the table's definition as it is."""
        columns = self.audit.columns
        pair = columns.live, columns.shadow
        return read_schema(self.audit.connection, columns.table, pair)

    def _expect_schema(self) -> Schema:
        """Build what the table's definition must be, by what it was after the expand."""
        return self._expanded.exchange() if self.audit.is_swapped() else self._expanded

    def _take_over(self, old: Release, new: Release) -> Generator[Happening, None, None]:
        """Let a process of a release take the place of another release's process."""
        yield from self.course.watch(self._join(new))
        yield from self.course.watch(self.fleets.leave(old))

    def _join(self, release: Release) -> Generator[None, None, None]:
        """Add a process of a release, with half of the requests."""
        yield from self.fleets.join(release, self.options.rate / 2)

    def _command(self, *arguments: str) -> Generator[Happening, None, str]:
        """Type a command; return what it printed."""
        return (yield from self.course.watch(self.runner.run_command(*arguments)))

    def _play_command(self, play: str, *options: str) -> Generator[Happening, None, dict[str, Any]]:
        """Type the command of a play with `--json`; return its object."""
        printed = yield from self._command(
            "playbook", play, self.runner.script.target, *options, "--json"
        )
        result: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return result
