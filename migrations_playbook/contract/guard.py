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
from psycopg import sql

from migrations_playbook.commands import spell_command
from migrations_playbook.expand.migration_checks import planned_operations
from migrations_playbook.postgres.names import table_identifier, unquoted
from migrations_playbook.postgres.query import fetch_all
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
    live = _live_columns(connection, table, column, operation.name)
    swapped = any(table.has_exchanged(each, column) for each in live)
    forget = spell_command("forget", model._meta.label, operation.name)
    use = f'Delete that migration and run "{forget}" instead'
    if swapped and read_objects(connection, table, column).triggers and not _cascades(connection):
        return (
            f'"{table}.{column}", to which the quarantine is bound, and this Django drops no '
            f"column with what is bound to it. {use}"
        )
    hidden = find_hidden_rows(connection, table) if live and not swapped else None
    if hidden is not None:
        return f'"{table}.{column}", which may hold fresh values. {hidden.rstrip(".")}'
    if not live or swapped or is_empty(connection, table):
        return None
    return (
        f'"{table}.{column}", which holds the fresh values: the columns are not swapped, so the '
        f"leaked ones would stay. {use}, after the swap"
    )


def _cascades(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether RemoveField drops the column's dependents too."""
    editor = connection.SchemaEditorClass
    return editor is not None and "CASCADE" in editor.sql_delete_column


def _live_columns(
    connection: BaseDatabaseWrapper, table: Table, shadow: str, field: str
) -> list[str]:
    """Read the columns that the declared triggers pair with this column; none without a shadow.

    The *keep* trigger compares the two columns in its WHEN, so the trigger depends on both.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT a.attname
              FROM pg_catalog.pg_trigger t
              JOIN pg_catalog.pg_depend own
                ON own.classid = 'pg_catalog.pg_trigger'::regclass AND own.objid = t.oid
               AND own.refobjid = t.tgrelid AND own.refobjsubid = %s
              JOIN pg_catalog.pg_depend other
                ON other.classid = own.classid AND other.objid = t.oid
               AND other.refobjid = t.tgrelid AND other.refobjsubid <> own.refobjsubid
              JOIN pg_catalog.pg_attribute a
                ON a.attrelid = t.tgrelid AND a.attnum = other.refobjsubid
             WHERE t.tgrelid = %s AND a.attnum > 0 AND starts_with(t.tgname, %s)"""),
        [table.columns[shadow].number, table.oid, f"pgtrigger_keep_{field[:20]}"],
    )
    return [row[0] for row in rows]
