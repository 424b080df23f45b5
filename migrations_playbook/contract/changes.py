"""Stops `migrate` before a change of what a replacement under way is bound to.

The functions of the triggers are text: a renamed or dropped column makes every insert fail, and the
swap would look for its columns in vain. So a rename, a retype, a removal of the column that stays
and a move of the table wait for the contract.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps import AppConfig
from django.apps.registry import Apps
from django.core.management.base import CommandError
from django.db import connections, migrations, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.operations.base import Operation

from migrations_playbook.expand.checks.migrations import planned_operations
from migrations_playbook.meaning.installed import read_installed
from migrations_playbook.postgres.names import table_identifier, unquoted
from migrations_playbook.postgres.tables import read_table


def refuse_changes(
    sender: AppConfig,
    *,
    using: str,
    plan: Iterable[tuple[migrations.Migration, bool]],
    apps: Apps,
    **kwargs: Any,
) -> None:
    """Stop a plan that changes a column or a table between the expand and the contract.

    A receiver of `pre_migrate`, as `guard.refuse_bare_removals` is.

    Lock: none that conflicts with anything.

    Raises:
        CommandError: names the migration, and the thing to do first.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    ended: set[str] = set()
    for migration, operation in planned_operations(plan, sender.label):
        name = getattr(operation, "model_name", None) or getattr(operation, "old_name", None)
        name = str(name or getattr(operation, "name", "")).lower()
        if getattr(operation, "drops_shadow", False):
            ended.add(name)
        changed = _changed(connection, apps, migration.app_label, name, operation)
        if changed is not None and name not in ended:
            raise CommandError(
                f"Migration {migration} changes {changed}, to which a replacement that is "
                "under way is bound; nothing was changed. Finish it first, to its contract: "
                '"manage.py playbook status" shows what comes next.'
            )


def _changed(
    connection: BaseDatabaseWrapper, apps: Apps, app_label: str, name: str, operation: Operation
) -> str | None:
    """Say which part of a replacement under way an operation changes; None without any."""
    kinds = (
        migrations.RenameField,
        migrations.AlterField,
        migrations.RemoveField,
        migrations.RenameModel,
        migrations.AlterModelTable,
    )
    if not isinstance(operation, kinds):
        return None
    try:
        model = apps.get_model(app_label, name)
    except LookupError:
        return None  # made by the same plan
    table = read_table(connection, table_identifier(model))
    pairs = [] if table is None else read_installed(connection, table)
    bound = {column for each in pairs for column in (each.live, each.shadow)}
    if not bound:
        return None
    if isinstance(operation, migrations.RenameModel | migrations.AlterModelTable):
        return f'"{table}"'
    altered = operation.field if isinstance(operation, migrations.AlterField) else None
    named = getattr(operation, "old_name", None) or operation.name
    field = model._meta.get_field(named)
    column = unquoted(str(getattr(field, "column", "")))
    if isinstance(operation, migrations.RemoveField):
        # Of the other column `guard` says more.
        bound = {each.kept for each in pairs}
    if column not in bound or (altered is not None and not _alters(connection, field, altered)):
        return None
    return f'"{table}.{column}"'


def _alters(connection: BaseDatabaseWrapper, old: Any, new: models.Field[Any, Any]) -> bool:
    """Tell whether the database would have to change."""
    new = new.clone()
    new.set_attributes_from_name(old.name)
    facts = ("column", "null", "unique", "db_index", "db_default")
    return old.db_parameters(connection) != new.db_parameters(connection) or any(
        getattr(old, fact) != getattr(new, fact) for fact in facts
    )
