"""The status as a command."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from rich.table import Table

from migrations_playbook import status
from migrations_playbook.commands import STATUS
from migrations_playbook.history import known_replacements
from migrations_playbook.management.base import PlaybookCommand, Target, Terminal, add_target
from migrations_playbook.management.schemas import add_schema, choose_schemas
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

    def handle(
        self,
        *,
        database: str,
        json: bool,
        target: Target | None = None,
        schema: list[str] | None = None,
        **options: Any,
    ) -> None:
        """Print the status, for a person or as JSON."""
        named = target and find_anywhere(postgresql(database), *target)
        if schema:
            known = [named] if named else list(known_replacements())
            found = [
                state
                for replacement in known
                for each in choose_schemas(replacement, schema, using=database)
                for state in status.read(database, each)
            ]
        else:
            found = status.read(database, named)
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
