"""Stops `migrate` before a shadow column with the fresh values is dropped.

Removing the field from the model and running `makemigrations` gives a bare RemoveField. Before the
swap this would keep the leaked values and lose the fresh values; so the plan is stopped before its
first operation. After the swap the operation may run where Django drops a column with its
dependents. Since Django 6.1 Django does not, and PostgreSQL would refuse because of the quarantine:
so the plan is stopped there too. The catalog says which column is a shadow, and whether swapped:
the models no longer do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps import AppConfig
from django.apps.registry import Apps
from django.core.management.base import CommandError
from django.db import connections, migrations
from django.db.backends.base.base import BaseDatabaseWrapper

from migrations_playbook.commands import spell_command
from migrations_playbook.expand.checks.migrations import planned_operations
from migrations_playbook.meaning.installed import Installed, read_installed
from migrations_playbook.postgres.names import fields_by_column, table_identifier, unquoted
from migrations_playbook.postgres.roles import find_hidden_rows
from migrations_playbook.postgres.tables import Table, is_empty, read_table
from migrations_playbook.quarantine.base import read_objects

Plan = Iterable[tuple[migrations.Migration, bool]]


def refuse_bare_removals(
    sender: AppConfig, *, using: str, plan: Plan, apps: Apps, **kwargs: Any
) -> None:
    """Stop a plan that removes a shadow column before its values are live, or in vain.

    A receiver of `pre_migrate`, which is sent for every app: each time, the app's own migrations
    are looked at.

    Lock: ACCESS SHARE on a table whose field is removed, as any SELECT.

    Raises:
        CommandError: names the migration, and the operation to use.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    for migration, operation in planned_operations(plan, sender.label):
        # SeparateDatabaseAndState drops nothing by a removal from the state alone.
        if isinstance(operation, migrations.RemoveField):
            refused = _why_not(connection, apps, migration.app_label, operation)
            if refused is not None:
                raise CommandError(f"Migration {migration} drops {refused}; nothing was changed.")


def _why_not(
    connection: BaseDatabaseWrapper, apps: Apps, app_label: str, operation: migrations.RemoveField
) -> str | None:
    """Say the column, why its drop must wait, and the remedy; None when the drop may run."""
    try:
        model = apps.get_model(app_label, operation.model_name)
        field = model._meta.get_field(operation.name)
    except LookupError:
        return None  # made by the same plan: there is no table yet, and so no value to lose
    column = unquoted(str(getattr(field, "column", "")))
    table = read_table(connection, table_identifier(model))
    if table is None or column not in table.columns:
        return None
    pair = next((e for e in read_installed(connection, table) if e.dropped == column), None)
    if pair is None:
        return None
    hidden = None if pair.swapped else find_hidden_rows(connection, table)
    if hidden is not None:
        return f'"{table}.{column}", which may hold {_new(pair)} values. {hidden.rstrip(".")}'
    shadow = fields_by_column(model).get(pair.shadow)
    forget = spell_command(
        "forget", model._meta.label, pair.shadow if shadow is None else shadow.name
    )
    why = _why_pair(connection, table, pair, f'Delete that migration and run "{forget}" instead')
    return None if why is None else f'"{table}.{column}", {why}'


def _why_pair(
    connection: BaseDatabaseWrapper, table: Table, pair: Installed, use: str
) -> str | None:
    """Say why the column that the contract drops must wait, and the remedy."""
    if pair.swapped:
        if len(pair.filled) > 1:
            return f"which is filled and exchanged together with others. {use}"
        bound = bool(read_objects(connection, table, pair.shadow).triggers)
        if not bound or _cascades(connection):
            return None
        return (
            "to which the quarantine is bound, and this Django drops no column with what is bound "
            f"to it. {use}"
        )
    if is_empty(connection, table):
        return None
    if pair.moves:
        return f'with which "{pair.kept}" is kept in step yet. {use}'
    leaked = "old" if pair.converts else "leaked"
    return (
        f"which holds the {_new(pair)} values: the columns are not swapped, so the {leaked} ones "
        f"would stay. {use}, after the swap"
    )


def _new(pair: Installed) -> str:
    """Say what the shadow's values are."""
    return "converted" if pair.converts else "fresh"


def _cascades(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether RemoveField drops the column's dependents too."""
    editor = connection.SchemaEditorClass
    return editor is not None and "CASCADE" in editor.sql_delete_column
