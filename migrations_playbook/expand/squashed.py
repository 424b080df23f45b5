"""The operation that `squashmigrations` makes of an expand and the forgetting of its shadow.

FROZEN, as `expand.table_lock` is: migrations import both from `migrations_playbook.operations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import migrations
from django.db.migrations.operations.base import Operation
from pgtrigger.migrations import AddTrigger, RemoveTrigger

from migrations_playbook.expand.table_operation import TableOperation


class SquashedExpand(TableOperation, migrations.SeparateDatabaseAndState):
    """An expand whose shadow is forgotten again: the database has the column, the state has not.

    Squashed together with the contract nothing is left of all three: a fresh database makes its
    table without a shadow.

    Lock: as the expand, a `WithTableLock`.

    Arguments:
        model_name: the model.
        operations: the expand, then the operation that forgets.
    """

    def __init__(self, model_name: str, operations: Sequence[Operation]) -> None:
        super().__init__(database_operations=operations, state_operations=operations)
        self.model_name = model_name
        self.squashed = list(operations)

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return the arguments as MigrationWriter writes them."""
        arguments = {"model_name": self.model_name, "operations": self.squashed}
        return type(self).__name__, [], arguments

    def reduce(self, operation: Operation, app_label: str) -> bool | list[Operation]:
        """Reduce to nothing with the contract of the same shadow, or of the same group."""
        fields = [
            each.name
            for each in read_added(self.squashed[0])
            if isinstance(each, migrations.AddField)
        ]
        if (
            getattr(operation, "drops_shadow", False)
            and operation.references_model(self.model_name, app_label)
            and set(fields) == {each.shadow for each in operation.drops}  # type: ignore[attr-defined]
        ):
            return []
        return super().reduce(operation, app_label)

    def describe(self) -> str:
        """Describe the operation for `migrate`."""
        return "; ".join(each.describe() for each in self.squashed)


SquashedExpand.__module__ = "migrations_playbook.operations"


def squash_forgotten(expand: TableOperation, following: Operation) -> SquashedExpand | None:
    """Squash an expand and the operation after it, if that forgets all that the expand adds.

    Arguments:
        expand: a `WithTableLock`.
        following: any operation.
    """
    added = read_added(expand)
    if not isinstance(following, migrations.SeparateDatabaseAndState) or not added:
        return None
    forgotten = {_name(each) for each in following.state_operations}
    if following.database_operations or forgotten != {_name(each) for each in added}:
        return None
    return SquashedExpand(expand.model_name, [expand, following])


def read_added(expand: Operation) -> list[Operation]:
    """Read which operations of an expand have an effect; none where it does more than add.

    A renewed trigger is taken away and added again.
    """
    added: list[Operation] = []
    for each in expand.operations:  # type: ignore[attr-defined]
        if isinstance(each, RemoveTrigger):
            if _name(each) not in map(_name, added):
                return []
            added = [other for other in added if _name(other) != _name(each)]
        elif isinstance(each, migrations.AddField | AddTrigger):
            added.append(each)
        else:
            return []
    return added


def _name(operation: Any) -> tuple[object, ...]:
    """Name what an operation adds or takes away; an operation of another kind is by itself."""
    if isinstance(operation, migrations.AddField | migrations.RemoveField):
        return operation.model_name.lower(), "field", operation.name
    if isinstance(operation, AddTrigger | RemoveTrigger):
        named: Any = operation.trigger if isinstance(operation, AddTrigger) else operation
        return operation.model_name.lower(), "trigger", named.name
    return (operation,)
