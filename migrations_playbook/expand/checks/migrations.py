"""Checks of the migrations on disk: a migration to stop the site is found before its run."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator
from importlib import import_module

from django.core.checks import CheckMessage, Error
from django.db import migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation

from migrations_playbook.commands import spell_command
from migrations_playbook.expand.table_lock import WithTableLock
from migrations_playbook.shadow import Shadow

# Where migrations import our operations from, and which of them keep a lock to the end.
OURS = "migrations_playbook.operations"
LOCKING = {"WithTableLock", "DropShadow", "ContractShadow"}


def read_migrations(label: str) -> Iterator[migrations.Migration]:
    """Read an app's migrations from its files.

    A file that cannot be imported is passed over: Django has a sentence for such.

    Arguments:
        label: the app's label.
    """
    name, _ = MigrationLoader.migrations_module(label)
    if name is None:
        return
    try:
        paths = import_module(name).__path__
    except (ImportError, AttributeError):
        return
    for each in pkgutil.iter_modules(paths):
        if each.ispkg or each.name[0] in "_~":
            continue
        try:
            module = import_module(f"{name}.{each.name}")
        except Exception:  # noqa: S112 - whatever somebody's module raises
            continue
        if hasattr(module, "Migration"):
            yield module.Migration(each.name, label)


def check_migration(
    migration: migrations.Migration, declared: Iterable[tuple[type[models.Model], Shadow]]
) -> Iterator[CheckMessage]:
    """Say how a migration would stop the site.

    Arguments:
        migration: a migration of an app.
        declared: the models, each with its shadows.
    """
    found = list(flatten(migration.operations))
    if migration.atomic and any(
        getattr(each, "needs_transaction", True) is False for each, _ in found
    ):
        yield Error(
            f"Migration {migration} is one transaction, and EnsureSwapped commits as it goes on.",
            hint="Write atomic = False into it, and let nothing else be in it.",
            obj=str(migration),
            id="playbook.E032",
        )
    if not migration.atomic and any(
        type(each).__module__ == OURS and type(each).__name__ in LOCKING for each, _ in found
    ):
        yield Error(
            f"Migration {migration} has atomic = False, so the lock of its operations would be "
            "gone before they are done.",
            hint="Take atomic = False out of it; what cannot run in a transaction belongs in a "
            "migration of its own.",
            obj=str(migration),
            id="playbook.E030",
        )
    made = {each.name_lower for each, _ in found if isinstance(each, migrations.CreateModel)}
    for model, shadow in declared:
        name = model._meta.model_name
        if model._meta.app_label != migration.app_label or name in made:
            continue
        for each, locked in found:
            if (
                isinstance(each, migrations.AddField)
                and (each.model_name_lower, each.name_lower) == (name, str(shadow.shadow).lower())
                and not locked
            ):
                expand = spell_command("expand", model._meta.label, str(shadow.shadow))
                yield Error(
                    f"Migration {migration} adds {shadow.shadow} without a bounded lock: behind "
                    "one idle transaction it would stop every reader of the table.",
                    hint=f'Delete it and run "{expand}", or put its AddField and AddTrigger '
                    f'operations into {OURS}.WithTableLock(model_name="{name}", operations=[...]).',
                    obj=str(migration),
                    id="playbook.E031",
                )


def flatten(
    operations: Iterable[Operation], *, locked: bool = False
) -> Iterator[tuple[Operation, bool]]:
    """Yield every operation that touches the database, and whether the lock is bounded."""
    for each in operations:
        yield each, locked
        if isinstance(each, WithTableLock):
            yield from flatten(each.operations, locked=True)
        elif isinstance(each, migrations.SeparateDatabaseAndState):
            yield from flatten(each.database_operations, locked=locked)


def planned_operations(
    plan: Iterable[tuple[migrations.Migration, bool]], app_label: str
) -> Iterator[tuple[migrations.Migration, Operation]]:
    """Yield the operations of a forwards plan that touch the database, however wrapped.

    Arguments:
        plan: as `pre_migrate` has it.
        app_label: whose migrations.
    """
    for migration, backwards in plan:
        if not backwards and migration.app_label == app_label:
            for operation, _ in flatten(migration.operations):
                yield migration, operation
