"""How a row is made: as the project says, else of the model's defaults.

A token often has no default: a save() of the project draws the token, and no such code runs here.
Where nobody gives a live value, the value is drawn: of a rotation as the declared value, of a
conversion one that fits both columns.
"""

from __future__ import annotations

from typing import Any

from django.db import models

from migrations_playbook.rehearsal.plots.base import Role
from migrations_playbook.rehearsal.plots.kinds import plot_of
from migrations_playbook.rehearsal.script import RowMaker
from migrations_playbook.replacement import Replacement

# Rows of one statement.
BATCH = 2_000


class RowFactory:
    """Makes the rows of a release, in a single thread.

    Arguments:
        model: the release's model.
        replacement: the rehearsed replacement.
        alias: the database.
        make: returns a row's fields; None for the model's defaults.
    """

    def __init__(
        self,
        model: type[models.Model],
        replacement: Replacement,
        alias: str,
        make: RowMaker | None,
    ) -> None:
        self.model = model
        self.alias = alias
        self._make = make
        self._plot = plot_of(replacement)
        self._role, self._field = next(iter(self._plot.list_fields(model).items()))
        self._values = self._plot.draw_values(alias)

    def read_fields(self) -> dict[str, Any]:
        """Read the fields that a new row sets."""
        fields = dict(self._make(self.model)) if self._make else {}
        name = self._field.name
        # The default of a column that the clients write is hardly a new value for each row.
        has_default = self._field.has_default() or self._field.has_db_default()
        given = name in fields or (has_default and not self._plot.writes)
        return fields if given else {**fields, name: self.draw_value(self._role)}

    def insert(self, count: int) -> None:
        """Insert rows, a batch in a statement.

        Lock: ROW EXCLUSIVE on the table.
        """
        while count > 0:
            batch = [self.model(**self.read_fields()) for _ in range(min(count, BATCH))]
            if self.model._meta.parents:
                # Several tables a row: Django inserts such rows one by one.
                for row in batch:
                    row.save(using=self.alias, force_insert=True)
            else:
                self.model._base_manager.using(self.alias).bulk_create(batch)
            count -= len(batch)

    def draw_value(self, role: Role) -> Any:
        """Draw a value that no row has, for one of the two fields."""
        return next(self._values)[role]
