"""The plot of a rotation: what a client is told must still be true in the end.

A value told to a client while the columns are swapped must be in the new column at the end, and a
value told otherwise in the old column: through a revert and a second swap. A value told in the very
moment of an exchange may be in either. A row made while they are swapped keeps its value to the
end.

A lookup by a value exchanged since misses, rightly: such is the purpose of a rotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from django.db import connections, models
from psycopg import sql

from migrations_playbook.rehearsal.plots.base import DRAWN, Plot, Role
from migrations_playbook.rehearsal.traffic.audit import Audit


class RotatedPlot(Plot):
    """The plot of `Shadow(value=...)`."""

    writes: ClassVar[bool] = False

    def list_fields(self, model: type[models.Model]) -> dict[Role, Any]:
        """List the live field: nobody is handed a value that is not live yet."""
        return {"live": super().list_fields(model)["live"]}

    def identifies(self, field: Any) -> bool:
        """Tell that a token stands for one row."""
        return True

    def draw_values(self, alias: str) -> Iterator[dict[Role, Any]]:
        """Draw live values as the declared value is drawn. Lock: none."""
        # A volatile function is called for each row of its SELECT.
        query = sql.SQL("SELECT {} FROM pg_catalog.generate_series(1, %s)").format(
            self.replacement.rotation.value
        )
        while True:
            with connections[alias].cursor() as cursor:
                cursor.execute(query, [DRAWN])
                drawn = cursor.fetchall()
            for (value,) in drawn:
                yield {"live": value}

    def open_books(self, audit: Audit) -> None:
        """Open no more books: the first copy of the table has the leaked values."""

    def balance(self, audit: Audit, at_work: Iterable[str]) -> dict[str, int]:
        """Compare the values told so far with the table, and strike them out."""
        self._add_leaked(audit)
        changed = audit.count("""
            SELECT count(*) FROM (
                SELECT key FROM rehearsal.dated_told
                 WHERE key IN (SELECT key FROM rehearsal.dated_created WHERE swapped)
                 GROUP BY key HAVING count(DISTINCT value) > 1) AS changed""")
        new, old = ("live", "shadow") if audit.is_swapped() else ("shadow", "live")
        there = audit.list_roles()
        otherwise = sum(
            _count_otherwise(audit, when, columns)
            for when, columns in (
                (sql.SQL("swapped"), {new}),
                (sql.SQL("NOT swapped"), {old}),
                (sql.SQL("swapped IS NULL"), {new, old}),
            )
            if columns <= there
        )
        audit.run("TRUNCATE rehearsal.told")
        return {"told_otherwise": otherwise, "changed_tokens": changed}

    def _add_leaked(self, audit: Audit) -> None:
        """Add the values told before the first exchange: they have leaked with the rest."""
        audit.run("""
            INSERT INTO rehearsal.opened
            SELECT DISTINCT o.key, o.value FROM rehearsal.told AS t
              CROSS JOIN LATERAL jsonb_populate_record(
                  NULL::rehearsal.opened, jsonb_build_object('key', t.key, 'value', t.value)) AS o
             WHERE t.answered < (SELECT min(began) FROM rehearsal.exchange)""")

    def read_checks(self, audit: Audit) -> dict[str, int]:
        """Count values that more than one row has, and after a swap the leaked ones."""
        found = {
            "duplicated_rows": audit.count("""
                SELECT count(*) FROM (
                    SELECT FROM {table} WHERE {live} IS NOT NULL
                     GROUP BY {live} HAVING count(*) > 1) AS repeated""")
        }
        if audit.is_swapped():
            found["unrotated_rows"] = audit.count("""
                SELECT count(*) FROM {table} AS t JOIN rehearsal.opened AS o
                    ON o.key = t.{key} AND o.value = t.{live}""")
            found["leaked_values"] = audit.count("""
                SELECT count(*) FROM {table} AS t
                 WHERE t.{live} IN (SELECT value FROM rehearsal.opened)""")
        return found


def _count_otherwise(audit: Audit, when: sql.SQL, columns: set[str]) -> int:
    """Count the values told at such a time that are in none of these columns."""
    found = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {key}::text, {}::text FROM {table}").format(
            audit.parts[column], key=audit.parts["key"], table=audit.parts["table"]
        )
        for column in sorted(columns)
    )
    return audit.count(
        """
        SELECT count(*) FROM (
            SELECT key, value FROM rehearsal.dated_told WHERE {when} EXCEPT ({found})) AS told""",
        when=when,
        found=found,
    )
