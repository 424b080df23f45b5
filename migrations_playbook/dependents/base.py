"""What each kind of dependent is to the swap: data, and the steps that carry it over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook import catalog, quarantine
from migrations_playbook.catalog import Column, Table
from migrations_playbook.database import fetch_value, name_of
from migrations_playbook.shadow import BoundShadow
from migrations_playbook.steps import Lock, Step

# A catalog and an oid in it: how pg_depend names an object.
Object = tuple[str, int]

# The two columns of a table and of each of its partitions, to be joined to what is bound to them;
# its parameters are `Pair.columns`.
COLUMNS = sql.SQL("unnest(%s::oid[], %s::int2[], %s::text[]) AS col (relation, number, name)")


@dataclass(frozen=True)
class Pair:
    """The two columns that are to be exchanged, as they stand before it.

    A partitioned table has such a pair itself and in each of its partitions, with the numbers that
    the columns have there: see `relations`.

    Arguments:
        bound: the declaration.
        found: the table, or a partition of it.
        revert: whether the exchange is one back.
        refresh: whether materialized views are to be built anew afterwards.
    """

    bound: BoundShadow
    found: Table
    revert: bool
    refresh: bool = False

    @property
    def live(self) -> Column:
        return self.found.columns[self.bound.live]

    @property
    def shadow(self) -> Column:
        return self.found.columns[self.bound.shadow]

    @property
    def relations(self) -> tuple[Pair, ...]:
        """The pair of the table, and of each of its partitions; the upper levels first."""
        return (self, *(replace(self, found=each) for each in self.found.partitions))

    @property
    def columns(self) -> list[list[Any]]:
        """The columns of all these: relations, attribute numbers and names, as `COLUMNS` asks."""
        return [
            [each.found.oid for each in self.relations for _ in range(2)],
            [
                number
                for each in self.relations
                for number in (each.live.number, each.shadow.number)
            ],
            [self.bound.live, self.bound.shadow] * len(self.relations),
        ]

    @property
    def oids(self) -> list[int]:
        """The table and its partitions."""
        return [self.found.oid, *(each.oid for each in self.found.partitions)]

    @property
    def table(self) -> sql.Identifier:
        return self.found.identifier

    @property
    def partitioned(self) -> bool:
        """Whether the rows are in partitions rather than here."""
        return self.found.kind == "p"

    def labelled(self, name: str) -> str:
        """A name that is only one within its table, as a person would look it up."""
        return name if self.found.parent is None else f"{name} on {self.found}"

    def reread(self, connection: BaseDatabaseWrapper) -> Pair:
        """The same as the catalog has it now, with the partitions that there are now."""
        found = catalog.named(connection, self.table)
        assert found is not None, f"{self.found} is gone"
        return replace(self, found=found)

    @property
    def not_null_check(self) -> str:
        """The name of the CHECK that proves the shadow not null."""
        return self.bound.name_of("not_null")

    @property
    def own(self) -> quarantine.Names:
        """The names of the quarantine's objects."""
        return quarantine.Names.of(self.found.name, self.bound.shadow)

    def twin_name(self, name: str) -> str:
        """The name of an object's counterpart on the shadow column."""
        return name_of(name, self.bound.shadow)

    def alter_table(
        self, what: str, action: sql.Composable, lock: Lock = Lock.ACCESS_EXCLUSIVE
    ) -> Step:
        """An ALTER TABLE of the table and, as far as the action is inherited, its partitions."""
        statement = sql.SQL("ALTER TABLE {} {}").format(self.table, action)
        return Step(what, statement, lock, self.table)

    def alter_only(self, what: str, action: sql.Composable) -> Step:
        """An ALTER TABLE of the table and of no partition. Lock: ACCESS EXCLUSIVE."""
        if not self.partitioned:
            return self.alter_table(what, action)
        statement = sql.SQL("ALTER TABLE ONLY {} {}").format(self.table, action)
        return Step(what, statement, Lock.ACCESS_EXCLUSIVE, self.table)

    def rename_constraint(self, old: str, new: str) -> Step:
        """Lock: ACCESS EXCLUSIVE on the table and its partitions."""
        return self.alter_table(
            f"Rename {old} to {new}",
            sql.SQL("RENAME CONSTRAINT {} TO {}").format(sql.Identifier(old), sql.Identifier(new)),
        )

    def alter_column(self, what: str, column: str, action: sql.Composable) -> Step:
        """An ALTER COLUMN of the table and of no partition. Lock: ACCESS EXCLUSIVE."""
        return self.alter_only(
            what, sql.SQL("ALTER COLUMN {} {}").format(sql.Identifier(column), action)
        )


