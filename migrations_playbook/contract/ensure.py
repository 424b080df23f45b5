"""The operation that plays the whole rotation inside `migrate`, for unattended installations.

FROZEN, as `expand.table_lock` is: migrations import both from `migrations_playbook.operations`.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import ProjectState

from migrations_playbook.backfill.play import Options, backfill
from migrations_playbook.errors import Refused, WrongPhase
from migrations_playbook.expand.table_lock import POSTGRES, one_sentence
from migrations_playbook.expand.table_operation import TableOperation
from migrations_playbook.history import find_known, read_declarations
from migrations_playbook.phase import Phase, read_state
from migrations_playbook.postgres.tables import has_more, is_empty
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.play import swap

# Few enough to be filled and swapped within seconds on any server.
ROWS = 10_000


class EnsureSwapped(TableOperation):
    """Makes sure of a filled and swapped shadow column; does both where the table is small.

    The operation stands in a migration of its own between the expand and the contract, with `atomic
    = False`: the plays commit as they go on. An empty table needs no swap, and swapped columns are
    left as they are. A table of more than `up_to` rows is refused, with the command to run.

    Squashed, the operation is left out: a fresh database has no rows. Its reverse does nothing.

    Lock: as `backfill` and `swap`.

    Arguments:
        model_name: the model.
        live: the live field's name.
        shadow: the shadow field's name.
        up_to: rows up to which `migrate` fills and swaps by itself.
    """

    reduces_to_sql = False
    reversible = True
    elidable = True
    needs_transaction = False

    def __init__(self, model_name: str, *, live: str, shadow: str, up_to: int = ROWS) -> None:
        self.model_name = model_name
        self.live = live
        self.shadow = shadow
        self.up_to = up_to

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return the arguments as MigrationWriter writes them."""
        return (
            type(self).__name__,
            [],
            {
                "model_name": self.model_name,
                "live": self.live,
                "shadow": self.shadow,
                "up_to": self.up_to,
            },
        )

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Change nothing: the columns exchange their values, not their names."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Fill and swap the column, if not done yet. Lock: as `backfill` and `swap`."""
        connection = schema_editor.connection
        model = from_state.apps.get_model(app_label, self.model_name)
        if connection.vendor != POSTGRES or not self.allow_migrate_model(connection.alias, model):
            return
        with one_sentence(schema_editor, self.model_name):
            self._ensure(connection, self._replacement(app_label, from_state))

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Do nothing: the columns stay exchanged, and both names live on."""

    def describe(self) -> str:
        """Describe the operation for `migrate`."""
        return f"Fill and swap {self.shadow} of {self.model_name}, up to {self.up_to:,} rows"

    @property
    def migration_name_fragment(self) -> str:
        """Return the operation's part of a migration's name."""
        return f"ensure_{self.model_name.lower()}_{self.shadow.lower()}_swapped"

    def _replacement(self, app_label: str, state: ProjectState) -> Replacement:
        """Find the declaration in the state; once forgotten there, in the migrations before."""
        for declaration in read_declarations(state.models[app_label, self.model_name.lower()]):
            if (declaration.live, declaration.shadow) == (self.live, self.shadow):
                return Replacement(state.apps.get_model(app_label, self.model_name), declaration)
        return find_known(f"{app_label}.{self.model_name}", self.shadow)

    def _ensure(self, connection: BaseDatabaseWrapper, replacement: Replacement) -> None:
        state = read_state(connection, replacement)
        if state.table is None or state.phase is Phase.NONE:
            raise WrongPhase(
                f"{replacement} is not there, so it cannot be filled. The migration that expands "
                "it must come before this one."
            )
        if state.swapped or is_empty(connection, state.table):
            return
        if has_more(connection, state.table, self.up_to):
            play = "swap" if state.phase is Phase.FILLED else "backfill"
            raise Refused(
                f"{state.table} has more than {self.up_to:,} rows, more than migrate fills and "
                f'swaps by itself. Run "{replacement.command(play)}", and '
                f'"manage.py migrate" again when it is swapped.'
            )
        if connection.in_atomic_block:
            raise Refused(
                "EnsureSwapped needs a migration that is no transaction, since the backfill "
                "commits each batch: write atomic = False into its class."
            )
        using = connection.alias
        for _ in backfill(replacement, using=using, options=Options.plain()):
            pass
        for _ in swap(replacement, using=using):
            pass


EnsureSwapped.__module__ = "migrations_playbook.operations"
