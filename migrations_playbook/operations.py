"""What migrations import. FROZEN: an applied migration must mean tomorrow what it meant today.

A change in what one of these does to a database is a new class beside the old one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.management.base import CommandError
from django.db import ProgrammingError
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from pgtrigger import compiler
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook import locks
from migrations_playbook.errors import TRY_AGAIN, PlaybookError


class PinnedTriggerSql(compiler.UpsertTriggerSql):
    """A trigger whose function looks names up in fixed schemas only.

    A trigger function runs with the search_path of whoever writes the row: without this, a
    schema that comes earlier in a session's path could put its own gen_random_uuid() in front.
    """

    def get_template(self) -> str:
        return (
            super().get_template()
            + "ALTER FUNCTION {pgid}() SET search_path = pg_catalog, public, pg_temp;"
        )


class WithTableLock(Operation):
    """Runs operations on one table under a strong lock that is taken boundedly.

    A plain migration asks for ACCESS EXCLUSIVE and waits as long as it takes; behind one idle
    transaction, every later reader then waits behind the migration. This asks in short attempts
    with pauses between them (`locks.reserve`, `locks.seize`), and fails cleanly when the
    lock is not to be had: the transaction rolls back, and `migrate` can be run again.

    The states of the operations are worked out before the lock is asked for: rendering the models
    of a large project can take longer than the statements themselves.

    Lock: ACCESS EXCLUSIVE on the table, from the first statement to the end of the migration.

    Arguments:
        model_name: the model whose table is locked.
        operations: what runs under the lock; catalog changes only, nothing that scans.
    """

    def __init__(self, model_name: str, operations: Sequence[Operation]) -> None:
        self.model_name = model_name
        self.operations = list(operations)

    @property
    def reduces_to_sql(self) -> bool:  # type: ignore[override]
        return all(operation.reduces_to_sql for operation in self.operations)

    @property
    def reversible(self) -> bool:  # type: ignore[override]
        return all(operation.reversible for operation in self.operations)

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        return (
            type(self).__name__,
            [],
            {"model_name": self.model_name, "operations": self.operations},
        )

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        for operation in self.operations:
            operation.state_forwards(app_label, state)

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        states = self._states(app_label, from_state)
        with _one_sentence(self.model_name):
            self._lock(app_label, schema_editor, from_state)
            for operation, before, after in zip(self.operations, states, states[1:], strict=False):
                operation.database_forwards(app_label, schema_editor, before, after)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        states = self._states(app_label, to_state)
        with _one_sentence(self.model_name):
            self._lock(app_label, schema_editor, to_state)
            for operation, before, after in reversed(
                list(zip(self.operations, states, states[1:], strict=False))
            ):
                operation.database_backwards(app_label, schema_editor, after, before)

    def describe(self) -> str:
        inner = "; ".join(operation.describe() for operation in self.operations)
        return f"Under a bounded lock on {self.model_name}: {inner}"

    @property
    def migration_name_fragment(self) -> str | None:  # type: ignore[override]
        return "_".join(
            operation.migration_name_fragment
            for operation in self.operations
            if operation.migration_name_fragment
        )

    def _states(self, app_label: str, state: ProjectState) -> list[ProjectState]:
        states = [state]
        for operation in self.operations:
            following = states[-1].clone()
            operation.state_forwards(app_label, following)
            _ = following.apps  # render the models now, before the lock
            states.append(following)
        return states

    def _lock(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, state: ProjectState
    ) -> None:
        connection = schema_editor.connection
        if connection.vendor != "postgresql":
            return
        db_table = state.apps.get_model(app_label, self.model_name)._meta.db_table
        table = sql.Identifier(*db_table.strip('"').split('"."'))
        if schema_editor.collect_sql:
            schema_editor.execute(
                f"LOCK TABLE {table.as_string(None)} IN ACCESS EXCLUSIVE MODE", params=None
            )
            return
        locks.reserve(connection, table)
        locks.seize(connection, table)


@contextmanager
def _one_sentence(model_name: str) -> Iterator[None]:
    """Make `migrate` end with one sentence and an exit code, not with a traceback.

    Two `migrate` at once both find the migration unapplied; the lock lets one in after the other,
    and the later one then finds its work done.
    """
    try:
        yield
    except PlaybookError as error:
        raise CommandError(str(error), returncode=error.exit_code) from None
    except ProgrammingError as error:
        if not isinstance(error.__cause__, pg_errors.DuplicateColumn | pg_errors.UndefinedColumn):
            raise
        raise CommandError(
            f"Another process has migrated {model_name} meanwhile; nothing was changed here. "
            'Run "manage.py migrate" again.',
            returncode=TRY_AGAIN,
        ) from None
