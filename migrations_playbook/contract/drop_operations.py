"""The operations to drop a shadow column in a migration, once only leaked values are left.

FROZEN, as `expand.table_lock` is: migrations import both from `migrations_playbook.operations`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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

    @property
    def drops(self) -> list[DropShadow]:
        """The drops, each of a column."""
        return [self]

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
        known = self.read_known(app_label)
        columns = [each.name_column(was, model) for each, was in known]
        with one_sentence(schema_editor, self.model_name):
            refuse_without_transaction(schema_editor)
            triggers = []
            if not schema_editor.collect_sql:
                table = table_identifier(model)
                triggers = self.read_triggers(schema_editor.connection, table)
            for each, was in known:
                each.drop(schema_editor, model, was, triggers=triggers, together=columns)

    def drop(
        self,
        schema_editor: BaseDatabaseSchemaEditor,
        model: type[models.Model],
        was: Was | None,
        *,
        triggers: Sequence[str],
        together: Collection[str],
    ) -> None:
        """Drop the column of this shadow alone, or write the statements that do.

        Lock: ACCESS EXCLUSIVE on the table, taken boundedly.

        Arguments:
            was: the shadow's facts, as far as known.
            triggers: the declared triggers' names in the catalog.
            together: the columns that are dropped together.
        """
        table, column = table_identifier(model), self.name_column(was, model)
        if schema_editor.collect_sql:
            for statement in _statements(table, column, was.triggers if was else ()):
                schema_editor.execute(statement, params=None)
            return
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
            triggers=triggers,
            together=together,
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
            known = [(each, each.insist(was)) for each, was in self.read_known(app_label)]
            if not schema_editor.collect_sql:
                locks.reserve(schema_editor.connection, table_identifier(model))
                locks.seize(schema_editor.connection, table_identifier(model))
            for each, was in known:
                each.add(schema_editor, model, was)
            for trigger in known[0][1].triggers:
                schema_editor.execute(trigger.install_sql, params=None)

    def add(
        self, schema_editor: BaseDatabaseSchemaEditor, model: type[models.Model], was: Was
    ) -> None:
        """Add the column of this shadow alone again. Lock: ACCESS EXCLUSIVE is held already.

        Arguments:
            was: the shadow's facts.
        """
        field = _bound(was.field, self.shadow, model)
        if isinstance(was, Remembered) and was.declaration.moves:
            undo_move(schema_editor, model, was, field)
            return
        if isinstance(was, Remembered) and was.declaration.converts:
            undo_retype(schema_editor, model, was)
        schema_editor.add_field(model, field)

    def describe(self) -> str:
        """Describe the operation for `migrate`."""
        return f"Drop the shadow column {self.shadow} of {self.model_name}, once it is swapped"

    @property
    def migration_name_fragment(self) -> str:
        """Return the operation's part of a migration's name."""
        return f"contract_{self.model_name.lower()}_{self.shadow.lower()}"

    def name_column(self, was: Was | None, model: type[models.Model]) -> str:
        """Return the shadow's column; without facts it is named as the field is, as Django does."""
        return self.shadow if was is None else _column(_bound(was.field, self.shadow, model))

    def read_known(self, app_label: str) -> list[tuple[DropShadow, Was | None]]:
        """Read the facts of each shadow from the migrations; None when they do not say."""
        label, history = f"{app_label}.{self.model_name}", read_history()
        return [(each, each.find_shadow(label, history)) for each in self.drops]

    def find_shadow(self, label: str, history: list[Remembered]) -> Was | None:
        """Find the facts of this shadow alone.

        Arguments:
            label: the model's label.
            history: what the migrations have.
        """
        was = find_remembered(label, self.live, history)
        if was is not None and was.declaration.moves:
            return was
        return find_remembered(label, self.shadow, history)

    def insist(self, was: Was | None) -> Was:
        """Return the shadow's facts.

        Raises:
            Refused: the migrations do not say.
        """
        if was is None:
            raise Refused(
                f"No migration says any more what {self.shadow!r} of {self.model_name} was, "
                "so it cannot be added again; nothing was changed."
            )
        return was

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

    def read_known(self, app_label: str) -> list[tuple[DropShadow, Was | None]]:
        """Return the shadow's facts, as this migration has them."""
        return [(self, self)]

    def read_triggers(self, connection: BaseDatabaseWrapper, table: sql.Identifier) -> list[str]:
        """Name the declared triggers, as this migration has them."""
        return [trigger.sql.pgid for trigger in self.triggers]


class DropGroup(DropShadow):
    """Drops the shadow columns of a group, which share their triggers, as `DropShadow` drops one.

    Lock: ACCESS EXCLUSIVE on the table, taken boundedly, to the end of the migration.

    Arguments:
        model_name: the model.
        columns: the shadow fields' names, by the live fields'.
    """

    def __init__(self, model_name: str, *, columns: Mapping[str, str]) -> None:
        live, shadow = next(iter(columns.items()))
        super().__init__(model_name, live=live, shadow=shadow)
        self.columns = dict(columns)

    @property
    def drops(self) -> list[DropShadow]:
        """The drops, each of a column."""
        return [
            DropShadow(self.model_name, live=live, shadow=shadow)
            for live, shadow in self.columns.items()
        ]

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return the arguments as MigrationWriter writes them."""
        return type(self).__name__, [], {"model_name": self.model_name, "columns": self.columns}

    def read_triggers(self, connection: BaseDatabaseWrapper, table: sql.Identifier) -> list[str]:
        """Read the names of the declared triggers, named after the first member of the group."""
        return [name for each in self.drops for name in each.read_triggers(connection, table)]

    def describe(self) -> str:
        """Describe the operation for `migrate`."""
        shadows = ", ".join(self.columns.values())
        return f"Drop the shadow columns {shadows} of {self.model_name}, once they are swapped"


for _operation in (DropShadow, ContractShadow, DropGroup):
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
