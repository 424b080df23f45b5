"""The whole rehearsal: the stage is set, the phases are played, the books are balanced.

Yields happenings, and knows no terminal.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, suppress
from dataclasses import replace

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

from migrations_playbook.errors import PlaybookError
from migrations_playbook.history import is_declared
from migrations_playbook.rehearsal.acts import Acts
from migrations_playbook.rehearsal.course import Course
from migrations_playbook.rehearsal.happenings import Fingerprints, Happening, Remark
from migrations_playbook.rehearsal.plots.kinds import plot_of
from migrations_playbook.rehearsal.runner import ProcessRunner, StepFailed, finish_all
from migrations_playbook.rehearsal.scratch import ScratchDatabase, drop_orphans, make_scratch
from migrations_playbook.rehearsal.script import RehearsalOptions, Script, import_callable
from migrations_playbook.rehearsal.states import ReleaseStates
from migrations_playbook.rehearsal.traffic.audit import Audit, AuditedColumns
from migrations_playbook.rehearsal.traffic.fleet import HANDFUL, THREADS, Fleets
from migrations_playbook.rehearsal.traffic.stamps import choose_stamp
from migrations_playbook.rehearsal.verdict import Verdict
from migrations_playbook.replacement import Replacement

# Processes of the fleets over the whole rehearsal, and some in reserve.
PROCESSES = 10
# Processes that make rows side by side: a second one is worth having on two cores.
MAKERS = 2


class Rehearsal:
    """A rehearsal.

    Arguments:
        script: the script to rehearse.
        options: how.
        replacement: the script's shadow.
        connection: any of the server.
    """

    def __init__(
        self,
        script: Script,
        options: RehearsalOptions,
        replacement: Replacement,
        connection: BaseDatabaseWrapper,
    ) -> None:
        self.script = script
        self.options = options
        self.replacement = replacement
        self.connection = connection
        self.verdict = Verdict(options.max_added_ms)

    def run(self) -> Generator[Happening, None, None]:
        """Play the whole rehearsal; `verdict` has the result.

        Raises:
            PlaybookError: the rehearsal could not be started: no such template, no right to create
                a database, no release before the expand, no such callable.
        """
        self._refuse_unfit()
        states = ReleaseStates(self.connection, self.replacement)
        yield from self._choose_stamp(states)
        for name in drop_orphans(self.connection):
            yield Remark(f"Dropped {name}: the rehearsal that made it was killed.")
        with ExitStack() as stack:
            database = stack.enter_context(make_scratch(self.connection, self.options.template))
            runner = ProcessRunner(self.script, database)
            yield from self._set_stage(runner)
            books = stack.enter_context(psycopg.connect(database.conninfo, autocommit=True))
            columns = AuditedColumns.read(
                self.replacement, states.read_model("N"), self.script.stamp
            )
            plot = plot_of(self.replacement)
            audit = Audit(books, columns, plot)
            self.verdict.rows = audit.open()
            fleets = Fleets(runner, audit.draw_keys(PROCESSES * THREADS * HANDFUL))
            stack.callback(fleets.kill_all)
            acts = Acts(
                states,
                self.options,
                runner,
                fleets,
                Course(fleets),
                audit,
                plot,
            )
            yield from self._play(acts)
            yield from self._judge(acts)

    def _refuse_unfit(self) -> None:
        """Refuse a replacement that cannot be rehearsed, whatever the migrations say."""
        if len(self.replacement.key) != 1:
            raise PlaybookError(
                f"{self.replacement.label} has a composite key: it cannot be rehearsed."
            )
        if len(self.replacement.group) > 1:
            raise PlaybookError(
                f"{self.replacement} is of a group, whose columns are made of each other: it "
                "cannot be rehearsed yet."
            )
        if objection := plot_of(self.replacement).find_objection():
            raise objection
        if not is_declared(self.replacement):
            raise PlaybookError(
                f"No model declares {self.replacement} any more, so release N+1 is not in this "
                "code. Rehearse with the code that declares it."
            )
        for path in filter(None, (self.script.row, self.script.read)):
            import_callable(path)

    def _choose_stamp(self, states: ReleaseStates) -> Generator[Happening, None, None]:
        """Settle which field the clients write."""
        declaration = self.replacement.declaration
        stamp = choose_stamp(
            states.read_model("N"), self.script.stamp, {declaration.live, declaration.shadow}
        )
        self.script = replace(self.script, stamp=stamp)
        if stamp is None:
            yield Remark(
                f"{self.replacement.label} has no field that the clients could write, so no "
                "acknowledged write is looked for in the end."
            )

    def _set_stage(self, runner: ProcessRunner) -> Generator[Happening, None, None]:
        """Bring the scratch database to release N, with rows: copied, or made."""
        rows = self.options.rows
        if self.options.template is None:
            yield Remark(f"Making {rows:,} rows in a scratch database.")
            finish_all(runner.run("go back"))
            shares = [(rows + number) // MAKERS for number in range(MAKERS)]
            finish_all(*(runner.run("add rows", count=share) for share in shares))
        else:
            yield Remark(f'A copy of "{self.options.template}" in a scratch database.')
            finish_all(runner.run("go back"))
        settle_database(runner.database)

    def _play(self, acts: Acts) -> Generator[Happening, None, None]:
        """Play the phases; failures go into the verdict."""
        watched = acts.audit.draw_keys(3)
        yield Fingerprints("before", tuple(acts.audit.read_fingerprints(watched)))
        try:
            acts.open_with("N")
            yield from acts.play_all()
        except (StepFailed, PlaybookError) as error:
            self.verdict.add_failure("failed_steps", str(error))
        yield Fingerprints("after", tuple(acts.audit.read_fingerprints(watched)))

    def _judge(self, acts: Acts) -> Generator[Happening, None, None]:
        """Send everybody home, balance the books, and pass judgement."""
        finish_all(acts.fleets.leave_all())
        verdict, audit = self.verdict, acts.audit
        verdict.phases, verdict.requests = acts.course.phases, acts.fleets.requests
        verdict.swap = acts.swap
        audit.balance()
        yield Remark("Everybody has gone home; the books are being balanced.")
        verdict.checks.setdefault("failed_steps", 0)
        verdict.judge_requests(self.options.max_stall_ms)
        verdict.judge_processes(acts.fleets.problems)
        verdict.checks |= audit.read_checks(rows=verdict.rows)
        verdict.judge_schema(acts.differences)


def settle_database(database: ScratchDatabase) -> None:
    """Vacuum, analyse and write out the new rows, lest the server do so under the requests.

    Lock: SHARE UPDATE EXCLUSIVE on each table, as VACUUM.
    """
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        # Takes a right that a role may not have.
        with suppress(psycopg.errors.InsufficientPrivilege):
            connection.execute("CHECKPOINT")
