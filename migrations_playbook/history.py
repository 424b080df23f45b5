"""The migrations' memory of shadows, including shadows that no model declares any more.

A database can be releases behind the code: the database has the shadow column, and the models have
forgotten the field. The migrations have not. The state before the field's removal has the model,
the field and the compiled triggers, and the fill trigger's text holds the value expression.

Reads files alone, and no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from django.db import models
from django.db.migrations import Migration
from django.db.migrations.exceptions import (
    BadMigrationError,
    CircularDependencyError,
    NodeNotFoundError,
)
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ModelState, ProjectState
from pgtrigger import compiler

from migrations_playbook.commands import spell_migrate
from migrations_playbook.errors import PlaybookError
from migrations_playbook.meaning.expressions import CompiledExpression
from migrations_playbook.postgres.names import unquoted
from migrations_playbook.replacement import (
    Called,
    Replacement,
    declared_replacements,
    find_replacement,
)
from migrations_playbook.shadow import Shadow, read_shadows
from migrations_playbook.trigger_sql import PinnedTriggerSql


@dataclass(frozen=True)
class Remembered(Called):
    """A shadow as the migrations have it.

    Arguments:
        app_label: the app of the model.
        model: the model's name.
        declaration: the model's declaration, with the value as compiled SQL.
        state: the last state of the project with the shadow.
        forgotten: whether a later migration takes the shadow out of the state.
        contracted: whether a later migration drops the column.
    """

    app_label: str
    model: str
    declaration: Shadow
    state: ProjectState
    forgotten: bool = False
    contracted: bool = False

    @property
    def label(self) -> str:
        """`shop.Voucher`: how a person names the model."""
        return f"{self.app_label}.{self.model}"

    @property
    def model_state(self) -> ModelState:
        """The model's state, in the last state with the shadow."""
        found: ModelState = self.state.models[self.app_label, self.model.lower()]
        return found

    @property
    def field(self) -> models.Field[Any, Any]:
        """The field that the contract drops, as the migrations have it."""
        return self.model_state.fields[self.declaration.dropped]

    @property
    def triggers(self) -> list[compiler.Trigger]:
        """The compiled triggers, as the migrations have them."""
        return own_triggers(self.model_state, self.declaration)

    def replacement(self) -> Replacement:
        """Bind the declaration to the model of its time."""
        return Replacement(self.state.apps.get_model(self.app_label, self.model), self.declaration)


def load_migrations() -> MigrationLoader:
    """Load the migrations on disk.

    Raises:
        PlaybookError: they do not fit together.
    """
    try:
        return MigrationLoader(None)
    except (BadMigrationError, CircularDependencyError, NodeNotFoundError) as error:
        raise PlaybookError(
            f'The migrations do not fit together: {error}. "manage.py showmigrations" must work '
            "first."
        ) from None


def read_history(loader: MigrationLoader | None = None) -> list[Remembered]:
    """Read every shadow that the migrations on disk have, or have had.

    Arguments:
        loader: the migrations; without a loader the migrations on disk.
    """
    loader = loader or load_migrations()
    state = ProjectState(real_apps=loader.unmigrated_apps)
    known: dict[tuple[str, str, str], Remembered] = {}
    for migration in _in_order(loader):
        app_label = migration.app_label
        operation: Any
        for operation in _unsquashed(migration.operations):
            # Only a migration after the expand, in the same app, can take a shadow away.
            before = state.clone() if any(key[0] == app_label for key in known) else state
            operation.state_forwards(app_label, state)
            now = {
                (app_label, name, declaration.shadow): Remembered(
                    app_label, model_state.name, declaration, state
                )
                for (label, name), model_state in state.models.items()
                if label == app_label
                for declaration in read_declarations(model_state)
            }
            for key in known.keys() - now.keys():
                if key[0] == app_label and not known[key].forgotten:
                    known[key] = replace(known[key], state=before, forgotten=True)
            known |= now
            if getattr(operation, "drops_shadow", False):
                columns = {(each.live, each.shadow) for each in operation.drops}
                for key, was in known.items():
                    ends = was.declaration.kept, was.declaration.dropped
                    if key[:2] == (app_label, operation.model_name.lower()) and ends in columns:
                        known[key] = replace(was, contracted=True)
    return list(known.values())


def read_declarations(model_state: ModelState) -> Iterator[Shadow]:
    """Read the declarations of a model's state, from the text of its fill triggers."""
    for trigger in model_state.options.get("triggers", []):
        text = getattr(trigger, "sql", None)
        if not isinstance(text, PinnedTriggerSql):
            continue  # of the site
        fields = {
            unquoted(field.db_column or name): name for name, field in model_state.fields.items()
        }
        for declaration in read_shadows(text.kwargs["func"], fields):
            if trigger.name == declaration.triggers[0].name:
                yield declaration


def own_triggers(model_state: ModelState, declaration: Shadow) -> list[compiler.Trigger]:
    """Pick the triggers of a declaration from a model's state."""
    names = {trigger.name for trigger in declaration.triggers}
    return [each for each in model_state.options.get("triggers", []) if each.name in names]


def find_remembered(
    label: str, shadow: str, history: list[Remembered] | None = None
) -> Remembered | None:
    """Find a shadow in the migrations, by the model's label and the shadow field's name.

    Arguments:
        history: what the migrations have; without, they are read.
    """
    known = read_history() if history is None else history
    return next((each for each in known if each.is_called(label, shadow)), None)


def known_replacements(history: list[Remembered] | None = None) -> Iterator[Replacement]:
    """List every shadow that a model declares, then shadows that only the migrations remember."""
    declared = list(declared_replacements())
    yield from declared
    names = {str(each) for each in declared}
    for each in read_history() if history is None else history:
        if str(each) not in names:
            yield each.replacement()


def is_declared(replacement: Replacement) -> bool:
    """Tell whether a model declares the shadow, and not the migrations alone."""
    declaration = replacement.declaration
    return not isinstance(declaration.value or declaration.up, CompiledExpression)


def spell_expand(replacement: Replacement, was: Remembered | None, using: str) -> str:
    """Spell the command that brings the shadow column: `migrate`, once a migration is written.

    Arguments:
        was: the shadow as the migrations have it.
        using: the alias of the database that is to have the column.
    """
    unwritten = is_declared(replacement) and (was is None or was.forgotten)
    return replacement.command("expand") if unwritten else spell_migrate(using)


def find_known(label: str, shadow: str) -> Replacement:
    """Find a shadow that a model declares, or that only the migrations remember.

    Raises:
        PlaybookError: neither knows the shadow.
    """
    try:
        return find_replacement(label, shadow)
    except PlaybookError:
        remembered = find_remembered(label, shadow)
        if remembered is None:
            raise
        return remembered.replacement()


def _unsquashed(operations: Iterable[Operation]) -> Iterator[Operation]:
    """Yield operations, those squashed into one in turn: between them the state has the shadow."""
    for each in operations:
        yield from getattr(each, "squashed", (each,))


def _in_order(loader: MigrationLoader) -> Iterator[Migration]:
    """Yield the migrations on disk, each after its dependencies."""
    graph = loader.graph
    plan = (key for leaf in sorted(graph.leaf_nodes()) for key in graph.forwards_plan(leaf))
    for key in dict.fromkeys(plan):
        yield graph.nodes[key]
