"""The commands' common shape, and the two commands that an app makes its own.

An app's command is two lines::

    class Command(BackfillCommand):
        model, shadow = "tickets.Ticket", "new_token"
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections
from django.db import Error as DatabaseError

from migrations_playbook import backfill, catalog, locks, progress, swap
from migrations_playbook.database import is_connection_lost, postgresql
from migrations_playbook.errors import (
    TRY_AGAIN,
    PlaybookError,
    RowsLeft,
    Stopped,
    primary_message,
)
from migrations_playbook.locks import LockPolicy
from migrations_playbook.shadow import BoundShadow, find
from migrations_playbook.signals import GracefulStop


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return number


class PlaybookCommand(BaseCommand):
    """A command whose every refusal is one sentence and an exit code, never a traceback."""

    requires_system_checks = ("models", "migrations_playbook")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--database",
            default=DEFAULT_DB_ALIAS,
            choices=tuple(connections),
            help='The database alias (default: "default").',
        )
        parser.add_argument(
            "--json", action="store_true", help="Print one JSON object instead of text."
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except PlaybookError as error:
            raise CommandError(str(error), returncode=error.exit_code) from None
        except DatabaseError as error:
            # `from None`: the driver's error quotes the offending row in its DETAIL.
            connection = connections[options["database"]]
            if is_connection_lost(connection, error):
                raise CommandError(self.when_lost(), returncode=TRY_AGAIN) from None
            raise CommandError(f"PostgreSQL says: {primary_message(error)}.") from None

    def when_lost(self) -> str:
        """What to say when the server went away."""
        return "The connection to the server was lost. Run the same command again."

    def say_json(self, result: object) -> None:
        self.stdout.write(json.dumps(result))


class ShadowCommand(PlaybookCommand):
    """A command for one declared shadow column, which a subclass names."""

    model = ""
    shadow = ""

    def bound(self) -> BoundShadow:
        return find(self.model, self.shadow)


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


class SwapCommand(ShadowCommand):
    help = "Exchange the shadow column and the live column, in one short transaction."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        policy = locks.DEFAULT_POLICY
        parser.add_argument("--revert", action="store_true", help="Exchange back.")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Print the statements and the locks they take; change nothing.",
        )
        parser.add_argument(
            "--lock-timeout",
            type=positive_int,
            default=policy.timeout_ms,
            metavar="MS",
            help="How long one request for the lock may wait, in ms (default: %(default)s).",
        )
        parser.add_argument(
            "--attempts",
            type=positive_int,
            default=policy.attempts,
            help="How often to ask for the lock (default: %(default)s).",
        )
        parser.add_argument(
            "--max-hold-ms",
            type=positive_int,
            metavar="MS",
            help="Roll back instead of committing when the lock was held longer (default: never).",
        )
        parser.add_argument(
            "--keep-equal",
            action="store_true",
            help="Accept rows that have the same value in both columns before the swap.",
        )

    def handle(
        self,
        *,
        database: str,
        revert: bool,
        dry_run: bool,
        lock_timeout: int,
        attempts: int,
        max_hold_ms: int | None,
        keep_equal: bool,
        json: bool,
        **options: Any,
    ) -> None:
        bound = self.bound()
        if dry_run:
            self.show_plan(database, bound, revert=revert)
            return
        events = swap.swap(
            bound,
            using=database,
            revert=revert,
            policy=LockPolicy(timeout_ms=lock_timeout, attempts=attempts),
            max_hold_ms=max_hold_ms,
            keep_equal=keep_equal,
        )
        result: dict[str, Any] = {}
        with GracefulStop(patient=False) as stop:
            try:
                for event in events:
                    result |= swap_result(event)
                    if not json:
                        self.stdout.write(swap_line(event, revert=revert))
            except KeyboardInterrupt:
                events.close()
                raise Stopped(
                    "Stopped before the end; "
                    + (
                        "the exchange was committed."
                        if "phase" in result
                        else "nothing was exchanged."
                    )
                    + ' "manage.py playbook_status" shows what comes next.',
                    stop.exit_code,
                ) from None
        if json:
            self.say_json(result)

    def show_plan(self, database: str, bound: BoundShadow, *, revert: bool) -> None:
        connection = postgresql(database)
        found = swap.swappable(connection, bound, revert=revert)
        planned = swap.plan(connection, bound, found, revert=revert)
        for title, steps in (
            ("Before, while reads and writes go on", planned.index + planned.prove),
            ("In one transaction", planned.exchange),
        ):
            self.stdout.write(f"-- {title}")
            for step in steps:
                self.stdout.write(f"-- {step.what}. Lock: {step.lock}")
                self.stdout.write(step.text)
            if not steps:
                self.stdout.write("-- nothing: it is all there")


def swap_result(event: swap.Event) -> dict[str, Any]:
    """What an event adds to the JSON result."""
    match event:
        case swap.Exchanged():
            return {
                "phase": str(event.phase),
                "lock_wait_ms": round(event.lock_wait_ms, 2),
                "lock_hold_ms": round(event.lock_hold_ms, 2),
                "attempts": event.attempts,
                "waiters": event.waiters,
                "longest_wait_ms": round(event.longest_wait_ms, 2),
            }
        case swap.Verified():
            return {
                "rows": event.rows,
                "nulls": event.nulls,
                "duplicates": event.duplicates,
                "unchanged": event.unchanged,
                "leaked": event.leaked,
            }
    return {}


def swap_line(event: swap.Event, *, revert: bool) -> str:
    """What an event looks like to a person."""
    match event:
        case swap.Exchanged():
            done = "Exchanged back" if revert else "Exchanged"
            return (
                f"{done}: the lock was held for {event.lock_hold_ms:.1f} ms, after "
                f"{event.attempts} attempt{'s' if event.attempts > 1 else ''} that waited "
                f"{event.lock_wait_ms:.1f} ms; {event.waiters} sessions stood behind it, the "
                f"longest for {event.longest_wait_ms:.1f} ms."
            )
        case swap.Verified():
            return (
                f"Verified {event.rows:,} rows: {event.nulls} nulls, {event.duplicates} "
                f"duplicates, {event.unchanged} unchanged, {event.leaked} with another row's "
                "retired value."
            )
        case swap.Preparing(what=what):
            return f"Preparing: {what}."


def _count_again(database: str, bound: BoundShadow) -> int | None:
    """The number of null rows after a batch was cut short; None when it cannot be counted."""
    connection = postgresql(database)
    try:
        found = catalog.table(connection, bound)
        return None if found is None else catalog.count_nulls(connection, bound, found)
    except DatabaseError:
        return None
