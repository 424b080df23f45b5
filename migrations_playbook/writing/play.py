"""Play 1 and the releases after the swap as functions: each writes the migration of its release.

What a migration then does to the database, and the locks that it takes, is told by its operations.
Only `contract` asks a database, and only for a shadow that no migration has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation

from migrations_playbook.contract.ensure import ROWS
from migrations_playbook.history import load_migrations
from migrations_playbook.replacement import find_replacement
from migrations_playbook.writing.files import build_migration, render_migration, write_migration
from migrations_playbook.writing.releases import (
    build_contract,
    build_ensure,
    build_expand,
    build_forget,
)


@dataclass(frozen=True)
class Written:
    """The migration of a release.

    Arguments:
        name: `tickets.0003_expand_ticket_new_token`, say.
        text: the file's content, before the project's formatters.
        path: the file; None where nothing was written.
    """

    name: str
    text: str
    path: Path | None

    def as_json(self) -> dict[str, Any]:
        """Build the form of the migration in the JSON result."""
        path = None if self.path is None else str(self.path)
        return {"migration": self.name, "path": path, "text": self.text}


def expand(
    label: str, shadow: str, *, dry_run: bool = False, loader: MigrationLoader | None = None
) -> Written:
    """Write the migration that adds a declared shadow column and its triggers, or renews these.

    Lock: none; the migration takes ACCESS EXCLUSIVE on the table, boundedly, for catalog changes.

    Arguments:
        label: the model's label, `tickets.Ticket`.
        shadow: the shadow field's name.
        dry_run: write nothing.
        loader: the migrations on disk; None to load them.

    Raises:
        PlaybookError: no model declares such a shadow.
        WrongPhase: no migration makes the table yet, or the migrations have everything.
        Refused: the app has no migration or several last ones, or the file cannot be written.
    """
    loader = loader or load_migrations()
    operations = build_expand(find_replacement(label, shadow).lead, loader)
    return _write("expand", label, shadow, operations, loader, dry_run=dry_run)


def ensure(
    label: str,
    shadow: str,
    *,
    up_to: int = ROWS,
    dry_run: bool = False,
    loader: MigrationLoader | None = None,
) -> Written:
    """Write the migration that fills and swaps a small table by itself.

    Lock: none; the migration takes those of `backfill` and `swap`.

    Arguments:
        up_to: rows up to which `migrate` fills and swaps.
        label, shadow, dry_run, loader: see `expand`.

    Raises:
        WrongPhase: the migrations drop the column already.
        Refused: as `expand`; or no migration has such a shadow.
    """
    loader = loader or load_migrations()
    operations = build_ensure(label, shadow, loader, up_to)
    return _write("ensure", label, shadow, operations, loader, dry_run=dry_run)


def forget(
    label: str, shadow: str, *, dry_run: bool = False, loader: MigrationLoader | None = None
) -> Written:
    """Write the migration of the release whose models have no shadow any more; it runs no SQL.

    Arguments:
        label, shadow, dry_run, loader: see `expand`.

    Raises:
        WrongPhase: the model still has the shadow, or the migrations have forgotten it already.
        Refused: as `ensure`.
    """
    loader = loader or load_migrations()
    operations = build_forget(label, shadow, loader)
    return _write("forget", label, shadow, operations, loader, dry_run=dry_run)


def contract(
    label: str, shadow: str, *, dry_run: bool = False, loader: MigrationLoader | None = None
) -> Written:
    """Write the migration that drops the shadow column, one release after it was forgotten.

    Lock: none; the migration takes ACCESS EXCLUSIVE on the table, boundedly, for catalog changes.

    Arguments:
        label, shadow, dry_run, loader: see `expand`.

    Raises:
        WrongPhase: the migrations have not forgotten the shadow, or drop the column already.
        Refused: as `ensure`.
    """
    loader = loader or load_migrations()
    operations = build_contract(label, shadow, loader)
    return _write("contract", label, shadow, operations, loader, dry_run=dry_run)


def _write(
    play: str,
    label: str,
    shadow: str,
    operations: Sequence[Operation],
    loader: MigrationLoader,
    *,
    dry_run: bool,
) -> Written:
    """Write operations as the next migration of the model's app."""
    app_label, _, model = label.partition(".")
    name = f"{play}_{model}_{shadow}".lower()
    migration = build_migration(loader, app_label, name, operations)
    path = None if dry_run else write_migration(migration)
    return Written(str(migration), render_migration(migration), path)
