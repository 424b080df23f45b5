"""What each kind of dependent is to the swap: data, and the steps that carry it over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook import quarantine
from migrations_playbook.catalog import Column, Table
from migrations_playbook.database import fetch_value, name_of
from migrations_playbook.shadow import BoundShadow
from migrations_playbook.steps import Lock, Step

# A catalog and an oid in it: how pg_depend names an object.
Object = tuple[str, int]


@dataclass(frozen=True)
class Pair:
    """The two columns that are to be exchanged, as they stand before it.

    Arguments:
        bound: the declaration.
        found: the table.
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
    def numbers(self) -> list[int]:
        return [self.live.number, self.shadow.number]

    @property
    def table(self) -> sql.Identifier:
        return self.found.identifier

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
        """An ALTER TABLE of the table."""
        return Step(what, sql.SQL("ALTER TABLE {} {}").format(self.table, action), lock)

    def alter_column(self, what: str, column: str, action: sql.Composable) -> Step:
        """An ALTER COLUMN of the table. Lock: ACCESS EXCLUSIVE."""
        return self.alter_table(
            what, sql.SQL("ALTER COLUMN {} {}").format(sql.Identifier(column), action)
        )


@dataclass(frozen=True)
class Dependent:
    """One object that is bound to the live or the shadow column by attribute number.

    Arguments:
        kind: "index", "view" and so on.
        name: its name, as a person would look it up.
        how: how it is bound, in a few words.
        covers: the objects of the catalog that this one stands for.
        refused: why the swap cannot carry it over, and what to do; None when it can.
        build: steps before the exchange, outside a transaction; they block no read and no write.
        prove: steps before the exchange, each in a transaction of its own.
        lock_first: steps that lock another relation; taken before the table's own lock, in the
            order in which a reader takes them.
        take: steps in the exchange, before the names change.
        give: steps in the exchange, after the names have changed.
        after: steps after the exchange is committed; they block no read and no write.
        unique_on: for a unique index, the columns whose values together must differ.
        moves: whether the swap does anything about it; False for what may stay where it is.
    """

    kind: str
    name: str
    how: str
    covers: frozenset[Object] = frozenset()
    refused: str | None = None
    build: tuple[Step, ...] = ()
    prove: tuple[Step, ...] = ()
    lock_first: tuple[Step, ...] = ()
    take: tuple[Step, ...] = ()
    give: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    unique_on: tuple[str, ...] = field(default=())
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


def how_bound(pair: Pair, numbers: list[int]) -> str:
    """`on token`: which of the two columns an object is bound to."""
    names = {pair.live.number: pair.bound.live, pair.shadow.number: pair.bound.shadow}
    return "on " + " and ".join(names[each] for each in sorted(set(numbers)) if each in names)


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
