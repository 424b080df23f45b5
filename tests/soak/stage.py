"""What a history needs: a table of its own, sessions, what the site has in memory, the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import ClassVar
from uuid import UUID

import psycopg
from django.core.management import CommandError, call_command
from django.db import IntegrityError, models, transaction
from django.db.migrations.loader import MigrationLoader
from hypothesis.stateful import RuleBasedStateMachine
from psycopg import sql

from tests.fixtures.database import Database
from tests.soak.oracle import Oracle, Row, Rows, insist

# The columns that a release writes: N and N+2, and N+1.
OLD = ("token", "redeemed_at")
BOTH = ("token", "redeemed_at", "new_token")
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


class Undo(Exception):
    """Rolls a savepoint back."""


def instant(note: int) -> datetime:
    return EPOCH + timedelta(seconds=note)


def old_model() -> type[models.Model]:
    """The ticket of release N, which knows no shadow."""
    state = MigrationLoader(None).project_state(("tickets", "0001_initial"))
    return state.apps.get_model("tickets", "Ticket")


class Stage(RuleBasedStateMachine):
    """One table, two sessions, the objects that the site has in memory, and the oracle.

    Arguments:
        template: the database that each history starts from, a copy of.
        made: how many steps of each kind all histories have made.
    """

    template: ClassVar[str]
    made: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.databases = Database.temporary(template=self.template)
        self.database = next(self.databases)
        self.session = self.database.connect(autocommit=True)
        self.oracle = Oracle()
        self.stale: list[tuple[models.Model, tuple[str, ...]]] = []
        self.notes = 0
        self.values = 0
        self.contracted = False
        self.killed = False

    def play(self, *command: str) -> int:
        """Run a command; return its exit code. Anything but a sentence is a traceback."""
        code = self.run_command(*command)
        Stage.made[f"{' '.join(each for each in command if '=' not in each)}: {code}"] += 1
        return code

    def run_command(self, *command: str) -> int:
        said = StringIO()
        try:
            call_command(*command, stdout=said, stderr=said)
        except CommandError as error:
            self.keeps_silent(f"{said.getvalue()} {error}")
            return error.returncode
        self.keeps_silent(said.getvalue())
        return 0

    def keeps_silent(self, text: str) -> None:
        told = [value for value in self.oracle.seen if str(value) in text or value.hex in text]
        insist(not told, "a command has said a value")

    def update(self, pk: int | None, values: dict[str, UUID], *, undone: bool) -> None:
        if pk is None:
            return
        note = self.note()
        every = {**values, "redeemed_at": instant(note)}
        statement = sql.SQL("UPDATE tickets_ticket SET {} WHERE id = %s").format(
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(column), sql.Literal(value))
                for column, value in every.items()
            )
        )
        live, other = values.get("token"), values.get("new_token")
        refusable = self.oracle.may_refuse(live, pk, other)
        if self.write(
            lambda: self.session.execute(statement, [pk]).rowcount,
            refusable=refusable,
            undone=undone,
        ):
            self.oracle.update(pk, live=live, other=other, note=note)
        self.compare()

    def write(
        self, action: Callable[[], int | None], *, refusable: bool, undone: bool
    ) -> int | None:
        """Write in a transaction, or in a savepoint that is rolled back.

        Returns:
            What the action returns; None if nothing was written.
        """
        try:
            with self.session.transaction(), transaction.atomic():
                done = self.in_savepoint(action, undone=undone)
        except (IntegrityError, psycopg.IntegrityError) as error:
            cause = error.__cause__ or error
            insist(isinstance(cause, psycopg.errors.UniqueViolation), f"refused: {type(cause)}")
            insist(refusable, "a write was refused whose value is neither taken nor leaked")
            Stage.made[f"refused write while {self.oracle.stands}"] += 1
            return None
        if undone:
            Stage.made[f"undone write while {self.oracle.stands}"] += 1
            return None
        if done is None:
            insist(refusable, "a row was left out whose value is neither taken nor leaked")
        Stage.made[f"write while {self.oracle.stands}"] += 1
        return done

    def in_savepoint(self, action: Callable[[], int | None], *, undone: bool) -> int | None:
        with suppress(Undo), self.session.transaction(), transaction.atomic():
            done = action()
            if undone:
                raise Undo
            return done
        return None

    def value(self, which: int | None) -> UUID:
        """A value that was there before, or a new one."""
        if which is None or not self.oracle.seen:
            self.values += 1
            return UUID(int=self.values)
        # What has leaked and left its column is what is most easily forgotten.
        gone = [each for each in self.oracle.seen if each in self.oracle.gone]
        values = gone if gone and which % 2 else self.oracle.seen
        return values[which // 2 % len(values)]

    def note(self) -> int:
        self.notes += 1
        return self.notes

    def pick(self, which: int) -> int | None:
        ids = sorted(self.oracle.rows)
        return ids[which % len(ids)] if ids else None

    def model(self, release: tuple[str, ...]) -> type[models.Model]:
        from tickets.models import Ticket  # noqa: PLC0415 - Django is set up by then

        return Ticket if release == BOTH else old_model()

    def read(self) -> Rows:
        """Read the whole table."""
        shadow = "new_token" if self.oracle.has_shadow else "NULL::uuid"
        return {
            pk: Row(live, other, round((at - EPOCH).total_seconds()))
            for pk, live, other, at in self.session.execute(
                f"SELECT id, token, {shadow}, redeemed_at FROM tickets_ticket"  # noqa: S608
            )
        }

    def is_swapped(self) -> bool:
        row = self.session.execute(
            "SELECT max(attnum) FILTER (WHERE attname = 'token') > "
            "max(attnum) FILTER (WHERE attname = 'new_token') "
            "FROM pg_attribute WHERE attrelid = 'tickets_ticket'::regclass"
        ).fetchone()
        return row is not None and row[0] is True

    def compare(self) -> None:
        self.oracle.compare(self.read())
