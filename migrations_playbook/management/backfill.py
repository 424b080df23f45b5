"""The backfill as a command: options in, progress out."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandParser
from django.db import Error as DatabaseError

from migrations_playbook import backfill, catalog, progress
from migrations_playbook.database import postgresql
from migrations_playbook.errors import RowsLeft, Stopped
from migrations_playbook.management.base import ShadowCommand, positive_int
from migrations_playbook.shadow import BoundShadow
from migrations_playbook.signals import GracefulStop


class BackfillCommand(ShadowCommand):
    help = "Fill the shadow column where it is null. Can be stopped and run again at any time."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--batch-size",
            type=positive_int,
            default=backfill.DEFAULT_BATCH_SIZE,
            help="Rows in one transaction (default: %(default)s).",
        )
        parser.add_argument(
            "--no-progress", action="store_true", help="Draw no progress, only the result."
        )

    def handle(
        self,
        *,
        database: str,
        batch_size: int,
        json: bool,
        no_progress: bool,
        **options: Any,
    ) -> None:
        bound = self.bound()
        self.tally = tally = progress.Tally()
        with GracefulStop() as stop:
            events = backfill.backfill(bound, using=database, batch_size=batch_size, stop=stop)
            try:
                progress.follow(
                    events,
                    tally,
                    what=f"{bound.label}.{bound.declaration.shadow}",
                    stream=None if json or no_progress else sys.stdout,
                )
            except KeyboardInterrupt:
                events.close()
                tally.remaining = _count_again(database, bound)
        if json:
            self.say_json(
                {
                    "rows_filled": tally.rows,
                    "rows_remaining": tally.remaining,
                    "seconds": round(tally.seconds, 3),
                    "rows_per_second": round(tally.rate, 1),
                    "batches": tally.batches,
                    "batch_size": batch_size,
                }
            )
        if tally.complete:
            if not json:
                self.stdout.write(
                    f"Filled {tally.rows:,} rows in {tally.seconds:.1f} s "
                    f"({tally.rate:,.0f} rows/s); none is left. "
                    'Next: "manage.py swap_token_columns".'
                )
            return
        left = f"{tally.remaining:,} are left" if tally.remaining is not None else "some are left"
        if stop():
            raise Stopped(
                f"Stopped: {tally.rows:,} rows filled and kept, {left}. "
                "Run the same command again to go on.",
                stop.exit_code,
            )
        raise RowsLeft(f"{tally.rows:,} rows filled, {left}. Run the same command again.")

    def when_lost(self) -> str:
        return (
            f"The connection to the server was lost: {self.tally.rows:,} rows were filled and "
            "kept. Run the same command again to go on."
        )


def _count_again(database: str, bound: BoundShadow) -> int | None:
    """The number of null rows after a batch was cut short; None when it cannot be counted."""
    connection = postgresql(database)
    try:
        found = catalog.table(connection, bound)
        return None if found is None else catalog.count_nulls(connection, bound, found)
    except DatabaseError:
        return None