@dataclass(frozen=True)
class Key:
    """What is unique.

    Arguments:
        table: the table, or the partition that has such an index of its own.
        columns: the columns whose values together must differ.
    """

    table: sql.Identifier
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Dependent:
    """One object that is bound to the live or the shadow column by attribute number.

    Arguments:
        kind: "index", "view" and so on.
        name: its name, as a person would look it up.
        how: how it is bound, in a few words.
        covers: the objects of the catalog that this one stands for.
        refused: why the swap cannot carry it over, and what to do; None when it can.
        build: steps before the exchange, outside a transaction, that block no read and no write;
            and those with a strong lock, each in a transaction of its own and boundedly.
        prove: steps before the exchange, each in a transaction of its own.
        undo: what takes the proof back when the rows do not pass it.
        lock_first: steps that lock another relation; taken before the table's own lock, in the
            order in which a reader takes them.
        take: steps in the exchange, before the names change.
        give: steps in the exchange, after the names have changed.
        after: steps after the exchange is committed; they block no read and no write.
        unique_on: for a unique index, what must differ.
        moves: whether the swap does anything about it; False for what may stay where it is.
    """

    kind: str
    name: str
    how: str
    covers: frozenset[Object] = frozenset()
    refused: str | None = None
    build: tuple[Step, ...] = ()
    prove: tuple[Step, ...] = ()
    undo: tuple[Step, ...] = ()
    lock_first: tuple[Step, ...] = ()
    take: tuple[Step, ...] = ()
    give: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    unique_on: Key | None = None
    moves: bool = True

    @property
    def action(self) -> str:
        """What the swap does about it, in a word."""
        if self.refused is not None:
            return "refused"
        return "carried over" if self.moves else "left as it is"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def as_json(self) -> dict[str, str | None]:
        return {
            "kind": self.kind,
            "name": self.name,
            "how": self.how,
            "action": self.action,
            "why": self.refused,
        }


def how_bound(pair: Pair, names: Iterable[str]) -> str:
    """`on token`: which of the two columns an object is bound to; the older column first."""
    older_first = sorted(set(names), key=lambda name: pair.found.columns[name].number)
    return "on " + " and ".join(older_first)


def can_be(connection: BaseDatabaseWrapper, role: str) -> bool:
    """Whether the current role has the rights of another one, as ownership asks."""
    return bool(
        fetch_value(connection, sql.SQL("SELECT pg_catalog.pg_has_role(%s::name, 'USAGE')"), [role])
    )


def not_owned(connection: BaseDatabaseWrapper, kind: str, name: str, owner: str) -> str | None:
    """The refusal for an object that the current role may not change; None when it may."""
    if can_be(connection, owner):
        return None
    return (
        f'the {kind} {name} belongs to "{owner}": run GRANT '
        f"{sql.Identifier(owner).as_string(None)} TO {current_role(connection)}"
    )


def current_role(connection: BaseDatabaseWrapper) -> str:
    """The current role, quoted."""
    role = fetch_value(connection, sql.SQL("SELECT current_user::text"))
    return sql.Identifier(str(role)).as_string(None)


def comment(what: str, on: sql.Composable, text: str | None) -> Iterator[Step]:
    """COMMENT ON, when there is a comment. Lock: SHARE UPDATE EXCLUSIVE on the object."""
    if text is not None:
        yield Step(
            f"Keep the comment of {what}",
            sql.SQL("COMMENT ON {} IS {}").format(on, sql.Literal(text)),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )
