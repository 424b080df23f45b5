"""The common part of operations on a single table, for `squashmigrations`."""

from __future__ import annotations

from django.db.migrations.operations.base import Operation


class TableOperation(Operation):
    """An operation on a model's table, past which `squashmigrations` may move other models'.

    Arguments:
        model_name: the model.
    """

    model_name: str

    def references_model(self, name: str, app_label: str) -> bool:
        """Tell whether the operation is about this model."""
        return name.lower() == self.model_name.lower()

    def reduce(self, operation: Operation, app_label: str) -> bool | list[Operation]:
        """Reduce as Django does: an operation without a reference to the model may pass."""
        reduced = super().reduce(operation, app_label)
        return reduced or not operation.references_model(self.model_name, app_label)
