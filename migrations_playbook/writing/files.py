"""A migration as a file: its number, its dependencies, and its place."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path

from django.core.management.utils import run_formatters
from django.db.migrations import Migration
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.writer import MigrationWriter

from migrations_playbook.errors import Refused
from migrations_playbook.operations import EnsureSwapped

CLASS = "class Migration(migrations.Migration):\n"


def build_migration(
    loader: MigrationLoader, app_label: str, name: str, operations: Sequence[Operation]
) -> Migration:
    """Build the migration after an app's last.

    Arguments:
        loader: the migrations on disk.
        app_label: the app.
        name: the migration's name, without a number.
        operations: the migration's operations.

    Raises:
        Refused: the app has no migration, or several last migrations.
    """
    leaves = loader.graph.leaf_nodes(app_label)
    if not leaves:
        raise Refused(
            f"The app {app_label} has no migrations. "
            f'Run "manage.py makemigrations {app_label}" first.'
        )
    if len(leaves) > 1:
        names = ", ".join(name for _, name in leaves)
        raise Refused(
            f"The app {app_label} has {len(leaves)} last migrations: {names}. "
            'Run "manage.py makemigrations --merge" first.'
        )
    number = (MigrationAutodetector.parse_number(leaves[0][1]) or 0) + 1
    content = {
        "dependencies": [leaves[0]],
        "operations": list(operations),
        # The plays commit as they go on.
        "atomic": not any(isinstance(each, EnsureSwapped) for each in operations),
    }
    migration: Migration = type("Migration", (Migration,), content)(
        f"{number:04d}_{name}", app_label
    )
    return migration


def render_migration(migration: Migration) -> str:
    """Write a migration as text."""
    text: str = MigrationWriter(migration).as_string()
    if not migration.atomic:
        # Django's writer has no place for `atomic`.
        text = text.replace(CLASS, f"{CLASS}    atomic = False\n", 1)
    return text


def write_migration(migration: Migration) -> Path:
    """Write a migration as a new file in the app's migrations package.

    Returns:
        The file, relative to the current folder where inside.

    Raises:
        Refused: the package is installed, and the next install would overwrite the file; or the
            file cannot be written.
    """
    path = Path(MigrationWriter(migration).path)
    if any(path.is_relative_to(sysconfig.get_path(name)) for name in ("purelib", "platlib")):
        raise Refused(
            f"The migrations of {migration.app_label} are in an installed package. Write "
            f'MIGRATION_MODULES = {{"{migration.app_label}": "...", }} with a package of yours '
            "in the settings; see the page on models that are not yours."
        )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(render_migration(migration))
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}.") from None
    run_formatters([str(path)])
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
