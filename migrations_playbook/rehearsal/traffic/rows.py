"""How a row is made: as the project says, else of the model's defaults.

A token often has no default: a save() of the project draws the token, and no such code runs here.
Where nobody gives a live value, the value is drawn as the declared value.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from django.db import connections, models
from psycopg import sql

from migrations_playbook.rehearsal.script import RowMaker
from migrations_playbook.replacement import Replacement

# Live values that are drawn at once, and rows of one statement.
DRAWN, BATCH = 500, 2_000


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
        self._replacement = replacement
        self._live: Any = model._meta.get_field(replacement.declaration.live)
        self._drawn: deque[Any] = deque()

    def read_fields(self) -> dict[str, Any]:
        """Read the fields that a new row sets."""
        fields = dict(self._make(self.model)) if self._make else {}
        given = self._live.has_default() or self._live.has_db_default() or self._live.name in fields
        return fields if given else {**fields, self._live.name: self._draw_value()}

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

    def _draw_value(self) -> Any:
        if not self._drawn:
            # A volatile function is called for each row of its SELECT.
            query = sql.SQL("SELECT {} FROM pg_catalog.generate_series(1, %s)").format(
                self._replacement.rotation.value
            )
            with connections[self.alias].cursor() as cursor:
                cursor.execute(query, [DRAWN])
                self._drawn.extend(value for (value,) in cursor.fetchall())
        return self._drawn.popleft()
