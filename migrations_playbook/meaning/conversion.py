"""The meaning of a conversion: two columns kept in step, each made from the other.

*Up* makes the shadow's value of the live one, *down* the other way round; without a way down, a
revert has an end. `sync` has the triggers.

Two columns have two orders: by name (live, shadow) and by type (the older column's, the newer
one's). Up is always of the older column, whatever its name is now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.meaning.base import Meaning, Words, read_declared
from migrations_playbook.meaning.catalog import count_disagreements, find_later_trigger
from migrations_playbook.meaning.expressions import BYTEWISE, SOURCE, compose_text, keeps_null
from migrations_playbook.meaning.sync import (
    CAREFUL,
    FILLING,
    PLAIN,
    Maker,
    SyncInsertTrigger,
)
from migrations_playbook.postgres.query import execute, set_locals, taken_back
from migrations_playbook.postgres.steps import Step
from migrations_playbook.postgres.tables import Column, Table
from migrations_playbook.quarantine import setup
from migrations_playbook.quarantine.base import Quarantine
from migrations_playbook.trigger_sql import SYNC_SETTINGS

# What a value that cannot be converted raises: of a cast, of somebody's function, of a domain.
UNCONVERTIBLE = (pg_errors.DataError, pg_errors.RaiseException, pg_errors.CheckViolation)
# The names of two functions of a transaction's own; see `Conversion.make_safe`.
SAFE = {way: sql.Identifier("pg_temp", f"migrations_playbook_{way}") for way in ("up", "down")}


@dataclass(frozen=True)
class Conversion(Meaning):
    """The meaning of `Shadow(up=..., down=...)`."""

    words: ClassVar[Words] = Words(
        retired="old values",
        made="Converted values",
        expression="up expression",
        without_trigger="the columns fall out of step",
    )
    keeps_out: ClassVar[bool] = False
    may_leave_rows: ClassVar[bool] = True

    @property
    def up(self) -> Maker:
        """The way from the older column to the newer one."""
        return Maker.of(self.model, self.declaration, "up")

    @property
    def down(self) -> Maker:
        """The way back."""
        return Maker.of(self.model, self.declaration, "down")

    @property
    def to_do(self) -> sql.Composable:
        """The condition under which a row is still to be converted.

        Where up is null of a null alone, null says it. Elsewhere the row is compared.
        """
        if keeps_null(self.declaration.up):
            return super().to_do
        return compose_text(
            f"(NOT ({self.up.explains(self.shadow.as_string(None), self.live.as_string(None))}))"
        )

    @property
    def assigned(self) -> sql.Composable:
        """What up makes of the live column."""
        return compose_text(self.up(self.live.as_string(None)))

    @property
    def evaluated(self) -> tuple[sql.Composable, ...]:
        """Both ways, each of its column."""
        return self.assigned, compose_text(self.down(self.shadow.as_string(None)))

    @property
    def batch_settings(self) -> Mapping[str, str]:
        """The settings of a batch: the trigger's own, and no need to follow the batch."""
        return {**SYNC_SETTINGS, FILLING: PLAIN}

    @property
    def careful_settings(self) -> Mapping[str, str]:
        """The settings of a batch whose rows the trigger converts one by one."""
        return {**SYNC_SETTINGS, FILLING: CAREFUL}

    def is_exchanged(self, table: Table) -> bool:
        """Tell whether the names are exchanged: never where the column moves, whatever its number.

        A contract that was taken back has added the live column anew, behind its shadow.
        """
        return not self.declaration.moves and super().is_exchanged(table)

    def tolerates(self, error: BaseException | None) -> bool:
        """Tell whether a value that cannot be converted raised an error."""
        return isinstance(error, UNCONVERTIBLE)

    def find_later_trigger(self, connection: BaseDatabaseWrapper, table: Table) -> str | None:
        """Find a trigger that fires after the sync and may write the columns; in a sentence."""
        return find_later_trigger(connection, table, self.column_names, self.trigger_names)

    def count_disagreements(self, connection: BaseDatabaseWrapper, table: Table) -> int:
        """Count the writes of both columns that did not agree."""
        return count_disagreements(connection, table, self.trigger_names)

    def is_outdated(self, installed: str) -> bool:
        """Tell whether a sync trigger converts in another way than the model declares."""
        found = read_declared(installed)
        mine = read_declared(SyncInsertTrigger(self.declaration).get_func(self.model))
        return bool(found) and found != mine

    def steps_before(
        self, quarantine: Quarantine, staying: Iterable[str], *, revert: bool
    ) -> list[Step]:
        """Note what the swap leaves where it is; the sync's function bears the note. Lock: none."""
        function = quarantine.bound.others.get(self.trigger_names[0])
        names = [] if revert else [*staying]
        if function is None or not (names or quarantine.bound.staying):
            return []
        return setup.note_staying(sql.Identifier(*function), names)

    def steps_after(self, quarantine: Quarantine, *, revert: bool) -> list[Step]:
        """Build nothing: the sync triggers are the same for either name."""
        return []

    @contextmanager
    def safely(self, connection: BaseDatabaseWrapper, table: Table) -> Iterator[None]:
        """Open a transaction to read in, with the two functions; see `make_safe`.

        Lock: none.
        """
        with taken_back(connection):
            self.make_safe(connection, table)
            yield

    def make_safe(self, connection: BaseDatabaseWrapper, table: Table) -> None:
        """Make two functions that give null where a value cannot be converted.

        They are the session's own, and go with the transaction when that is rolled back. (Since
        PostgreSQL 16 pg_input_is_valid() could tell, of a cast alone.)

        Lock: none.

        Arguments:
            connection: in a transaction.
            table: with both columns.
        """
        set_locals(connection, SYNC_SETTINGS)
        columns = [table.columns[each] for each in self.column_names]
        older, newer = reversed(columns) if self.is_exchanged(table) else columns
        for way, maker, source, target in (
            ("up", self.up, older, newer),
            ("down", self.down, newer, older),
        ):
            execute(connection, create_safe(SAFE[way], maker("source"), source.type, target.type))

    def out_of_step(self, table: Table) -> sql.Composable:
        """Compose the condition of a row that neither way explains; see `make_safe`.

        What cannot be converted leaves null on the other side, and is in step.
        """
        live, shadow = self.column_names
        older, newer = (shadow, live) if self.is_exchanged(table) else (live, shadow)
        return sql.SQL("""(
            CASE WHEN {newer} IS NOT DISTINCT FROM {up}({older}){like_newer} THEN false
                 WHEN {older} IS NOT DISTINCT FROM {down}({newer}){like_older} THEN false
                 ELSE true END)""").format(
            older=sql.Identifier(older),
            newer=sql.Identifier(newer),
            like_newer=sql.SQL(self.up.collation),
            like_older=sql.SQL(self.down.collation),
            **SAFE,
        )

    def has_no_way(self, table: Table) -> sql.Composable:
        """Compose the condition of a row whose live value cannot be converted; see `make_safe`.

        While the columns are exchanged, a value that was made of the retired one needs no way back.
        """
        if self.is_exchanged(table):
            return sql.SQL(
                "({live} IS DISTINCT FROM {up}({shadow}){like} AND {down}({live}) IS NULL)"
            ).format(live=self.live, shadow=self.shadow, like=sql.SQL(self.up.collation), **SAFE)
        return sql.SQL("({live} IS NOT NULL AND {up}({live}) IS NULL)").format(
            live=self.live, **SAFE
        )

    def remade(self, table: Table) -> sql.Composable:
        """Compose what the column under the shadow name should be; see `make_safe`."""
        way = "down" if self.is_exchanged(table) else "up"
        return sql.SQL("{}({})").format(SAFE[way], self.live)


