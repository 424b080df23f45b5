"""The status as a command."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from rich.table import Table

from migrations_playbook import status
from migrations_playbook.backfill.nulls import Count, count_rows, estimate_rows
from migrations_playbook.commands import STATUS
from migrations_playbook.history import known_replacements, read_history
from migrations_playbook.management.base import PlaybookCommand, Target, Terminal, add_target
from migrations_playbook.management.schemas import add_schema, choose_schemas
from migrations_playbook.metrics import spell_metrics
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.remains import find_anywhere


class StatusCommand(PlaybookCommand):
    """The command that shows where each shadow column stands."""

    play = STATUS
    help = "Show each declared shadow column: its phase, the rows left, and the next command."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the status's options."""
        add_target(parser, default="all of them")
        super().add_arguments(parser)
        add_schema(parser)
        parser.add_argument(
            "--prometheus",
            action="store_true",
            help="Print metrics in the text format of Prometheus instead of text.",
        )

    def handle(
        self,
        *,
        database: str,
        json: bool,
        prometheus: bool,
        target: Target | None = None,
        schema: list[str] | None = None,
        **options: Any,
    ) -> None:
        """Print the status, for a person, as JSON or as metrics."""
        if json and prometheus:
            raise CommandError("--json and --prometheus exclude each other.", returncode=2)
        count = estimate_rows if prometheus else count_rows
        found = read_statuses(database, target, schema, count)
        if prometheus:
            self.stdout.write(spell_metrics(found, database), ending="")
            return
        if json:
            self.say_json([each.as_json() for each in found])
            return
        if not found:
            self.stdout.write("No model declares a shadow column.")
            return
        # The raw stream: Django's wrapper would add a newline to every write.
        console = Terminal(file=getattr(self.stdout, "_out", None))
        for each in found:
            table = Table(title=str(each), show_header=False, title_justify="left")
            for name, value in each.lines(now=timezone.now()):
                table.add_row(name, value)
            console.print(table)


def read_statuses(
    database: str, target: Target | None, schemas: list[str] | None, count: Count
) -> list[status.ShadowStatus]:
    """Read the statuses that the command line asks for.

    Arguments:
        target: the wanted shadow; None for all.
        schemas: patterns of schemas, each a tenant's; None for the connection's own.
        count: see `nulls.Count`.
    """
    named = target and find_anywhere(postgresql(database), *target).lead
    if not schemas:
        return status.read(database, named, count=count)
    history = read_history()
    return [
        state
        for replacement in ([named] if named else known_replacements(history))
        if replacement.leads
        for each in choose_schemas(replacement, schemas, using=database)
        for state in status.read(database, each, history, count=count)
    ]
