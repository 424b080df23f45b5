"""Stops `migrate` before a rename, a retype or a move under a replacement under way.

The functions of the triggers are text: a renamed column makes every insert fail, and the swap would
look for its columns in vain. So the change waits for the contract.
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
from psycopg import sql

from migrations_playbook.expand.migration_checks import planned_operations
from migrations_playbook.postgres.names import table_identifier, unquoted
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.tables import Table, read_table


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
    bound = set() if table is None else _bound_columns(connection, table)
    if not bound:
        return None
    if isinstance(operation, migrations.RenameModel | migrations.AlterModelTable):
        return f'"{table}"'
    altered = operation.field if isinstance(operation, migrations.AlterField) else None
    named = operation.name if isinstance(operation, migrations.AlterField) else operation.old_name
    field = model._meta.get_field(named)
    column = unquoted(str(getattr(field, "column", "")))
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


def _bound_columns(connection: BaseDatabaseWrapper, table: Table) -> set[str]:
    """Read the columns that a *keep* trigger compares: a live column, and its shadow."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT a.attname
              FROM pg_catalog.pg_trigger t
              JOIN pg_catalog.pg_depend d
                ON d.classid = 'pg_catalog.pg_trigger'::regclass AND d.objid = t.oid
               AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = t.tgrelid
              JOIN pg_catalog.pg_attribute a
                ON a.attrelid = t.tgrelid AND a.attnum = d.refobjsubid AND a.attnum > 0
             WHERE t.tgrelid = %s AND starts_with(t.tgname, 'pgtrigger_keep_')"""),
        [table.oid],
    )
    return {name for (name,) in rows}
