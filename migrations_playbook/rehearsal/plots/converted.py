"""The plot of a conversion: clients write either column, and the other one must follow.

The books have every value that a client wrote, and when; what up and down make of them is
evaluated apart from the triggers. A row's *outcome* is the pair of values that its last write must
have made of it, by type (older, newer): the write's own value on the side that it was written to,
the converted one on the other. Which side that was depends on whether the columns were swapped; a
write in the very moment of an exchange has two outcomes. A stale save, of an object that was loaded
a while ago, may change nothing, or be as good as a write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, LiteralString

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.state import ProjectState
from psycopg import sql

from migrations_playbook.errors import PlaybookError
from migrations_playbook.meaning.conversion import create_safe
from migrations_playbook.meaning.expressions import compose_text
from migrations_playbook.rehearsal.plots.base import DRAWN, Plot, Role
from migrations_playbook.rehearsal.plots.samples import find_sampler
from migrations_playbook.rehearsal.traffic.audit import Audit
from migrations_playbook.trigger_sql import SYNC_SETTINGS

# What the live field of release N+2 keeps of the old one; the rest is the shadow field's.
KEPT = ("null", "blank", "unique", "default", "db_default", "db_index", "db_column", "editable")
# The outcomes of the first copy of the table and of each write.
OUTCOMES = """
    CREATE VIEW rehearsal.outcome AS
    SELECT key::text, 'older' AS side, value AS older, rehearsal.up(value) AS newer,
           '-infinity'::float8 AS asked, '-infinity'::float8 AS answered
      FROM rehearsal.opened
    UNION ALL
    SELECT key, 'older', v.older, rehearsal.up(v.older), asked, answered
      FROM rehearsal.dated_written CROSS JOIN LATERAL (SELECT rehearsal.older(value)) AS v (older)
     WHERE swapped IS DISTINCT FROM (role = 'live')
    UNION ALL
    SELECT key, 'newer', rehearsal.down(v.newer), v.newer, asked, answered
      FROM rehearsal.dated_written CROSS JOIN LATERAL (SELECT rehearsal.newer(value)) AS v (newer)
     WHERE swapped IS DISTINCT FROM (role <> 'live')"""
# The outcomes that are still to be seen: no write has come after them.
LATEST = """
    SELECT * FROM rehearsal.outcome AS o
     WHERE NOT EXISTS (SELECT FROM rehearsal.written AS w
                        WHERE w.key = o.key AND NOT w.stale AND w.asked >= o.answered)"""

# Rows whose last write is lost, and rows of which the other column has not followed.
JUDGED = """
    WITH latest AS MATERIALIZED ({latest}),
    judged AS (
        SELECT bool_or(CASE l.side WHEN 'older' THEN {older_right} ELSE {newer_right} END) AS kept,
               bool_or({older_right} AND {newer_right}) AS in_step
          FROM {table} AS t JOIN latest AS l ON l.key = t.{key}::text
         WHERE t.{key}::text <> ALL ({at_work}::text[])
         GROUP BY t.{key})
    SELECT count(*) FILTER (WHERE NOT kept), count(*) FILTER (WHERE kept AND NOT in_step)
      FROM judged"""
# Answers to clients that are no outcome of a write that could have been seen at that time.
TOLD_OTHERWISE = """
    SELECT count(*) FROM rehearsal.dated_told AS t
     WHERE NOT (t.value IS NULL AND t.role = 'shadow' AND t.asked < {filled})
       AND NOT EXISTS (
        SELECT FROM rehearsal.outcome AS o
         WHERE o.key = t.key AND o.asked <= t.answered
           AND NOT EXISTS (SELECT FROM rehearsal.written AS w
                            WHERE w.key = o.key AND NOT w.stale
                              AND w.asked >= o.answered AND w.answered <= t.asked)
           AND (t.swapped IS DISTINCT FROM (t.role = 'live')
                AND rehearsal.older(t.value) IS NOT DISTINCT FROM o.older{like_older}
                OR t.swapped IS DISTINCT FROM (t.role <> 'live')
                AND rehearsal.newer(t.value) IS NOT DISTINCT FROM o.newer{like_newer}))"""


class ConvertedPlot(Plot):
    """The plot of `Shadow(up=..., down=...)`."""

    writes: ClassVar[bool] = True

    def find_objection(self) -> PlaybookError | None:
        """Find that there is no way down, or that no values of the type are known."""
        if self.replacement.declaration.down is None:
            return PlaybookError(
                f"{self.replacement} has no way down: release N must be gone before the swap, and "
                "the first write after it ends the revert, so there is nothing to rehearse."
            )
        fields = self._list_declared()
        if find_sampler(list(fields)) is None:
            kind = type(fields[1]).__name__
            return PlaybookError(
                f"The clients of a rehearsal know no values of a {kind} to write, so "
                f"{self.replacement} cannot be rehearsed."
            )
        return None

    def forget(self, state: ProjectState) -> None:
        """Take the dropped field out of a state; a field that stays has the new type."""
        super().forget(state)
        if self.replacement.declaration.moves:
            return
        options, (live, shadow) = self.replacement.model._meta, self._list_declared()
        _, _, arguments, of_type = shadow.deconstruct()
        own = live.deconstruct()[3]
        for name in KEPT:
            of_type.pop(name, None)
        of_type |= {name: own[name] for name in KEPT if name in own}
        state.alter_field(
            options.app_label,
            str(options.model_name),
            live.name,
            type(shadow)(*arguments, **of_type),
            preserve_default=True,
        )

    def identifies(self, field: Any) -> bool:
        """Tell whether a field is unique."""
        return bool(field.unique)

    def draw_values(self, alias: str) -> Iterator[dict[Role, Any]]:
        """Draw pairs of values, the live one made of the other. Lock: none."""
        sample = find_sampler(list(self._list_declared()))
        assert sample is not None
        conversion = self.replacement.conversion
        query = sql.SQL("SELECT source, {} FROM unnest(%s::{}[]) AS source").format(
            compose_text(conversion.down("source")),
            sql.SQL(conversion.up.made_type),
        )
        while True:
            with connections[alias].cursor() as cursor:
                cursor.execute(query, [[sample() for _ in range(DRAWN)]])
                drawn = cursor.fetchall()
            for newer, older in drawn:
                yield {"live": older, "shadow": newer}

    def open_books(self, audit: Audit) -> None:
        """Make the functions that evaluate both ways, and the view of what must come of a write."""
        for name, value in SYNC_SETTINGS.items():
            audit.connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        default = connections[DEFAULT_DB_ALIAS]
        older, newer = (str(each.db_type(default)) for each in self._list_declared())
        conversion = self.replacement.conversion
        for name, text, source, target in (
            ("up", conversion.up("source"), older, newer),
            ("down", conversion.down("source"), newer, older),
            # These two read a value from its text.
            ("older", "source", "text", older),
            ("newer", "source", "text", newer),
        ):
            function = sql.Identifier("rehearsal", name)
            audit.connection.execute(create_safe(function, text, source, target))
        audit.run("CREATE INDEX ON rehearsal.opened ((key::text))")
        audit.run("CREATE INDEX ON rehearsal.written (key)")
        audit.run(OUTCOMES)

    def balance(self, audit: Audit, at_work: Iterable[str]) -> dict[str, int]:
        """Compare each row with the outcomes of its last write."""
        older, newer = ("shadow", "live") if audit.is_swapped() else ("live", "shadow")
        # A row that is to do has no new value yet.
        may_lack = "" if audit.is_filled else " OR t.{column} IS NULL"
        right = {
            side: _compare(audit, f"t.{{column}} IS NOT DISTINCT FROM l.{side}{like}{more}", role)
            for side, role, like, more in (
                ("older", older, self.replacement.conversion.down.collation, ""),
                ("newer", newer, self.replacement.conversion.up.collation, may_lack),
            )
        }
        lost, astray = audit.fetch(
            JUDGED,
            latest=sql.SQL(LATEST),
            at_work=sql.Literal(list(at_work)),
            older_right=right["older"],
            newer_right=right["newer"],
        )
        return {"lost_writes": lost, "out_of_step": astray}

    def read_checks(self, audit: Audit) -> dict[str, int]:
        """Count the answers to clients that no write explains."""
        conversion = self.replacement.conversion
        told = audit.fetch(
            TOLD_OTHERWISE,
            filled=sql.Literal(audit.filled),
            like_older=sql.SQL(conversion.down.collation),
            like_newer=sql.SQL(conversion.up.collation),
        )
        return {"told_otherwise": told[0]}

    def _list_declared(self) -> tuple[Any, Any]:
        """List the live and the shadow field, as the project declares them."""
        options, declaration = self.replacement.model._meta, self.replacement.declaration
        return options.get_field(declaration.live), options.get_field(declaration.shadow)


def _compare(audit: Audit, template: LiteralString, role: str) -> sql.Composable:
    """Compose the condition that a column is right; true of a column that is not there."""
    if role not in audit.list_roles():
        return sql.SQL("true")
    return sql.SQL("({})").format(sql.SQL(template).format(column=audit.parts[role]))
