"""What an operation on one table has in common with the others, when migrations are squashed."""

from __future__ import annotations

from django.db.migrations.operations.base import Operation


class TableOperation(Operation):
    """An operation on one model's table, past which `squashmigrations` may move other models'.

    Arguments:
        model_name: the model.
    """

    model_name: str

    def references_model(self, name: str, app_label: str) -> bool:
        """Whether it is about this model: it is about one alone."""
        return name.lower() == self.model_name.lower()

    def reduce(self, operation: Operation, app_label: str) -> bool | list[Operation]:
        """As Django's own: what does not refer to the model may pass."""
        reduced = super().reduce(operation, app_label)
        return reduced or not operation.references_model(self.model_name, app_label)
