"""The operation that runs others under a strong lock, taken boundedly.

FROZEN: an applied migration must mean tomorrow what it meant today. A change in an operation's
effect on a database is a new class beside the old. Migrations import the class from
`migrations_playbook.operations`, and MigrationWriter takes this address from `__module__`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from django.core.management.base import CommandError
from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.operations.fields import AddField
from django.db.migrations.state import ProjectState
from pgtrigger import compiler
from pgtrigger.migrations import AddTrigger
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.commands import spell_command
from migrations_playbook.errors import INTERRUPTED, PlaybookError, Refused, TryAgain
from migrations_playbook.expand.membership import refuse_joining, refuse_leaving
from migrations_playbook.expand.soundness import find_obstacle
from migrations_playbook.expand.squashed import squash_forgotten
from migrations_playbook.expand.table_operation import TableOperation
from migrations_playbook.expand.trial import try_triggers
from migrations_playbook.logs import keep_journal
from migrations_playbook.meaning.installed import read_installed
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.failures import explain_failure
from migrations_playbook.postgres.names import column_of, table_identifier
from migrations_playbook.postgres.query import adopt_transaction, keep_interrupts
from migrations_playbook.postgres.roles import refuse_hidden_rows
from migrations_playbook.postgres.server import refuse_read_only
from migrations_playbook.postgres.steps import run_steps
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.quarantine.base import read_objects
from migrations_playbook.quarantine.setup import forget_steps
from migrations_playbook.replacement import declared_replacements
from migrations_playbook.trigger_sql import PinnedTriggerSql

POSTGRES = "postgresql"
MIGRATE_AGAIN = 'Run "manage.py migrate" again.'


class WithTableLock(TableOperation):
    """Runs operations on a table under a strong lock, taken boundedly.

    A plain migration asks for ACCESS EXCLUSIVE and waits without a bound. Behind an idle
    transaction, every later reader then waits behind the migration. This operation asks in short
    attempts with pauses between (`locks.reserve`, `locks.seize`). When the lock is not granted it
    fails cleanly: the transaction rolls back, and `migrate` can be run again.

    The states of the operations are worked out before the lock is asked for: rendering the models
    of a large project can take longer than the statements themselves.

    Lock: ACCESS EXCLUSIVE on the table, from the first statement to the end of the migration.

    Arguments:
        model_name: the model whose table is locked.
        operations: the operations under the lock; catalog changes only, no scan.
    """

    def __init__(self, model_name: str, operations: Sequence[Operation]) -> None:
        self.model_name = model_name
        self.operations = list(operations)

    @property
    def reduces_to_sql(self) -> bool:  # type: ignore[override]
        """Tell Django whether `sqlmigrate` can write SQL for all operations."""
        return all(operation.reduces_to_sql for operation in self.operations)

    @property
    def reversible(self) -> bool:  # type: ignore[override]
        """Tell Django whether all operations can be undone."""
        return all(operation.reversible for operation in self.operations)

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return the arguments as MigrationWriter writes them."""
        return (
            type(self).__name__,
            [],
            {"model_name": self.model_name, "operations": self.operations},
        )

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Apply the operations to the project state."""
        for operation in self.operations:
            operation.state_forwards(app_label, state)

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Run the operations. Lock: ACCESS EXCLUSIVE on the table, taken boundedly."""
        if not self._concerns(app_label, schema_editor, from_state):
            return
        with one_sentence(schema_editor, self.model_name):
            refuse_without_transaction(schema_editor)
            self._refuse_unsound(app_label, schema_editor, from_state)
            locked = self._locked(app_label, schema_editor, from_state, forwards=True)
            for operation, before, after in locked:
                operation.database_forwards(app_label, schema_editor, before, after)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Undo the operations. Lock: ACCESS EXCLUSIVE on the table, taken boundedly."""
        if not self._concerns(app_label, schema_editor, to_state):
            return
        label = f"{app_label}.{to_state.models[app_label, self.model_name.lower()].name}"
        added = (each.name for each in self.operations if isinstance(each, AddField))
        with one_sentence(
            schema_editor, self.model_name, spell_command("swap", label, next(added, ""))
        ):
            refuse_without_transaction(schema_editor)
            done = self._locked(app_label, schema_editor, to_state, forwards=False)
            for operation, before, after in reversed(done):
                if isinstance(operation, AddField):
                    self._forget(app_label, schema_editor, after, operation.name)
                operation.database_backwards(app_label, schema_editor, after, before)

    def reduce(self, operation: Operation, app_label: str) -> bool | list[Operation]:
        """Reduce two expands of a table to one, and an expand with the forgetting of its shadow."""
        if isinstance(operation, WithTableLock) and operation.references_model(
            self.model_name, app_label
        ):
            return [WithTableLock(self.model_name, [*self.operations, *operation.operations])]
        squashed = squash_forgotten(self, operation)
        return super().reduce(operation, app_label) if squashed is None else [squashed]

    def describe(self) -> str:
        """Describe the operations for `migrate`."""
        inner = "; ".join(operation.describe() for operation in self.operations)
        return f"Under a bounded lock on {self.model_name}: {inner}"

    @property
    def migration_name_fragment(self) -> str | None:  # type: ignore[override]
        """Return the operations' part of a migration's name."""
        return "_".join(
            operation.migration_name_fragment
            for operation in self.operations
            if operation.migration_name_fragment
        )

    def _concerns(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, state: ProjectState
    ) -> bool:
        """Tell whether the model's table is in this database, by the project's routers."""
        model = state.apps.get_model(app_label, self.model_name)
        return self.allow_migrate_model(schema_editor.connection.alias, model)

    def _locked(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        state: ProjectState,
        *,
        forwards: bool,
    ) -> list[tuple[Operation, ProjectState, ProjectState]]:
        """Take the lock; return each operation with the states before and after.

        Lock: ACCESS EXCLUSIVE on the table, until the end of the migration.
        """
        states = [state]
        for operation in self.operations:
            following = states[-1].clone()
            operation.state_forwards(app_label, following)
            _ = following.apps  # render the models now, before the lock
            states.append(following)
        connection = schema_editor.connection
        table = table_identifier(state.apps.get_model(app_label, self.model_name))
        if schema_editor.collect_sql:
            schema_editor.execute(
                f"LOCK TABLE {table.as_string(None)} IN ACCESS EXCLUSIVE MODE", params=None
            )
        elif connection.vendor == POSTGRES:
            locks.reserve(connection, table)
            if forwards:
                self._try_triggers(app_label, connection, table)
            locks.seize(connection, table)
        return list(zip(self.operations, states, states[1:], strict=False))

    @property
    def _triggers(self) -> list[PinnedTriggerSql]:
        """Yield the triggers of a shadow that the operations install."""
        installed = (each.trigger for each in self.operations if isinstance(each, AddTrigger))
        texts = (each.sql for each in installed if isinstance(each, compiler.Trigger))
        return [each for each in texts if isinstance(each, PinnedTriggerSql)]

    def _try_triggers(
        self, app_label: str, connection: BaseDatabaseWrapper, identifier: sql.Identifier
    ) -> None:
        """Try the triggers of today's declarations; no site meets an earlier declaration's."""
        label = f"{app_label}.{self.model_name}".lower()
        table = read_table(connection, identifier)
        for replacement in (each for each in declared_replacements() if each.leads):
            own = [each for each in self._triggers if each.pgid in replacement.trigger_names]
            if replacement.model._meta.label_lower != label or table is None or not own:
                continue
            pairs = read_installed(connection, table)
            refuse_leaving(replacement, table, pairs)
            refuse_joining(replacement, table, pairs)
            if {each.live for each in replacement.group} <= table.columns.keys():
                later = replacement.meaning.find_later_trigger(connection, table)
                if later is not None:
                    raise Refused(
                        f"{later} Nothing was changed. Rename that trigger, so that it sorts "
                        f'before; then run "manage.py migrate" again.'
                    )
                try_triggers(connection, replacement, table, own)

    def _forget(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        state: ProjectState,
        field: str,
    ) -> None:
        """Drop the memory of leaked values after a revert, before its shadow column goes."""
        connection = schema_editor.connection
        if connection.vendor != POSTGRES or schema_editor.collect_sql:
            return
        model = state.apps.get_model(app_label, self.model_name)
        table, column = read_table(connection, table_identifier(model)), column_of(model, field)
        if table is not None and column in table.columns:
            run_steps(
                connection, forget_steps(table, column, read_objects(connection, table, column))
            )

    def _refuse_unsound(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, state: ProjectState
    ) -> None:
        """Refuse to expand a table that could not be swapped later, an inherited table say."""
        connection = schema_editor.connection
        if not self._triggers or schema_editor.collect_sql or connection.vendor != POSTGRES:
            return
        model = state.apps.get_model(app_label, self.model_name)
        # The models' declarations of today; of a model that is gone nothing is known any more.
        label, table = model._meta.label, table_identifier(model)
        live: list[str | None] = [
            each.live for each in declared_replacements() if each.label == label
        ]
        existing = read_table(connection, table)
        if existing is not None:
            refuse_hidden_rows(connection, existing)
        reasons = (find_obstacle(connection, table, each) for each in live or [None])
        why = next((reason for reason in reasons if reason is not None), None)
        if why is not None:
            raise Refused(
                f"{model._meta.db_table} is {why.reason}, so its columns could not be exchanged; "
                f"nothing was changed. {why.remedy}"
            )


WithTableLock.__module__ = "migrations_playbook.operations"


def refuse_without_transaction(schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Refuse to work outside of a transaction, where a lock is gone with its statement.

    Raises:
        Refused: the migration has `atomic = False`.
    """
    connection = schema_editor.connection
    if schema_editor.collect_sql or connection.vendor != POSTGRES or connection.in_atomic_block:
        return
    raise Refused(
        "This migration has atomic = False, so its lock would be gone before its work is done; "
        "nothing was changed. Take atomic = False out of it (what cannot run in a transaction "
        'belongs in a migration of its own), then run "manage.py migrate" again.'
    )


