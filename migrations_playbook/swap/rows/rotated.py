"""The rows of a rotation: no leaked value may be live after the exchange."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import PlaybookError, Refused
from migrations_playbook.postgres.names import spell_names
from migrations_playbook.postgres.query import (
    engine_transaction,
    fetch_row,
    fetch_value,
    set_locals,
    taken_back,
)
from migrations_playbook.quarantine.base import Quarantine
from migrations_playbook.quarantine.digests import is_remembered_sql, unsettled_texts
from migrations_playbook.quarantine.watch import has_memory
from migrations_playbook.swap.dependents.base import Dependent, Key
from migrations_playbook.swap.dependents.inventory import Inventory
from migrations_playbook.swap.pair import Member, Pair
from migrations_playbook.swap.proof.house import find_problems
from migrations_playbook.swap.proof.readers import read_through
from migrations_playbook.swap.reports import Made, Verified
from migrations_playbook.swap.rows.base import Rows
from migrations_playbook.swap.rows.collisions import (
    copy_untriggered,
    redraw_duplicates,
    redraw_leaked,
)
from migrations_playbook.swap.rows.conditions import (
    is_written_since,
    not_rotated,
    pin_declared_path,
    same_beside,
)

if TYPE_CHECKING:
    from migrations_playbook.swap.gate import SwapRequest

# Unread views are named; so is the memory, by this.
MEMORY = "the memory of leaked values"


class RotatedRows(Rows):
    """The rows of a rotation."""

    def find_objection(self, request: SwapRequest) -> PlaybookError | None:
        """Find rows that would not have the declared values. The triggers let none come to be.

        After an exchange there may be some: the rows written since.
        """
        if request.revert or request.redraw:
            return None
        inventory = request.inventory
        exchanged = has_memory(request.connection, inventory.quarantines[0])
        for each in self.pair.members:
            sources = [source.column_names[1] for source in each.replacement.meaning.sources]
            if exchanged and not sources:
                continue
            condition = not_rotated(inventory, each, exchanged=exchanged)
            if not (found := self._count(request.connection, condition)):
                continue
            what = "the same value in both columns, so the swap would not change them"
            if sources:
                what = f"a {each.shadow.name} that is not made of their {spell_names(sources)}"
            return Refused(
                f"{found:,} rows of {each.replacement.label} have {what}: they were written past "
                "the triggers. Run it again with --redraw, which draws other values for them."
            )
        return None

    def _count(self, connection: BaseDatabaseWrapper, condition: sql.Composable) -> int:
        """Count rows by a condition for a statement with parameters."""
        with engine_transaction(connection):
            pin_declared_path(connection, self.pair)
            query = sql.SQL("SELECT count(*) FROM {} WHERE {}")
            return int(fetch_value(connection, query.format(self.pair.identifier, condition), []))

    def make_ready(
        self, connection: BaseDatabaseWrapper, inventory: Inventory, *, redraw: bool
    ) -> Iterator[str]:
        """Draw values again that have leaked; before a revert, copy values that have no copy."""
        if self.pair.swapped:
            if copy_untriggered(connection, self.pair):
                yield "Copy the values of rows that came past the triggers"
        # Before an index stands in the way of a draw.
        elif redraw_leaked(connection, inventory, redraw=redraw):
            yield "Draw values again that have leaked"

    def resolve_clash(self, connection: BaseDatabaseWrapper, clash: Dependent) -> str:
        """Draw duplicates again."""
        redraw_duplicates(connection, self.pair, clash)
        return "Draw duplicates again"

    def say_hopeless(self, rounds: int) -> PlaybookError:
        """Say that the value expression is too narrow."""
        replacement = self.pair.replacement
        shadows = spell_names(each.declaration.shadow for each in replacement.group)
        return PlaybookError(
            f"After {rounds} rounds the values of {replacement.label}."
            f"{shadows} still collide: the value expression has too "
            "little room for the table. Widen it in Meta.triggers, then run "
            '"manage.py makemigrations" and "manage.py migrate".'
        )

    def prove(
        self,
        connection: BaseDatabaseWrapper,
        inventory: Inventory,
        member: Member,
        counted: Verified,
    ) -> Verified:
        """Prove that no leaked value is reachable under the live name."""
        keys = inventory.unique_keys(member)
        leaked = sum(_leaked(connection, member, key) for key in keys)
        remembered = _remembered(connection, inventory.quarantine(member))
        same, untriggered = fetch_row(
            connection,
            sql.SQL("""
                SELECT count(*) FILTER (WHERE {live} = {retired}),
                       count(*) FILTER (WHERE {retired} IS NULL AND {live} IS NOT NULL)
                  FROM {table}""").format(
                table=member.table.identifier,
                live=member.live.identifier,
                retired=member.shadow.identifier,
            ),
        )
        seen = read_through(connection, inventory.pair, member, unique=bool(keys))
        proven = replace(
            counted,
            leaked=leaked,
            returned=remembered or 0,
            same=same,
            untriggered=untriggered,
            views=len(seen.shown),
            exposed=sum(seen.shown.values()),
            unread=seen.unread if remembered is not None else {**seen.unread, MEMORY: ""},
            exposing=tuple(name for name, shown in seen.shown.items() if shown),
        )
        if not member.replacement.meaning.sources:
            return proven
        return _prove_made(connection, inventory.pair, member, proven)

    def find_problems(
        self, connection: BaseDatabaseWrapper, inventory: Inventory
    ) -> tuple[str, ...]:
        """Name what is missing or disabled of the quarantine."""
        return find_problems(connection, inventory)


def _prove_made(
    connection: BaseDatabaseWrapper, pair: Pair, member: Member, proven: Verified
) -> Made:
    """Count rows whose live value is not made of their own values.

    The site makes both by itself once they are exchanged, and as it likes: a row that it has
    written since, or that came past the triggers, is counted apart.
    """
    # The proof of the next member has the path that was pinned before.
    with taken_back(connection):
        pin_declared_path(connection, pair)
        astray, own = fetch_row(
            connection,
            sql.SQL("""
                SELECT count(*) FILTER (WHERE ({written}) IS NOT TRUE),
                       count(*) FILTER (WHERE {written})
                  FROM {table} WHERE {astray}""").format(
                written=sql.SQL("{} OR {} IS NULL").format(
                    is_written_since(pair, member), member.shadow.identifier
                ),
                table=pair.identifier,
                astray=member.replacement.rotation.is_astray("live"),
            ),
            [],
        )
    sources = [source.column_names[0] for source in member.replacement.meaning.sources]
    return Made(**vars(proven), made_of=spell_names(sources), astray=astray, own_making=own)


def _leaked(connection: BaseDatabaseWrapper, member: Member, key: Key) -> int:
    """Count rows whose live value is another row's retired value.

    A row written since the swap has the same value in both columns, and is counted apart.
    """
    return int(
        fetch_value(
            connection,
            sql.SQL("""
                SELECT count(*) FROM {table} AS a JOIN {table} AS b ON b.{retired} = a.{live}{same}
                 WHERE (a.tableoid, a.ctid) <> (b.tableoid, b.ctid)""").format(
                table=key.table,
                live=member.live.identifier,
                retired=member.shadow.identifier,
                same=same_beside(key),
            ),
        )
    )


def _remembered(connection: BaseDatabaseWrapper, quarantine: Quarantine) -> int | None:
    """Count rows whose live value is remembered as leaked; None where the role may not look."""
    if not has_memory(connection, quarantine):
        return 0
    memory = quarantine.object("leaked").as_string(None)
    if not fetch_value(
        connection, sql.SQL("SELECT pg_catalog.has_table_privilege(%s, 'SELECT')"), [memory]
    ):
        return None
    set_locals(connection, unsettled_texts(quarantine))
    return int(
        fetch_value(
            connection,
            sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
                quarantine.table.identifier, is_remembered_sql(quarantine, quarantine.live)
            ),
        )
    )
