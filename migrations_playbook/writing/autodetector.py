"""Lets a plain `makemigrations` write the same migrations as expand and forget.

Somebody runs `makemigrations` out of habit, and gets an AddField that queues the site behind its
lock, or a RemoveField of a column that older processes still select.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.management.commands import makemigrations, migrate
from django.db import migrations
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from pgtrigger.migrations import AddTrigger, RemoveTrigger

from migrations_playbook.history import read_declarations
from migrations_playbook.operations import WithTableLock
from migrations_playbook.replacement import declared_replacements

# A model's name in lower case, and a shadow field or a trigger on it.
Names = set[tuple[str, str]]


class PlaybookAutodetector(MigrationAutodetector):
    """Puts an expand under the bounded lock, and forgets a shadow in the state alone."""

    def changes(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Detect the changes as Django does, then make expands and forgets of them."""
        changes: dict[str, Any] = super().changes(*args, **options)
        for app_label, found in changes.items():
            for migration in found:
                kept = keep_forgotten(list(migration.operations), app_label, self.from_state)
                migration.operations[:] = lock_expands(kept, app_label)
        return changes


def lock_expands(operations: list[Operation], app_label: str) -> list[Operation]:
    """Put the operations of declared shadows under the lock, where their table exists already."""
    names: Names = set()
    for each in declared_replacements():
        if each.model._meta.app_label == app_label:
            model = str(each.model._meta.model_name)
            names |= {(model, each.declaration.shadow)}
            names |= {(model, str(trigger.name)) for trigger in each.declaration.triggers}
    made = {each.name.lower() for each in operations if isinstance(each, migrations.CreateModel)}
    names = {(model, name) for model, name in names if model not in made}
    return _gather(
        operations, names, (migrations.AddField, AddTrigger, RemoveTrigger), WithTableLock
    )


def keep_forgotten(
    operations: list[Operation], app_label: str, before: ProjectState
) -> list[Operation]:
    """Take the fields and triggers of no longer declared shadows out of the state alone."""
    removed = {
        (each.model_name.lower(), each.name)
        for each in operations
        if isinstance(each, migrations.RemoveField)
    }
    names: Names = set()
    for (label, model), state in before.models.items():
        for declaration in read_declarations(state) if label == app_label else ():
            if (model, declaration.dropped) in removed:
                names |= {(model, declaration.dropped)}
                names |= {(model, str(trigger.name)) for trigger in declaration.triggers}
                if declaration.converts and not declaration.moves:
                    # The swap has given the live column its type already.
                    names |= {(model, declaration.live)}

    def of_state(_: str, forgotten: list[Operation]) -> Operation:
        return migrations.SeparateDatabaseAndState(state_operations=forgotten)

    return _gather(
        operations, names, (migrations.RemoveField, RemoveTrigger, migrations.AlterField), of_state
    )


def _gather(
    operations: list[Operation],
    names: Names,
    kinds: tuple[type[Operation], ...],
    combine: Callable[[str, list[Operation]], Operation],
) -> list[Operation]:
    """Combine the operations of these kinds and names, into one a model, where the first stood."""
    ours: dict[str, list[Operation]] = {}
    gathered: list[Operation | str] = []
    for operation in operations:
        model = str(getattr(operation, "model_name", "")).lower()
        trigger = getattr(operation, "trigger", None)
        name = trigger.name if trigger is not None else getattr(operation, "name", "")
        if not isinstance(operation, kinds) or (model, name) not in names:
            gathered.append(operation)
            continue
        if model not in ours:
            gathered.append(model)
        ours.setdefault(model, []).append(operation)
    return [combine(each, ours[each]) if isinstance(each, str) else each for each in gathered]


def install_autodetector() -> None:
    """Let `makemigrations` and `migrate` use this autodetector, on top of other packages' ones.

    django-pgtrigger takes the module's autodetector and overwrites the commands' too, before us or
    after us, so both are set.
    """
    base: Any = makemigrations.Command.autodetector
    if not issubclass(base, PlaybookAutodetector):
        detector: Any = type("MigrationAutodetector", (PlaybookAutodetector, base), {})
        makemigrations.MigrationAutodetector = detector  # type: ignore[attr-defined]
        for command in (makemigrations.Command, migrate.Command):
            command.autodetector = detector
