"""The commands that write a release's migration: expand, forget and contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.core.management.base import CommandParser
from django.db.migrations.loader import MigrationLoader

from migrations_playbook.contract.ensure import ROWS
from migrations_playbook.history import load_migrations, read_history
from migrations_playbook.management.base import (
    PlaybookCommand,
    Target,
    add_json,
    add_number,
    add_target,
    only_one,
)
from migrations_playbook.replacement import Called, declared_replacements
from migrations_playbook.writing.play import Written, contract, ensure, expand, forget
from migrations_playbook.writing.releases import find_remains


class WriteCommand(PlaybookCommand):
    """A command that writes a migration, and changes no database."""

    following = 'Next: "manage.py migrate".'
    # The function that does it.
    write: Callable[..., Written]

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of a written migration."""
        add_target(parser, default="the only one that it can be for")
        parser.add_argument(
            "--dry-run", action="store_true", help="Show the migration; write nothing."
        )
        add_json(parser)

    def handle(
        self, *, dry_run: bool, json: bool, target: Target | None = None, **options: Any
    ) -> None:
        """Write the migration, or print its text."""
        loader = load_migrations()
        label, shadow = target or only_one(self.candidates(loader))
        written = self.write(label, shadow, dry_run=dry_run, loader=loader, **self.own(options))
        if json:
            self.say_json(written.as_json())
        elif written.path is None:
            self.stdout.write(written.text, ending="")
        else:
            self.stdout.write(f"Written: {written.path}. {self.following}")

    def own(self, options: dict[str, Any]) -> dict[str, Any]:
        """Pick the arguments of the function that other functions have not."""
        return {}

    def candidates(self, loader: MigrationLoader) -> list[Target]:
        """List the replacements to choose from, where the command line names none."""
        raise NotImplementedError


class ExpandCommand(WriteCommand):
    """The command that writes release N+1's migration, which adds the column."""

    play = "expand"
    write = staticmethod(expand)
    help = "Write the migration that adds a declared shadow column and its triggers."

    def candidates(self, loader: MigrationLoader) -> list[Target]:
        """List the declared shadows."""
        return name_targets(declared_replacements())


class ForgetCommand(WriteCommand):
    """The command that writes release N+2's migration, which forgets the field."""

    play = "forget"
    write = staticmethod(forget)
    help = (
        "Write the migration of the release whose models have no shadow column any more; the "
        "database keeps it."
    )

    def candidates(self, loader: MigrationLoader) -> list[Target]:
        """List the remembered shadows that no migration has forgotten yet; without any, all."""
        history = read_history(loader)
        return name_targets(each for each in history if not each.forgotten) or name_targets(history)


class EnsureCommand(ForgetCommand):
    """The command that writes the migration for installations that nobody watches."""

    play = "ensure"
    write = staticmethod(ensure)
    help = (
        "Write a migration that fills and swaps a small table by itself, for installations that "
        "nobody watches."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the bound of the rows."""
        super().add_arguments(parser)
        add_number(parser, "--up-to", ROWS, "Rows up to which it does", metavar="ROWS")

    def own(self, options: dict[str, Any]) -> dict[str, Any]:
        """Pick the bound of the rows."""
        return {"up_to": options["up_to"]}


class ContractCommand(WriteCommand):
    """The command that writes release N+3's migration, which drops the column."""

    play = "contract"
    write = staticmethod(contract)
    help = "Write the migration that drops the shadow column, one release after it was forgotten."
    following = (
        "Release it after the one that forgets the column; it refuses to run before the swap."
    )

    def candidates(self, loader: MigrationLoader) -> list[Target]:
        """List the forgotten shadows that no migration has dropped yet; then a database's own.

        Without any, the shadows that are to be forgotten first, or that are dropped already.
        """
        history = read_history(loader)
        there = [each for each in history if not each.contracted]
        return (
            name_targets(each for each in there if each.forgotten)
            or name_targets(find_remains())
            or name_targets(there)
            or name_targets(history)
        )


def name_targets(known: Iterable[Called]) -> list[Target]:
    """Name shadows as the command line does; a group once, by its first member."""
    return [(each.label, each.declaration.shadow) for each in known if each.leads]
