"""The backfill as a command: options in, progress out."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandParser
from django.db import Error as DatabaseError

from migrations_playbook.backfill.pacing import control
from migrations_playbook.backfill.play import Options, Plan, backfill, fillable_table, plan_backfill
from migrations_playbook.backfill.unconverted import list_unconverted
from migrations_playbook.errors import ConnectionLost, PlaybookError, Refused, RowsLeft, Stopped
from migrations_playbook.management import progress
from migrations_playbook.management.backfill_options import add_options, options_from
from migrations_playbook.management.interrupts import GracefulStop
from migrations_playbook.management.schemas import SchemaCommand
from migrations_playbook.postgres.sessions import (
    is_connection_lost,
    is_connection_refused,
    postgresql,
)
from migrations_playbook.postgres.site_triggers import say_firing
from migrations_playbook.replacement import Replacement


class BackfillCommand(SchemaCommand):
    """The command that fills a shadow column."""

    play = "backfill"
    help = "Fill the shadow column where it is null. Can be stopped and run again at any time."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the backfill's options."""
        super().add_arguments(parser)
        add_options(parser)

    def act(
        self,
        replacement: Replacement,
        *,
        database: str,
        json: bool,
        dry_run: bool,
        list_failed: bool,
        pause: bool,
        resume: bool,
        changes: list[tuple[str, float | None]] | None,
        no_progress: bool,
        **options: Any,
    ) -> None:
        """Fill, show the plan, or change the settings of running backfills."""
        self.tally = progress.Tally()
        wanted: dict[str, Any] = dict(changes or [])
        if pause or resume:
            wanted["paused"] = pause
        if list_failed:
            keys = list_unconverted(postgresql(database), replacement)
            if json:
                self.say_json({"failed": keys})
            else:
                self.stdout.writelines(f"{each}\n" for each in keys)
        elif wanted:
            self.change_control(database, replacement, wanted, json=json)
        elif dry_run:
            plan = plan_backfill(replacement, using=database, options=options_from(options))
            if json:
                self.say_json(plan.as_json())
            else:
                self.show_plan(plan)
        else:
            draw = not (json or no_progress)
            self.fill(database, replacement, options_from(options), json=json, draw=draw)

    def change_control(
        self, database: str, replacement: Replacement, changes: dict[str, Any], *, json: bool
    ) -> None:
        """Change the settings of all running backfills, and say them."""
        connection = postgresql(database)
        table = fillable_table(connection, replacement)
        now = control.change_control(connection, replacement, table, **changes)
        if json:
            self.say_json({"control": now.as_json()})
        else:
            self.stdout.write(f"Set for every worker on every host: {now}.")

    def show_plan(self, plan: Plan) -> None:
        """Show the plan, the prediction and the signals."""
        every = f"every {plan.vacuum_every:.0%} of the rows" if plan.vacuum_every else "never"
        self.stdout.write(f"Fill: {plan.table}, with {plan.workers} worker(s); VACUUM {every}.")
        for statement in plan.statements:
            self.stdout.write(statement.as_string(None))
        if plan.firing:
            self.stdout.write(say_firing(plan.firing))
        if plan.skipped:
            self.stdout.write(f"Left out: {', '.join(plan.skipped)}.")
        self.stdout.write(f"Predicted: {plan.predicted}.")
        self.stdout.write(f"Control: {plan.control}.")
        for sentence in plan.notes:
            self.stdout.write(sentence)
        self.stdout.write(f"Signals: {plan.signals or 'none is looked at'}.")
        for reason in plan.reasons:
            self.stdout.write(f"The backfill would wait now: {reason}.")

    def fill(
        self, database: str, replacement: Replacement, options: Options, *, json: bool, draw: bool
    ) -> None:
        """Fill the column, and draw the progress."""
        with GracefulStop() as stop:
            events = backfill(replacement, using=database, options=options, stop=stop)
            stream = sys.stdout if draw else None
            what = ".".join(filter(None, (replacement.schema, replacement.declaration.shadow)))
            try:
                progress.draw_progress(events, self.tally, what=what, stream=stream)
            except KeyboardInterrupt:
                pass
            except ConnectionLost:
                self.result = self.tally.as_json()
                raise self.lost() from None
        self.result = self.tally.as_json()
        self.conclude(replacement, stop, json=json)

    def conclude(self, replacement: Replacement, stop: GracefulStop, *, json: bool) -> None:
        """Say the result.

        Raises:
            Stopped: by a signal.
            Refused: rows are left whose values cannot be converted.
            RowsLeft: at a bound.
        """
        tally = self.tally
        if stop() and not tally.complete:
            raise Stopped(
                f"Stopped: {tally.rows:,} rows filled and kept, {tally.left}. "
                "Run the same command again to go on.",
                stop.exit_code,
            )
        if tally.valueless:
            raise Refused(
                f"{tally.rows:,} rows filled. The values of {tally.valueless:,} rows cannot be "
                "converted: the site goes on with them, and the exchange is refused until there "
                f'is none. "{replacement.command("backfill", "--list-failed")}" lists them by '
                "key. Correct them, then run the same command again."
            )
        if not tally.complete:
            why = "" if tally.reason is None else f"{tally.reason} "
            raise RowsLeft(
                f"{why}{tally.rows:,} rows filled, {tally.left}. Run the same command again."
            )
        if json:
            self.say_json(self.result)
        else:
            self.stdout.write(
                f"Filled {tally.rows:,} rows in {tally.seconds:.1f} s "
                f"({tally.rate:,.0f} rows/s); none is left. "
                f'Next: "{replacement.command("swap")}".'
            )
            if tally.rows:
                self.stdout.write(str(tally.cost))
            if tally.workers_lost:
                self.stdout.write(f"Workers that lost the connection: {tally.workers_lost}.")
            for name, seconds in tally.waited.items():
                self.stdout.write(f"Waited for {name}: {seconds:.1f} s.")

    def explain(self, error: DatabaseError) -> PlaybookError:
        """Build the refusal for a database error: a lost connection has its own."""
        if is_connection_lost(error) and not is_connection_refused(error):
            return self.lost()
        return super().explain(error)

    def lost(self) -> ConnectionLost:
        """Build the refusal for a lost connection: the progress kept, and how to go on."""
        return ConnectionLost(
            f"The connection to the server was lost: {self.tally.rows:,} rows were filled and "
            "kept. Run the same command again to go on."
        )