def create_safe(name: sql.Identifier, text: str, source: str, target: str) -> sql.Composed:
    """Compose a function that goes a way, and gives null where a value cannot be converted.

    Arguments:
        name: the function's name, with its schema.
        text: the expression, of a column called `source`.
        source: the type of the values that are converted.
        target: the type of the values that are made.
    """
    body = f"""
        DECLARE made {target};
        BEGIN
            made := {text};
            RETURN made;
        EXCEPTION WHEN OTHERS THEN
            RETURN NULL;
        END"""
    return sql.SQL(
        "CREATE FUNCTION {name}(source {source}) RETURNS {target} LANGUAGE plpgsql AS {body}"
    ).format(name=name, source=sql.SQL(source), target=sql.SQL(target), body=sql.Literal(body))


def make_explanation(
    connection: BaseDatabaseWrapper, way: str, text: str, source: Column, target: Column
) -> sql.Composed:
    """Make the function that goes a way, and compose the condition that it explains a value.

    Lock: none.

    Arguments:
        way: "up" or "down".
        text: the expression, as the trigger's function says it.
        source: the column that is converted.
        target: the column whose values are made.
    """
    expression = text.replace(SOURCE, "source")
    execute(connection, create_safe(SAFE[way], expression, source.type, target.type))
    bytewise = sql.SQL(BYTEWISE if target.collation else "")
    return sql.SQL("{} IS NOT DISTINCT FROM {}({}){}").format(
        target.identifier, SAFE[way], source.identifier, bytewise
    )


def drop_safe(connection: BaseDatabaseWrapper) -> None:
    """Drop the functions of both ways, before a commit. Lock: none on any table."""
    for function in SAFE.values():
        execute(connection, sql.SQL("DROP FUNCTION {}").format(function))