@contextmanager
def one_sentence(
    schema_editor: BaseDatabaseSchemaEditor,
    model_name: str,
    swap: str = "manage.py playbook swap",
) -> Iterator[None]:
    """Begin an operation, and make `migrate` end with a sentence, not with a traceback.

    The migration's transaction gets the settings of the engine's own. Two `migrate` at once both
    find the migration unapplied. The lock lets them in by turns, and the later run then finds its
    work done.

    Arguments:
        schema_editor: in its transaction, or collecting SQL.
        model_name: the model.
        swap: the command to exchange its columns.
    """
    connection = schema_editor.connection
    try:
        if not schema_editor.collect_sql and connection.vendor == POSTGRES:
            adopt_transaction(connection)
            refuse_read_only(connection)
        journal = keep_journal("migrate", model_name, connection.alias)
        with nullcontext() if schema_editor.collect_sql else journal, keep_interrupts():
            yield
    except PlaybookError as error:
        raise CommandError(str(error), returncode=error.exit_code) from None
    except KeyboardInterrupt:
        # The schema editor's transaction is rolled back; 128 + SIGINT is what a shell reports.
        raise CommandError(
            f"Stopped; nothing of {model_name} was changed. {MIGRATE_AGAIN}",
            returncode=INTERRUPTED,
        ) from None
    except DatabaseError as error:
        failure = _explain(error, model_name, swap)
        raise CommandError(str(failure), returncode=failure.exit_code) from None


def _explain(error: DatabaseError, model_name: str, swap: str) -> PlaybookError:
    cause = error.__cause__
    if isinstance(cause, pg_errors.DuplicateColumn | pg_errors.UndefinedColumn):
        return TryAgain(
            f"Another process has migrated {model_name} meanwhile; nothing was changed here. "
            f"{MIGRATE_AGAIN}"
        )
    if isinstance(cause, pg_errors.DependentObjectsStillExist):
        # Since Django 6.1 no column is dropped with its dependents. The DETAIL names objects.
        others = (cause.diag.message_detail or "").replace("\n", "; ")
        return Refused(
            f"A column of {model_name} was not dropped, because something is bound to it: "
            f'{others}; nothing was changed. While it is swapped, "{swap} '
            '--revert" takes the quarantine away; anything else is yours to drop.'
        )
    if isinstance(cause, pg_errors.InternalError_ | pg_errors.UniqueViolation):
        # "tuple concurrently updated": two have changed the same row of a catalog.
        return TryAgain(
            f"Another session has changed the schema of {model_name} at the same moment; nothing "
            f"was changed here. {MIGRATE_AGAIN}"
        )
    return explain_failure(error)
