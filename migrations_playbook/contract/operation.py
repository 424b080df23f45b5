"""What drops a shadow column in a migration, once it holds only leaked values.

FROZEN, as `expand.operation` is: migrations import it from `migrations_playbook.operations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from pgtrigger import compiler
from psycopg import sql

from migrations_playbook.contract.play import contract
from migrations_playbook.expand.operation import POSTGRES, one_sentence
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.names import table_identifier


class ContractShadow(Operation):
    """Drops a shadow column, its triggers and the quarantine, once it holds only leaked values.

    It belongs in the release after the one whose migration has taken the field and the triggers
    out of Django's state (`SeparateDatabaseAndState(state_operations=[RemoveTrigger(...), ...,
    RemoveField(...)])`): by then no process selects the column any more. It changes no state.

    It refuses unless the columns are swapped or the table is empty, as on a fresh database.
    Its reverse adds an empty column and the triggers again: the values are gone for good.

    Lock: ACCESS EXCLUSIVE on the table, taken boundedly, to the end of the migration.

    Arguments:
        model_name: the model.
        live: the live field's name.
        shadow: the shadow field's name.
        field: the shadow field, as the expand migration has it.
        triggers: the compiled triggers, as the expand migration has them.
    """

    reduces_to_sql = True
    reversible = True

    def __init__(
        self,
        model_name: str,
        *,
        live: str,
        shadow: str,
        field: models.Field[Any, Any],
        triggers: Sequence[compiler.Trigger],
    ) -> None:
        self.model_name = model_name
        self.live = live
        self.shadow = shadow
        self.field = field
        self.triggers = list(triggers)

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        return (
            type(self).__name__,
            [],
            {
                "model_name": self.model_name,
                "live": self.live,
                "shadow": self.shadow,
                "field": self.field,
                "triggers": self.triggers,
            },
        )

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Nothing: the state has had no such field since the release before."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self._concerns(schema_editor, model):
            return
        table, column = table_identifier(model), _column(self._bound_field(model))
        if schema_editor.collect_sql:
            for statement in self._statements(table, column):
                schema_editor.execute(statement, params=None)
            return
        live = _column(model._meta.get_field(self.live))
        with one_sentence(self.model_name):
            contract(
                schema_editor.connection,
                table,
                live=live,
                shadow=column,
                triggers=[trigger.sql.pgid for trigger in self.triggers],
            )

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self._concerns(schema_editor, model):
            return
        with one_sentence(self.model_name):
            if not schema_editor.collect_sql:
                locks.reserve(schema_editor.connection, table_identifier(model))
                locks.seize(schema_editor.connection, table_identifier(model))
            schema_editor.add_field(model, self._bound_field(model))
            for trigger in self.triggers:
                schema_editor.execute(trigger.install_sql, params=None)

    def describe(self) -> str:
        return f"Drop the shadow column {self.shadow} of {self.model_name}, once it is swapped"

    @property
    def migration_name_fragment(self) -> str:
        return f"contract_{self.model_name.lower()}_{self.shadow.lower()}"

    def _concerns(self, schema_editor: BaseDatabaseSchemaEditor, model: type[models.Model]) -> bool:
        connection = schema_editor.connection
        return connection.vendor == POSTGRES and self.allow_migrate_model(connection.alias, model)

    def _bound_field(self, model: type[models.Model]) -> models.Field[Any, Any]:
        field = self.field.clone()
        field.set_attributes_from_name(self.shadow)
        field.model = model
        return field

    def _statements(self, table: sql.Identifier, column: str) -> list[str]:
        """What `sqlmigrate` shows: it has no database to look the rest up in."""
        name = table.as_string(None)
        return [
            f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE",
            *(trigger.uninstall_sql for trigger in self.triggers),
            f"ALTER TABLE {name} DROP COLUMN {sql.Identifier(column).as_string(None)} CASCADE",
        ]


ContractShadow.__module__ = "migrations_playbook.operations"


def _column(field: Any) -> str:
    assert field.column is not None, f"{field} has no column"
    return str(field.column)
