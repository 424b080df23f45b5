"""What a dependent is to the swap: data, and the steps that carry it over.

A kind of dependent is a module beside this one with a `KIND`, and a row in `kinds`: how its objects
are read, and a stamp by which a change of them is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from psycopg import sql

from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.pair import Object, Pair

if TYPE_CHECKING:
    from migrations_playbook.swap.dependents.reading import Reading


@dataclass(frozen=True)
class Steps:
    """The statements that carry a dependent over, by when they are run.

    Arguments:
        build: before the exchange, outside a transaction, blocking no read and no write; and those
            with a strong lock, each in a transaction of its own and boundedly.
        trial: before the exchange, queries that must find no row.
        prove: before the exchange, each in a transaction of its own.
        undo: what takes the proof back when the rows do not pass it.
        locked_before: locks on other relations, taken before the table's own lock, in the order in
            which a reader takes them.
        before_rename: in the exchange, before the names change.
        after_rename: in the exchange, after the names have changed.
        last: in the exchange, when everything else is done.
        follow_up: after the exchange is committed, blocking no read and no write.
    """

    build: tuple[Step, ...] = ()
    trial: tuple[Step, ...] = ()
    prove: tuple[Step, ...] = ()
    undo: tuple[Step, ...] = ()
    locked_before: tuple[Step, ...] = ()
    before_rename: tuple[Step, ...] = ()
    after_rename: tuple[Step, ...] = ()
    last: tuple[Step, ...] = ()
    follow_up: tuple[Step, ...] = ()

    @classmethod
    def together(cls, parts: Iterable[Steps]) -> Steps:
        """Put the steps of several dependents together, moment by moment, in their order."""
        several = list(parts)
        return cls(
            **{
                moment.name: tuple(step for each in several for step in getattr(each, moment.name))
                for moment in fields(cls)
            }
        )


@dataclass(frozen=True)
class Key:
    """The columns whose values together must differ.

    Arguments:
        table: the table, or the partition that has such an index of its own.
        columns: the columns' names.
    """

    table: sql.Identifier
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Unique:
    """What a unique index demands: that these differ in all rows that it has.

    Arguments:
        table: the table, or the partition that has such an index of its own.
        key: its columns and expressions, as PostgreSQL writes them.
        predicate: which rows it has; None for all.
    """

    table: sql.Identifier
    key: tuple[str, ...]
    predicate: str | None


@dataclass(frozen=True)
class Dependent:
    """One object that is bound to the live or the shadow column by attribute number.

    Arguments:
        kind: "index", "view" and so on, for a person.
        name: the object's name, as a person would look it up.
        how: the manner in which it is bound, for a person.
        columns: which of the two columns it is bound to.
        covers: the objects of the catalog that this one stands for.
        steps: the statements that carry it over; None for what may stay where it is.
        refused: why the swap cannot carry it over, and what to do; None when the swap can.
        stand_in: the address of the object that takes this one's place after the exchange, where
            it is another; see `sameness`.
        renewal: the steps that make a refused one good again, where copies may be built anew.
        unique_on: for a unique index, what its twin demands.
        unique_beside: for a whole unique index on the live column, the other columns of its key.
    """

    kind: str
    name: str
    how: str
    columns: frozenset[str] = frozenset()
    covers: frozenset[Object] = frozenset()
    steps: Steps | None = None
    refused: str | None = None
    stand_in: str = ""
    renewal: Steps | None = None
    unique_on: Unique | None = None
    unique_beside: Key | None = None

    @property
    def action(self) -> str:
        """What the swap does about the object, in a few words."""
        if self.refused is not None:
            return "refused"
        return "left as it is" if self.steps is None else "carried over"

    @property
    def prepared(self) -> bool:
        """Whether nothing need be built or proven before the exchange."""
        return self.steps is None or not (self.steps.build or self.steps.prove)

    def renewed(self) -> Dependent:
        """The same where copies may be built anew."""
        if self.renewal is None:
            return self
        return replace(self, refused=None, steps=self.renewal)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def as_json(self) -> dict[str, str | None]:
        """The dependent as the commands print it with --json."""
        return {
            "kind": self.kind,
            "name": self.name,
            "how": self.how,
            "action": self.action,
            "why": self.refused,
        }


@dataclass(frozen=True)
class DependentKind:
    """A kind of dependent; `kinds` lists them in the order in which the exchange carries them over.

    Arguments:
        read: yields the dependents of this kind.
        stamp: a query of one text column: a line for each object of this kind, which changes
            whenever somebody writes the object. In it `relation (oid)` is the table with its
            partitions, and `bound (classid, objid)` what pg_depend binds to them. None where
            the stamps of the columns and of pg_depend itself tell enough.
    """

    read: Callable[[Reading], Iterator[Dependent]]
    stamp: sql.SQL | None = None


def describe_columns(pair: Pair, names: Iterable[str]) -> str:
    """Say which of the two columns an object is bound to, `on token`; the older column first."""
    older_first = sorted(set(names), key=lambda name: pair.table.columns[name].number)
    return "on " + " and ".join(older_first)


def comment_steps(what: str, on: sql.Composable, text: str | None) -> Iterator[Step]:
    """Yield COMMENT ON, where there is a comment. Lock: SHARE UPDATE EXCLUSIVE on the object."""
    if text is not None:
        yield Step(
            f"Keep the comment of {what}",
            sql.SQL("COMMENT ON {} IS {}").format(on, sql.Literal(text)),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )
