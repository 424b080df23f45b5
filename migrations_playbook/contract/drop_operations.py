"""The operations to drop a shadow column in a migration, once only leaked values are left.

FROZEN, as `expand.table_lock` is: migrations import both from `migrations_playbook.operations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import ProjectState
from pgtrigger import compiler
from psycopg import sql

from migrations_playbook.contract.play import contract, installed_triggers
from migrations_playbook.contract.undo import undo_move, undo_retype
from migrations_playbook.errors import Refused
from migrations_playbook.expand.table_lock import POSTGRES, one_sentence, refuse_without_transaction
from migrations_playbook.expand.table_operation import TableOperation
from migrations_playbook.history import Remembered, find_remembered, read_history
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.names import table_identifier, unquoted
from migrations_playbook.postgres.tables import read_table


class Was(Protocol):
    """The facts of a shadow, as needed to drop and to add the column again."""

    @property
    def field(self) -> models.Field[Any, Any]: ...

    @property
    def triggers(self) -> list[compiler.Trigger]: ...


class DropShadow(TableOperation):
    """Drops a shadow column with only leaked values, its triggers and the quarantine.

    The operation belongs in the release after the removal of the field and the triggers from
    Django's state: by then no process selects the column any more. No state is changed. `manage.py
    playbook contract` writes the migration.

    The operation refuses unless the columns are swapped or the table is empty, as on a fresh
    database. Where no migration adds the column and the table has none, it does nothing. Its
    reverse adds an empty column and the triggers again, as the earlier migrations have them: the
    values are gone for good. (See `undo` for those that a conversion can make again.)

    Lock: ACCESS EXCLUSIVE on the table, taken boundedly, to the end of the migration.

    Arguments:
        model_name: the model.
        live: the live field's name.
        shadow: the shadow field's name.
    """

    reduces_to_sql = True
    reversible = True
    drops_shadow = True

    def __init__(self, model_name: str, *, live: str, shadow: str) -> None:
        self.model_name = model_name
        self.live = live
        self.shadow = shadow

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return the arguments as MigrationWriter writes them."""
        return (
            type(self).__name__,
            [],
            {"model_name": self.model_name, "live": self.live, "shadow": self.shadow},
        )

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Change nothing: the state has had no such field since the release before."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Drop the column. Lock: ACCESS EXCLUSIVE on the table, taken boundedly."""
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self._concerns(schema_editor, model):
            return
        table, was = table_identifier(model), self.read_shadow(app_label)
        # Without history the column is named as the field is, which is Django's custom.
        column = self.shadow if was is None else _column(_bound(was.field, self.shadow, model))
        if schema_editor.collect_sql:
            for statement in _statements(table, column, was.triggers if was else ()):
                schema_editor.execute(statement, params=None)
            return
        with one_sentence(schema_editor, self.model_name):
            refuse_without_transaction(schema_editor)
            found = read_table(schema_editor.connection, table)
            there = found is not None and column in found.columns
            if was is None and not there:
                return  # another database had it, and no migration has ever added it
            live = _column(model._meta.get_field(self.live))
            moves = isinstance(was, Remembered) and was.declaration.moves
            swapped = found is None or not there or found.has_exchanged(live, column) or moves
            contract(
                schema_editor.connection,
                table,
                live=live,
                shadow=column,
                triggers=self.read_triggers(schema_editor.connection, table),
            )
            if not swapped and isinstance(was, Remembered) and was.declaration.converts:
                # A fresh database's table, without a row: no swap has given the column its type.
                before = was.replacement().model._meta.get_field(self.live)
                schema_editor.alter_field(model, before, model._meta.get_field(self.live))  # type: ignore[arg-type]

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Add an empty column again. Lock: ACCESS EXCLUSIVE, taken boundedly."""
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self._concerns(schema_editor, model):
            return
        with one_sentence(schema_editor, self.model_name):
            refuse_without_transaction(schema_editor)
            was = self.read_shadow(app_label)
            if was is None:
                raise Refused(
                    f"No migration says any more what {self.shadow!r} of {self.model_name} was, "
                    "so it cannot be added again; nothing was changed."
                )
            if not schema_editor.collect_sql:
                locks.reserve(schema_editor.connection, table_identifier(model))
                locks.seize(schema_editor.connection, table_identifier(model))
            field = _bound(was.field, self.shadow, model)
            if isinstance(was, Remembered) and was.declaration.moves:
                undo_move(schema_editor, model, was, field)
            else:
                if isinstance(was, Remembered) and was.declaration.converts:
                    undo_retype(schema_editor, model, was)
                schema_editor.add_field(model, field)
            for trigger in was.triggers:
                schema_editor.execute(trigger.install_sql, params=None)

    def describe(self) -> str:
        """Describe the operation for `migrate`."""
        return f"Drop the shadow column {self.shadow} of {self.model_name}, once it is swapped"

    @property
    def migration_name_fragment(self) -> str:
        """Return the operation's part of a migration's name."""
        return f"contract_{self.model_name.lower()}_{self.shadow.lower()}"

    def read_shadow(self, app_label: str) -> Was | None:
        """Read the shadow's facts from the migrations; None when they do not say."""
        label, history = f"{app_label}.{self.model_name}", read_history()
        was = find_remembered(label, self.live, history)
        if was is not None and was.declaration.moves:
            return was
        return find_remembered(label, self.shadow, history)

    def read_triggers(self, connection: BaseDatabaseWrapper, table: sql.Identifier) -> list[str]:
        """Read the names of the declared triggers from the catalog.

        Lock: none that conflicts with anything.
        """
        # The triggers of a column that moves are named after the column that stays.
        named = (installed_triggers(connection, table, each) for each in (self.shadow, self.live))
        return [name for names in named for name in names]

    def _concerns(self, schema_editor: BaseDatabaseSchemaEditor, model: type[models.Model]) -> bool:
        connection = schema_editor.connection
        return connection.vendor == POSTGRES and self.allow_migrate_model(connection.alias, model)


class ContractShadow(DropShadow):
    """As `DropShadow`, with all facts written out in the migration.

    Arguments:
        model_name: the model.
        live: the live field's name.
        shadow: the shadow field's name.
        field: the shadow field, as the expand migration has it.
        triggers: the compiled triggers, as the expand migration has them.
    """

    def __init__(
        self,
        model_name: str,
        *,
        live: str,
        shadow: str,
        field: models.Field[Any, Any],
        triggers: Sequence[compiler.Trigger],
    ) -> None:
        super().__init__(model_name, live=live, shadow=shadow)
        self.field = field
        self.triggers = list(triggers)

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return the arguments as MigrationWriter writes them."""
        name, arguments, options = super().deconstruct()
        return name, arguments, {**options, "field": self.field, "triggers": self.triggers}

    def read_shadow(self, app_label: str) -> Was:
        """Return the shadow's facts, as this migration has them."""
        return self

    def read_triggers(self, connection: BaseDatabaseWrapper, table: sql.Identifier) -> list[str]:
        """Name the declared triggers, as this migration has them."""
        return [trigger.sql.pgid for trigger in self.triggers]


for _operation in (DropShadow, ContractShadow):
    _operation.__module__ = "migrations_playbook.operations"


def _statements(
    table: sql.Identifier, column: str, triggers: Sequence[compiler.Trigger]
) -> list[str]:
    """Write the statements for `sqlmigrate`, which looks nothing up in a database."""
    name = table.as_string(None)
    return [
        f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE",
        *(trigger.uninstall_sql for trigger in triggers),
        f"ALTER TABLE {name} DROP COLUMN {sql.Identifier(column).as_string(None)} CASCADE",
    ]


def _bound(
    field: models.Field[Any, Any], name: str, model: type[models.Model]
) -> models.Field[Any, Any]:
    field = field.clone()
    field.set_attributes_from_name(name)
    field.model = model
    return field


def _column(field: Any) -> str:
    assert field.column is not None, f"{field} has no column"
    return unquoted(str(field.column))
