"""The commands' common shape: every refusal is a sentence and an exit code.

`manage.py playbook` has them all. An alias that a project writes for itself is two lines::

    class Command(BackfillCommand):
        model, shadow = "tickets.Ticket", "new_token"
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections
from django.db import Error as DatabaseError
from rich.console import Console

from migrations_playbook.errors import UNREAD, PlaybookError, Stopped
from migrations_playbook.history import known_replacements
from migrations_playbook.postgres.failures import explain_failure
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.remains import bind_remains, find_anywhere, read_remains
from migrations_playbook.replacement import Replacement, declared_replacements
from migrations_playbook.settings import SETTINGS, Setting
from migrations_playbook.units import parse_count

# A model's label and a shadow field's name.
Target = tuple[str, str]


def option_type(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make an argparse type of a function like those of `units`, whose sentences argparse hides."""

    def parse_option(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_option


def add_number(
    parser: CommandParser,
    flag: str,
    default: float,
    what: str,
    *,
    kind: Callable[[object], float] = parse_count,
    metavar: str | None = None,
) -> None:
    """Add an option of a number above 0, with its default at the end of its help.

    Arguments:
        flag: `--rows`, say.
        what: its help, without a full stop.
        kind: the function of `units` that parses it.
        metavar: the unit, if any.
    """
    parser.add_argument(
        flag,
        type=option_type(kind),
        default=default,
        metavar=metavar,
        help=f"{what} (default: %(default)s).",
    )


def add_limits(parser: argparse._ActionsContainer, *options: str) -> None:
    """Add options that a project may also set; the setting is the option's default.

    Arguments:
        options: of `settings.SETTINGS`.
    """
    for limit in (SETTINGS[option] for option in options):
        parser.add_argument(
            f"--{limit.option}",
            type=option_type(partial(_parse_limit, limit)),
            # argparse parses a default that is a text, where the option is not given.
            default=limit.name,
            metavar=limit.unit,
            help=f"{limit.meaning} (default: {limit.name} of the settings, or {limit.standard}).",
        )


def _parse_limit(limit: Setting, text: str) -> Any:
    """Parse an option; its setting's name stands for the setting.

    Raises:
        ValueError: the option or the setting is wrong.
    """
    if text != limit.name:
        return limit.parse(text)
    try:
        return limit.read()
    except PlaybookError as error:
        raise ValueError(str(error)) from None


class Terminal(Console):
    """rich's console, which leaves a pipe that nobody reads to `PlaybookCommand.execute`."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise the error, where rich would exit."""
        raise BrokenPipeError


class PlaybookCommand(BaseCommand):
    """A command whose every refusal is a sentence and an exit code, never a traceback."""

    requires_system_checks = ("models", "migrations_playbook")
    play = ""  # by which `commands` knows it
    # As Django has it: False for `call_command`.
    _called_from_command_line = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The result for --json, as far as known; an error is added.
        self.result: dict[str, Any] = {}

    def add_arguments(self, parser: CommandParser) -> None:
        """Add --database and --json."""
        parser.add_argument(
            "--database",
            default=DEFAULT_DB_ALIAS,
            choices=tuple(connections),
            help='The database alias (default: "default").',
        )
        add_json(parser)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Execute the command; end quietly when nobody reads the output any more."""
        try:
            output = self._execute_and_say(*args, **options)
            # The rest of the buffer may meet a closed pipe, too.
            self.stdout.flush()
        except BrokenPipeError:
            self._end_unread()
        return output

    def _execute_and_say(self, *args: Any, **options: Any) -> str | None:
        """Execute the command; a requested stop is an ordinary line, not an error."""
        json = options.get("json") is True
        try:
            return self._in_one_sentence(*args, **options)
        except Stopped as error:
            if not self._called_from_command_line:
                raise CommandError(str(error), returncode=error.exit_code) from None
            if json:
                self.say_json({"stopped": str(error), **self.result})
            else:
                self.stdout.write(str(error))
            self.stdout.flush()
            sys.exit(error.exit_code)
        except CommandError as error:
            if json:
                self.say_json(self.result | {"error": str(error)})
            raise

    def _in_one_sentence(self, *args: Any, **options: Any) -> str | None:
        """Execute the command; any failure becomes a sentence and an exit code."""
        try:
            return super().execute(*args, **options)
        except Stopped:
            raise
        except PlaybookError as error:
            raise CommandError(str(error), returncode=error.exit_code) from None
        except DatabaseError as error:
            # `from None`: the driver's error quotes the offending row in its DETAIL.
            failure = self.explain(error)
            raise CommandError(str(failure), returncode=failure.exit_code) from None

    def _end_unread(self) -> NoReturn:
        """End quietly: whoever read the output (`| head`) has gone.

        Python flushes standard output once more at its exit, so the output now goes to nowhere.
        """
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        sys.exit(UNREAD)

    def explain(self, error: DatabaseError) -> PlaybookError:
        """Build the refusal for a database error."""
        return explain_failure(error)

    def say_json(self, result: object) -> None:
        """Print the result as JSON."""
        self.stdout.write(json.dumps(result))


class ShadowCommand(PlaybookCommand):
    """A command for a declared shadow column, named by the command line or an alias."""

    model = ""
    shadow = ""

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the argument for the column, unless an alias names the column."""
        if not self.model:
            add_target(parser)
        super().add_arguments(parser)

    def replacement(self, target: Target | None, database: str) -> Replacement:
        """Find the replacement that the command is for.

        Arguments:
            target: what the command line names.
            database: the alias of the database that may know what nothing else does.

        Raises:
            PlaybookError: there is no such shadow column, or the command line must name one.
        """
        if self.model:
            target = self.model, self.shadow
        connection = postgresql(database)
        if target is None:
            known = list(declared_replacements()) or list(known_replacements())
            known = known or list(bind_remains(read_remains(connection, known)))
            leads = (each for each in known if each.leads)
            target = only_one([(each.label, each.declaration.shadow) for each in leads])
        return find_anywhere(connection, *target).lead


def only_one(candidates: Sequence[Target]) -> Target:
    """Pick the only replacement, where the command line names none.

    Raises:
        PlaybookError: there is none, or there are several.
    """
    if not candidates:
        raise PlaybookError(
            "There is no shadow column for this. Declare one with Shadow(live=..., shadow=..., "
            "value=...).triggers in a model's Meta.triggers, or name one as app.Model.shadow."
        )
    if len(candidates) > 1:
        names = ", ".join(".".join(each) for each in candidates)
        raise PlaybookError(f"There are {len(candidates)} shadow columns: say which of {names}.")
    return candidates[0]


def add_json(parser: CommandParser) -> None:
    """Add the option that makes stdout an interface."""
    parser.add_argument(
        "--json", action="store_true", help="Print one JSON object instead of text."
    )


def add_target(parser: CommandParser, default: str = "the only one that is declared") -> None:
    """Add the argument that names a shadow column.

    Arguments:
        default: the meaning of a missing argument, in words.
    """
    parser.add_argument(
        "target",
        nargs="?",
        type=target,
        metavar="app.Model.shadow",
        help=f"The shadow column (default: {default}).",
    )


def target(text: str) -> Target:
    """Parse `app.Model.shadow` into the model's label and the shadow field's name."""
    label, _, shadow = text.rpartition(".")
    if label.count(".") != 1 or not all((*label.split("."), shadow)):
        raise argparse.ArgumentTypeError(f"{text!r} is not app.Model.shadow")
    return label, shadow
