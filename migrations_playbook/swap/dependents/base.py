"""What each kind of dependent is to the swap: data, and the steps that carry it over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from psycopg import sql

from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.pair import Pair

# A catalog and an oid in it: how pg_depend names an object.
Object = tuple[str, int]


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
    older_first = sorted(set(names), key=lambda name: pair.table.columns[name].number)
    return "on " + " and ".join(older_first)


def comment(what: str, on: sql.Composable, text: str | None) -> Iterator[Step]:
    """COMMENT ON, when there is a comment. Lock: SHARE UPDATE EXCLUSIVE on the object."""
    if text is not None:
        yield Step(
            f"Keep the comment of {what}",
            sql.SQL("COMMENT ON {} IS {}").format(on, sql.Literal(text)),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )
