"""A statement that changes something, as data: what it is for, its SQL, and the lock it takes.

The plays make lists of these. A dry run prints them, a play runs them, and the page on locks is
written from them: what is documented is what is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import execute


class Lock(StrEnum):
    """A table lock, and what it keeps out."""

    NONE = "none"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"


@dataclass(frozen=True)
class Step:
    """One statement.

    Arguments:
        what: what it is for, as a short imperative.
        statement: the SQL.
        lock: the lock that it takes on the table.
        on: the table that it locks, when that is one partition alone.
    """

    what: str
    statement: sql.Composable
    lock: Lock
    on: sql.Identifier | None = None

    @property
    def text(self) -> str:
        """The SQL on as few lines as it was written with, ready to be pasted into psql."""
        lines = self.statement.as_string(None).strip().splitlines()
        return "\n".join(line.rstrip() for line in lines) + ";"


def run(connection: BaseDatabaseWrapper, steps: Iterable[Step]) -> None:
    """Run steps in order, in one message: their locks are held while an answer is waited for.

    Lock: what each step says.

    Arguments:
        connection: in a transaction, which none of them may be without.
    """
    statements = [step.statement for step in steps]
    if statements:
        execute(connection, sql.SQL(";\n").join(statements))


def rename_steps(table: sql.Identifier, live: str, shadow: str, between: str) -> list[Step]:
    """Exchange two columns' names, by way of a third.

    Lock: ACCESS EXCLUSIVE on the table.

    Arguments:
        between: a name that no column has.
    """
    return [
        Step(
            f"Rename {old} to {new}",
            sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
                table, sql.Identifier(old), sql.Identifier(new)
            ),
            Lock.ACCESS_EXCLUSIVE,
        )
        for old, new in ((live, between), (shadow, live), (between, shadow))
    ]
