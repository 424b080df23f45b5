"""Fill the table of tickets for a demonstration, a rehearsal or a benchmark."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.core.management.base import CommandParser
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone
from psycopg import sql
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from migrations_playbook.errors import PlaybookError
from migrations_playbook.management.base import PlaybookCommand
from migrations_playbook.postgres.sessions import postgresql
from tickets.models import Ticket

# Rows between two looks at the progress bar.
CHUNK = 10_000


def count(text: str) -> int:
    """An argparse type: a number of rows, 0 or more."""
    try:
        number = int(text.replace("_", ""))
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number of rows, 0 or more')
    return number


class Command(PlaybookCommand):
    """`manage.py seed_tickets COUNT`."""

    help = "Top the table of tickets up to COUNT rows, with fresh tokens; every third is redeemed."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("count", metavar="COUNT", type=count, help="Rows to have in the end.")

    def handle(self, *, count: int, database: str, json: bool, **options: Any) -> None:
        connection = postgresql(database)
        table = Ticket._meta.db_table
        with connection.cursor() as cursor:
            if table not in connection.introspection.table_names(cursor):
                raise PlaybookError(f'There is no table "{table}". Run "manage.py migrate" first.')
        present = Ticket.objects.using(database).count()
        missing = max(0, count - present)
        started = time.monotonic()
        # The raw stream: the wrapper ends every write with a line of its own.
        console = Console(file=getattr(self.stdout, "_out", None))
        with Progress(
            TextColumn("Seeding"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=json or not console.is_terminal,
            transient=True,
        ) as progress:
            bar = progress.add_task("", total=missing)
            for done in copy_tickets(connection, missing):
                progress.update(bar, completed=done)
        seconds = time.monotonic() - started
        if json:
            self.say_json({"added": missing, "rows": present + missing, "seconds": seconds})
            return
        self.stdout.write(
            f"{missing:,} tickets added in {seconds:.1f} s, {present + missing:,} in all."
        )


def copy_tickets(connection: BaseDatabaseWrapper, rows: int) -> Iterator[int]:
    """Add tickets in one COPY, all or none, holding one row at a time in memory.

    Only these two columns are named, so that it works in every phase of a rotation.

    Lock: ROW EXCLUSIVE on the table.

    Arguments:
        connection: where to.
        rows: how many to add.

    Yields:
        The number of rows sent so far, now and then.
    """
    token = Ticket._meta.get_field("token")
    redeemed_at = Ticket._meta.get_field("redeemed_at")
    now: datetime = timezone.now()
    statement = sql.SQL("COPY {} ({}, {}) FROM STDIN").format(
        sql.Identifier(Ticket._meta.db_table),
        sql.Identifier(token.column or token.attname),
        sql.Identifier(redeemed_at.column or redeemed_at.attname),
    )
    # Django translates what its own cursor methods raise; copy() is psycopg's.
    with (
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        for done in range(1, rows + 1):
            copy.write_row((token.get_default(), now if done % 3 == 0 else None))
            if done % CHUNK == 0:
                yield done
