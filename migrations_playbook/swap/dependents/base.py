"""A dependent as the swap sees one: data, and the steps to carry the object over.

A kind of dependent is a module in `own` or `readers` with a `KIND`, and a row in `kinds`: how its
objects are read, and a stamp that shows a change of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from psycopg import sql

from migrations_playbook.postgres.names import spell_names
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.pair import Object, Pair

if TYPE_CHECKING:
    from migrations_playbook.swap.dependents.definitions.reading import Reading


@dataclass(frozen=True)
class Steps:
    """The statements to carry a dependent over, by when they are run.

    Arguments:
        build: before the exchange, outside a transaction, blocking no read and no write; and those
            with a strong lock, each in a transaction of its own and boundedly.
        trial: before the exchange, queries; none may find a row.
        prove: before the exchange, each in a transaction of its own.
        undo: takes the proof back when the rows do not pass.
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
        table: the table, or the partition with such an index of its own.
        columns: the columns' names.
    """

    table: sql.Identifier
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Unique:
    """The demand of a unique index: the key differs in all rows of the index.

    Arguments:
        table: the table, or the partition with such an index of its own.
        key: its columns and expressions, as PostgreSQL writes them.
        predicate: which rows the index has; None for all.
    """

    table: sql.Identifier
    key: tuple[str, ...]
    predicate: str | None


@dataclass(frozen=True)
class Dependent:
    """An object bound to a live or a shadow column by attribute number.

    Arguments:
        kind: "index", "view" and so on, for a person.
        name: the object's name, as a person would look it up.
        how: the manner of the binding, for a person.
        columns: which of the columns the object is bound to.
        covers: the objects of the catalog for which this dependent stands.
        steps: the statements to carry the object over; None where the object may stay.
        refused: why the swap cannot carry the object over, with the remedy; None when the swap can.
        stand_in: the address of another object that takes the place of this object after the
            exchange; see `sameness`.
        renewal: the steps to make a refused object good again, where copies may be built anew.
        rest: the steps of the last exchange that an interrupted run has left undone.
        holds_copies: whether the object holds copies of values.
        unique_on: for a unique index, the demand of its twin.
        whole_key: for a whole unique index on a live column, its key.
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
    rest: tuple[Step, ...] = ()
    holds_copies: bool = False
    unique_on: Unique | None = None
    whole_key: Key | None = None

    @property
    def action(self) -> str:
        """Say in a few words how the swap treats the object."""
        if self.refused is not None:
            return "refused"
        return "left as it is" if self.steps is None else "carried over"

    @property
    def prepared(self) -> bool:
        """Tell whether nothing need be built or proven before the exchange."""
        return self.steps is None or not (self.steps.build or self.steps.prove)

    def renewed(self) -> Dependent:
        """Build the same dependent for a swap that may build copies anew."""
        if self.renewal is None:
            return self
        return replace(self, refused=None, steps=self.renewal)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def as_json(self) -> dict[str, str | None]:
        """Build the form in which the commands print the dependent with --json."""
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
            whenever somebody writes the object. The query may read `relation (oid)`, the table with
            its partitions, and `bound (classid, objid)`, the objects that pg_depend binds to them.
            None where the stamps of the columns and of pg_depend itself tell enough.
        for_another_type: whether there are such objects only where the exchange changes the type.
    """

    read: Callable[[Reading], Iterator[Dependent]]
    stamp: sql.Composable | None = None
    for_another_type: bool = False


def describe_columns(pair: Pair, names: Iterable[str]) -> str:
    """Say which of the columns an object is bound to, `on token`; the older column first."""
    older_first = sorted(set(names), key=lambda name: pair.table.columns[name].number)
    return f"on {spell_names(older_first)}" if older_first else "through a view"


def comment_steps(what: str, on: sql.Composable, text: str | None) -> Iterator[Step]:
    """Yield COMMENT ON, where there is a comment. Lock: SHARE UPDATE EXCLUSIVE on the object."""
    if text is not None:
        yield Step(
            f"Keep the comment of {what}",
            sql.SQL("COMMENT ON {} IS {}").format(on, sql.Literal(text)),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def without_semicolon(text: str) -> str:
    """Return a query or a rule as PostgreSQL writes it, without the semicolon at its end."""
    return text.rstrip().removesuffix(";")


def with_options(options: list[str]) -> sql.Composable:
    """Build the WITH clause with a relation's options; empty without any."""
    if not options:
        return sql.SQL("")
    pairs = [option.split("=", 1) for option in options]
    return sql.SQL(" WITH ({})").format(
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
            for name, value in pairs
        )
    )
