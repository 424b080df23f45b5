"""The commands that write a release's migration: expand, forget and contract."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation

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
from migrations_playbook.replacement import declared_replacements, find_replacement
from migrations_playbook.writing.files import build_migration, render_migration, write_migration
from migrations_playbook.writing.releases import (
    build_contract,
    build_ensure,
    build_expand,
    build_forget,
    find_remains,
)


class WriteCommand(PlaybookCommand):
    """A command that writes a migration, without a database."""

    following = 'Next: "manage.py migrate".'

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
        app_label, _, model = label.partition(".")
        migration = build_migration(
            loader,
            app_label,
            f"{self.play}_{model}_{shadow}".lower(),
            self.operations(label, shadow, loader, **options),
        )
        text = render_migration(migration)
        path = None if dry_run else str(write_migration(migration))
        if json:
            self.say_json({"migration": str(migration), "path": path, "text": text})
        elif path is None:
            self.stdout.write(text, ending="")
        else:
            self.stdout.write(f"Written: {path}. {self.following}")

    def candidates(self, loader: MigrationLoader) -> list[Target]:
        """List the replacements to choose from, where the command line names none."""
        raise NotImplementedError

    def operations(
        self, label: str, shadow: str, loader: MigrationLoader, **options: Any
    ) -> list[Operation]:
        """Build the migration's operations."""
        raise NotImplementedError


class ExpandCommand(WriteCommand):
    """The command that writes release N+1's migration, which adds the column."""

    play = "expand"
    help = "Write the migration that adds a declared shadow column and its triggers."

    def candidates(self, loader: MigrationLoader) -> list[Target]:
        """List the declared shadows."""
        return [(each.label, each.declaration.shadow) for each in declared_replacements()]

    def operations(
        self, label: str, shadow: str, loader: MigrationLoader, **options: Any
    ) -> list[Operation]:
        """Build the operations of the expand."""
        return build_expand(find_replacement(label, shadow), loader)


class ForgetCommand(WriteCommand):
    """The command that writes release N+2's migration, which forgets the field."""

    play = "forget"
    help = (
        "Write the migration of the release whose models have no shadow column any more; the "
        "database keeps it."
    )

    def candidates(self, loader: MigrationLoader) -> list[Target]:
        """List the remembered shadows that no migration has forgotten yet."""
        return [
            (each.label, each.declaration.shadow)
            for each in read_history(loader)
            if not each.forgotten
        ]

    def operations(
        self, label: str, shadow: str, loader: MigrationLoader, **options: Any
    ) -> list[Operation]:
        """Build the operations of the forgetting."""
        return build_forget(label, shadow, loader)


class EnsureCommand(ForgetCommand):
    """The command that writes the migration for installations that nobody watches."""

    play = "ensure"
    help = (
        "Write a migration that fills and swaps a small table by itself, for installations that "
        "nobody watches."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the bound of the rows."""
        super().add_arguments(parser)
        add_number(parser, "--up-to", ROWS, "Rows up to which it does", metavar="ROWS")

    def operations(
        self, label: str, shadow: str, loader: MigrationLoader, **options: Any
    ) -> list[Operation]:
        """Build the operation to fill and swap."""
        return build_ensure(label, shadow, loader, options["up_to"])


class ContractCommand(WriteCommand):
    """The command that writes release N+3's migration, which drops the column."""

    play = "contract"
    help = "Write the migration that drops the shadow column, one release after it was forgotten."
    following = (
        "Release it after the one that forgets the column; it refuses to run before the swap."
    )

    def candidates(self, loader: MigrationLoader) -> list[Target]:
        """List the forgotten shadows that no migration has dropped yet; then a database's own."""
        forgotten = [
            (each.label, each.declaration.shadow)
            for each in read_history(loader)
            if each.forgotten and not each.contracted
        ]
        return forgotten or [(each.label, each.declaration.shadow) for each in find_remains()]

    def operations(
        self, label: str, shadow: str, loader: MigrationLoader, **options: Any
    ) -> list[Operation]:
        """Build the operation to drop the column."""
        return build_contract(label, shadow, loader)
