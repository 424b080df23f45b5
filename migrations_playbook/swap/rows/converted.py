"""The rows of a conversion: both columns in step, and a way back for every value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import PlaybookError, Refused
from migrations_playbook.expand.restore import restore_triggers
from migrations_playbook.meaning.conversion import drop_safe
from migrations_playbook.phase import find_trigger_problem
from migrations_playbook.postgres.query import (
    engine_transaction,
    execute,
    fetch_all,
    fetch_row,
    fetch_value,
)
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import Dependent, Unique
from migrations_playbook.swap.dependents.inventory import Inventory
from migrations_playbook.swap.pair import Member
from migrations_playbook.swap.reports import Converted, Verified
from migrations_playbook.swap.rows.base import Rows
from migrations_playbook.swap.rows.collisions import hold_names, ignore_declared

if TYPE_CHECKING:
    from migrations_playbook.swap.gate import SwapRequest

# How many groups of rows that would collide a sentence names.
NAMED = 5


class ConvertedRows(Rows):
    """The rows of a conversion."""

    def find_objection(self, request: SwapRequest) -> PlaybookError | None:
        """Before a revert, find rows with a value that has no way back."""
        if not request.revert:
            return None
        pair = self.pair
        lost = self._count(request.connection, pair.replacement.conversion.has_no_way(pair.table))
        if not lost:
            return None
        replacement = pair.replacement
        listed = replacement.command("backfill", "--list-failed")
        remedy = (
            "There is no way down: stay with the exchanged columns"
            if replacement.declaration.down is None
            else "Give each a value that has one, then run the same command again"
        )
        return Refused(
            f"{lost:,} rows of {replacement.label} have a {replacement.live} that has no way back "
            f"to {pair.members[0].shadow.type}, and a revert would lose it; nothing was changed. "
            f'{remedy}. "{listed}" lists them by key.'
        )

    def make_ready(
        self, connection: BaseDatabaseWrapper, inventory: Inventory, *, redraw: bool
    ) -> Iterator[str]:
        """Bring rows in step that were written past the triggers: the live side wins."""
        pair = self.pair
        if self._bring_in_step(connection):
            yield "Bring rows in step that were written past the triggers"
        if pair.swapped:
            return
        for each in inventory.dependents:
            if each.unique_on is not None:
                self._refuse_collisions(connection, str(each), each.unique_on)

    def resolve_clash(self, connection: BaseDatabaseWrapper, clash: Dependent) -> str:
        """Refuse: a converted value cannot be drawn again."""
        assert clash.unique_on is not None, f"{clash} is not unique"
        self._refuse_collisions(connection, "unique index", clash.unique_on)
        return "Look again: the rows differ by now"

    def say_hopeless(self, rounds: int) -> PlaybookError:
        """Say that others go on writing values that collide, or are out of step."""
        return Refused(
            f"After {rounds} rounds rows of {self.pair.replacement.label} are still out of step or "
            "not unique: others write them all the while, past the triggers. Stop them, then run "
            "the same command again."
        )

    @property
    def statistics_steps(self) -> tuple[Step, ...]:
        """Collect the statistics of the column that is about to be live."""
        pair = self.pair
        return (
            Step(
                f"Collect statistics of {pair.replacement.shadow}",
                sql.SQL("ANALYZE {} ({})").format(
                    pair.identifier, sql.Identifier(pair.replacement.shadow)
                ),
                Lock.SHARE_UPDATE_EXCLUSIVE,
                as_session=True,
            ),
        )

    def mend(self, connection: BaseDatabaseWrapper) -> Iterator[str]:
        """Install the sync triggers again where any is missing, and bring rows in step."""
        if restore_triggers(connection, self.pair.replacement):
            yield "Install the triggers again"
        if self._bring_in_step(connection):
            yield "Bring rows in step that were written past the triggers"

    def prove(
        self,
        connection: BaseDatabaseWrapper,
        inventory: Inventory,
        member: Member,
        counted: Verified,
    ) -> Verified:
        """Count the rows that neither way explains, and those with no way back."""
        pair = inventory.pair
        conversion = pair.replacement.conversion
        with conversion.safely(connection, pair.table):
            out_of_step, no_way_back = fetch_row(
                connection,
                sql.SQL("""
                    SELECT count(*) FILTER (WHERE {out}),
                           count(*) FILTER (WHERE {lost})
                      FROM {table}""").format(
                    out=conversion.out_of_step(pair.table),
                    lost=conversion.has_no_way(pair.table),
                    table=pair.identifier,
                ),
            )
        return Converted(
            **vars(counted),
            out_of_step=out_of_step,
            no_way_back=no_way_back if pair.swapped else 0,
        )

    def find_problems(
        self, connection: BaseDatabaseWrapper, inventory: Inventory
    ) -> tuple[str, ...]:
        """Name what is missing or disabled of the sync triggers."""
        pair = inventory.pair
        problem = find_trigger_problem(connection, pair.replacement, pair.table)
        return () if problem is None or not pair.swapped else (problem,)

    def _count(self, connection: BaseDatabaseWrapper, condition: sql.Composable) -> int:
        """Count rows by a condition with safe functions. Lock: ACCESS SHARE on the table."""
        with self.pair.replacement.conversion.safely(connection, self.pair.table):
            found = fetch_value(
                connection,
                sql.SQL("SELECT count(*) FROM {} WHERE {}").format(self.pair.identifier, condition),
            )
        return int(found)

    def _bring_in_step(self, connection: BaseDatabaseWrapper) -> int:
        """Convert the live values of rows out of step; return how many there were."""
        pair, conversion = self.pair, self.pair.replacement.conversion
        out_of_step = conversion.out_of_step(pair.table)
        if not self._count(connection, out_of_step):
            return 0
        with engine_transaction(connection):
            hold_names(connection, pair)
            ignore_declared(connection, pair)
            conversion.make_safe(connection, pair.table)
            done = execute(
                connection,
                sql.SQL("UPDATE {} SET {} = {} WHERE {}").format(
                    pair.identifier, conversion.shadow, conversion.remade(pair.table), out_of_step
                ),
            )
            drop_safe(connection)
        return done

    def _refuse_collisions(
        self, connection: BaseDatabaseWrapper, name: str, unique: Unique
    ) -> None:
        """Refuse where a unique index would find two rows alike; names the first by their keys.

        Lock: ACCESS SHARE on the table.

        Raises:
            Refused: with the keys.
        """
        pair = self.pair
        key = [sql.SQL(f"({each})") for each in unique.key]
        rows = fetch_all(
            connection,
            sql.SQL("""
                SELECT array_agg(concat_ws('/', {primary}) ORDER BY {primary}),
                       count(*) OVER ()
                  FROM {table} WHERE {present} AND ({predicate})
                 GROUP BY {key} HAVING count(*) > 1 LIMIT {named}""").format(
                primary=sql.SQL(", ").join(map(sql.Identifier, pair.replacement.key)),
                table=unique.table,
                present=sql.SQL(" AND ").join(
                    sql.SQL("{} IS NOT NULL").format(each) for each in key
                ),
                predicate=sql.SQL(unique.predicate or "true"),
                key=sql.SQL(", ").join(key),
                named=sql.Literal(NAMED),
            ),
        )
        if not rows:
            return
        groups = "; ".join(" and ".join(keys) for keys, _ in rows)
        more = ", ..." if rows[0][1] > len(rows) else ""
        raise Refused(
            f"The converted values of {rows[0][1]:,} groups of rows of {pair.replacement.label} "
            f"are the same, and the {name} wants them to differ; nothing was exchanged. Their "
            f"keys: {groups}{more}. Change all but one of each, then run the same command again."
        )
