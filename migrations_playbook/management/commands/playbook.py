"""`manage.py playbook`: a command for all the plays, a sub-command each."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandParser, DjangoHelpFormatter

from migrations_playbook.management.backfill import BackfillCommand
from migrations_playbook.management.base import PlaybookCommand
from migrations_playbook.management.rehearse import RehearseCommand
from migrations_playbook.management.status_report import StatusCommand
from migrations_playbook.management.swap import SwapCommand
from migrations_playbook.management.writing import (
    ContractCommand,
    EnsureCommand,
    ExpandCommand,
    ForgetCommand,
)

PLAYS: dict[str, type[PlaybookCommand]] = {
    command.play: command
    for command in (
        StatusCommand,
        ExpandCommand,
        BackfillCommand,
        SwapCommand,
        EnsureCommand,
        ForgetCommand,
        ContractCommand,
        RehearseCommand,
    )
}


class Command(BaseCommand):
    """All the plays, a sub-command each."""

    help = "Give every row a new value in a column, online: expand, backfill, swap, contract."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the sub-commands, each with its own options."""
        plays = parser.add_subparsers(dest="play", required=True, metavar="PLAY", title="plays")
        # Django's own options may stand before the play or after it.
        usual = {action.dest for action in parser._actions}
        for name, command in PLAYS.items():
            of_play = command().create_parser("manage.py", name, add_help=False)
            for action in of_play._actions:
                if action.dest in usual:
                    action.default = argparse.SUPPRESS
            plays.add_parser(
                name,
                help=command.help,
                description=command.help,
                parents=[of_play],
                formatter_class=DjangoHelpFormatter,
            )

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Hand over to the play, which checks its own needs."""
        play = PLAYS[options.pop("play")]()
        play._called_from_command_line = getattr(self, "_called_from_command_line", False)
        return play.execute(*args, **options)
