"""The backfill as a command: options in, progress out."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from django.core.management.base import CommandParser
from django.db import Error as DatabaseError

from migrations_playbook.backfill import control, throttle, walk
from migrations_playbook.backfill.cost import predict
from migrations_playbook.backfill.nulls import count_nulls, estimate_nulls
from migrations_playbook.backfill.play import Options, backfill, fillable
from migrations_playbook.errors import ConnectionLost, PlaybookError, RowsLeft, Stopped
from migrations_playbook.management import progress
from migrations_playbook.management.backfill_options import (
    add_options,
    default_workers,
    options_from,
)
from migrations_playbook.management.base import ShadowCommand, Target
from migrations_playbook.management.interrupts import GracefulStop
from migrations_playbook.postgres.server import wal_position
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.tables import measure_sizes, read_leaves, read_table
from migrations_playbook.replacement import Replacement

# How long the count for the prediction may delay the first batch, in ms.
COUNT_MS = 100


class BackfillCommand(ShadowCommand):
    play = "backfill"
    help = "Fill the shadow column where it is null. Can be stopped and run again at any time."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        add_options(parser)

    def handle(
        self,
        *,
        database: str,
        json: bool,
        dry_run: bool,
        pause: bool,
        resume: bool,
        changes: list[tuple[str, float | None]] | None,
        no_progress: bool,
        target: Target | None = None,
        **options: Any,
    ) -> None:
        self.tally = progress.Tally()
        replacement = self.replacement(target)
        wanted: dict[str, Any] = dict(changes or [])
        if pause or resume:
            wanted["paused"] = pause
        if wanted:
            self.control(database, replacement, wanted)
        elif dry_run:
            self.show_plan(database, replacement, options_from(options))
        else:
            chosen = options_from(options)
            if not options["workers"]:
                chosen = replace(chosen, workers=default_workers(postgresql(database)))
            self.fill(database, replacement, chosen, json=json, draw=not (json or no_progress))

    def control(self, database: str, replacement: Replacement, changes: dict[str, Any]) -> None:
        connection = postgresql(database)
        table = fillable(connection, replacement)
        now = control.change(connection, replacement, table, **changes)
        self.stdout.write(f"Set for every worker on every host: {now}.")

    def show_plan(self, database: str, replacement: Replacement, options: Options) -> None:
        """The plan, the predictions and the signals; nothing is changed."""
        connection = postgresql(database)
        table = fillable(connection, replacement)
        rows = count_nulls(connection, replacement, table)
        workers = options.workers or default_workers(connection)
        every = f"every {options.vacuum_every:.0%} of the rows" if options.vacuum_every else "never"
        self.stdout.write(f"Fill: {table}, with {workers} worker(s); VACUUM {every}.")
        for leaf in read_leaves(connection, table):
            self.stdout.write(walk.batch_statement(replacement, leaf).as_string(None))
        predicted = predict(connection, table, rows, vacuum_every=options.vacuum_every)
        self.stdout.write(f"Predicted: {predicted}.")
        self.stdout.write(f"Control: {control.read(connection, replacement, table)}.")
        if options.limits is None:
            self.stdout.write("Signals: none is looked at.")
            return
        limits = throttle.derive(connection, options.limits)
        signals = throttle.Signals(walk.application_name(replacement), limits.query)
        for sentence in signals.unprivileged(connection):
            self.stdout.write(sentence)
        readings = signals.read(connection)
        self.stdout.write(f"Signals: {throttle.describe(readings, limits)}.")
        for reason in throttle.reasons(readings, limits):
            self.stdout.write(f"It would wait now: {reason.text}.")

    def fill(
        self, database: str, replacement: Replacement, options: Options, *, json: bool, draw: bool
    ) -> None:
        tally = self.tally
        cost = _Cost(database, replacement, options)
        cost.refuse_without_room()
        with GracefulStop() as stop:
            events = backfill(replacement, using=database, options=options, stop=stop)
            try:
                progress.follow(
                    events,
                    tally,
                    what=replacement.declaration.shadow,
                    stream=sys.stdout if draw else None,
                )
            except KeyboardInterrupt:
                events.close()
                tally.remaining = _count_again(database, replacement)
            except ConnectionLost:
                self.result = tally.as_json()
                raise ConnectionLost(self.when_lost()) from None
        if json:
            self.result = tally.as_json() | {"workers": options.workers, "cost": cost.as_json()}
        self.conclude(replacement, tally, stop, cost, json=json)

    def conclude(
        self,
        replacement: Replacement,
        tally: progress.Tally,
        stop: GracefulStop,
        cost: _Cost,
        *,
        json: bool,
    ) -> None:
        if tally.complete:
            if json:
                self.say_json(self.result)
            else:
                self.stdout.write(
                    f"Filled {tally.rows:,} rows in {tally.seconds:.1f} s "
                    f"({tally.rate:,.0f} rows/s); none is left. "
                    f'Next: "{replacement.command("swap")}".'
                )
                if tally.rows:
                    self.stdout.write(str(cost))
                for name, seconds in tally.waited.items():
                    self.stdout.write(f"Waited for {name}: {seconds:.1f} s.")
            return
        left = f"{tally.remaining:,} are left" if tally.remaining is not None else "some are left"
        if stop():
            raise Stopped(
                f"Stopped: {tally.rows:,} rows filled and kept, {left}. "
                "Run the same command again to go on.",
                stop.exit_code,
            )
        why = "" if tally.reason is None else f"{tally.reason}, which is the bound: "
        raise RowsLeft(f"{why}{tally.rows:,} rows filled, {left}. Run the same command again.")

    def when_lost(self) -> str:
        return (
            f"The connection to the server was lost: {self.tally.rows:,} rows were filled and "
            "kept. Run the same command again to go on."
        )


class _Cost:
    """Predicted beside actual.

    Actual is what the whole server wrote and the whole table grew by meanwhile.
    """

    def __init__(self, database: str, replacement: Replacement, options: Options) -> None:
        self.connection = connection = postgresql(database)
        self.table = table = fillable(connection, replacement)
        rows, _ = estimate_nulls(connection, replacement, table, limit_ms=COUNT_MS)
        self.predicted = predict(connection, table, rows, vacuum_every=options.vacuum_every)
        self.sizes = measure_sizes(connection, table)
        self.wal = wal_position(connection)

    def refuse_without_room(self) -> None:
        if not self.predicted.fits:
            raise PlaybookError(
                f"The table would outgrow the server's disk: {self.predicted}. Make room first."
            )

    def actual(self) -> dict[str, int]:
        heap, indexes = measure_sizes(self.connection, self.table)
        return {
            "wal": wal_position(self.connection) - self.wal,
            "heap_growth": heap - self.sizes[0],
            "index_growth": indexes - self.sizes[1],
        }

    def as_json(self) -> dict[str, Any]:
        return {"predicted": self.predicted.as_json(), "actual": self.actual()}

    def __str__(self) -> str:
        actual = self.actual()
        return (
            "; ".join(
                f"{title} {actual[name] / 1e6:,.0f} MB "
                f"(predicted {getattr(self.predicted, name) / 1e6:,.0f})"
                for title, name in (
                    ("WAL", "wal"),
                    ("heap grown by", "heap_growth"),
                    ("indexes grown by", "index_growth"),
                )
            )
            + "."
        )


def _count_again(database: str, replacement: Replacement) -> int | None:
    """The number of null rows after a batch was cut short; None when it cannot be counted."""
    connection = postgresql(database)
    try:
        table = read_table(connection, replacement.identifier)
        return None if table is None else count_nulls(connection, replacement, table)
    except DatabaseError:
        return None
