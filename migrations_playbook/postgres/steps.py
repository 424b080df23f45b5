"""A statement that changes something, as data: its purpose, its SQL, and its lock.

The plays make lists of such steps. A dry run prints them, a play runs them, and the page on locks
is written from them: the documented steps are the steps that are run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.errors import LockNotAvailable, TryAgain
from migrations_playbook.postgres.failures import CHANGED
from migrations_playbook.postgres.holders import Holder, read_blockers
from migrations_playbook.postgres.query import (
    as_text,
    engine_transaction,
    execute,
    execute_alone,
    taken_back,
)
from migrations_playbook.postgres.sessions import Session, lift_timeouts

# Between two looks at whom a build waits for, in seconds.
LOOK_EVERY = 0.2


class Lock(StrEnum):
    """A table lock, by its name in PostgreSQL."""

    NONE = "none"
    ACCESS_SHARE = "ACCESS SHARE"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    SHARE = "SHARE"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"

    @property
    def blocks_writes(self) -> bool:
        """Whether writers would queue behind a request for the lock, so requests are bounded."""
        return self in (Lock.SHARE, Lock.SHARE_ROW_EXCLUSIVE, Lock.ACCESS_EXCLUSIVE)


@dataclass(frozen=True)
class Step:
    """A statement of a play.

    Arguments:
        what: its purpose, as a short imperative.
        statement: the SQL.
        lock: the statement's lock on the table.
        on: the locked table, when a single partition.
        seized: whether the table is to be seized all the same: for a lock on an index, say, at
            which the planners of other sessions look.
        concurrent: whether PostgreSQL runs the statement in no transaction, and waits for older
            transactions itself.
        as_session: whether the statement runs somebody's code, which finds its names along the
            session's own search_path.
    """

    what: str
    statement: sql.Composable
    lock: Lock
    on: sql.Identifier | None = None
    seized: bool = False
    concurrent: bool = False
    as_session: bool = False

    @property
    def is_strong(self) -> bool:
        """Whether others would queue behind the step, so the table must be seized boundedly."""
        return self.seized or self.lock.blocks_writes

    @property
    def text(self) -> str:
        """The SQL on as few lines as in the source, ready to be pasted into psql."""
        lines = self.statement.as_string(None).strip().splitlines()
        return "\n".join(line.rstrip() for line in lines) + ";"


def run_steps(connection: BaseDatabaseWrapper, steps: Iterable[Step]) -> None:
    """Run steps in order, in a single message: a round trip each would lengthen the locks.

    Lock: as each step says.

    Arguments:
        connection: in a transaction; no step may run without.
    """
    run_together(connection, spell_together(connection, steps))


def spell_together(connection: BaseDatabaseWrapper, steps: Iterable[Step]) -> str:
    """Write steps as a single message: written before a lock, it costs the lock nothing."""
    return as_text(connection, sql.SQL(";\n").join(step.statement for step in steps))


def run_together(connection: BaseDatabaseWrapper, message: str) -> None:
    """Run a message of steps; leave no step behind where one of them fails.

    Lock: as each step says.

    Arguments:
        connection: in a transaction.
        message: see `spell_together`.
    """
    if message:
        # In the message, the savepoint takes no round trip.
        execute(connection, sql.SQL(f"SAVEPOINT steps;\n{message};\nRELEASE SAVEPOINT steps"))


def undo_together(connection: BaseDatabaseWrapper) -> None:
    """Take back a message of steps that has failed, so that the transaction can go on."""
    execute(connection, sql.SQL("ROLLBACK TO SAVEPOINT steps"))


def run_concurrently(
    connection: BaseDatabaseWrapper, step: Step, *, application: str, patience_ms: int
) -> Iterator[Holder]:
    """Run a concurrent step in a session of its own; yield each transaction in its way.

    The settings for the site's requests do not cut the step short. When this generator is closed,
    the statement is cancelled.

    Lock: as the step says.

    Arguments:
        application: the session's name in pg_stat_activity.
        patience_ms: how long the step may wait for an older transaction, in milliseconds.

    Raises:
        LockNotAvailable: an older transaction has not ended in time; names it.
        TryAgain: another session has built the same, or wanted the same locks.
    """

    def work(own: BaseDatabaseWrapper) -> None:
        lift_timeouts(own, lock_timeout_ms=patience_ms)
        execute_alone(own, step.statement)

    session = Session(connection.alias, application, work)
    blockers: list[Holder] = []
    seen: set[str] = set()
    session.start()
    try:
        while session.is_alive():
            session.join(LOOK_EVERY)
            blockers = (session.pid and read_blockers(connection, session.pid)) or blockers
            for each in blockers:
                if (who := each.name) not in seen:
                    seen.add(who)
                    yield each
    finally:
        session.end()
    if session.error is not None:
        raise _explain_build(step, session.error, blockers)


def _explain_build(step: Step, error: BaseException, blockers: Sequence[Holder]) -> BaseException:
    """Build the refusal for a concurrent step that failed because of somebody else."""
    cause, sentence = error.__cause__, f"{step.what}: this was not done"
    again = "What was begun is built anew by the same command: run it again"
    if isinstance(cause, pg_errors.LockNotAvailable | pg_errors.QueryCanceled):
        named = "; ".join(map(str, blockers)) or "transactions that have ended by now"
        return LockNotAvailable(
            f"{sentence}, because it waits for every older transaction: {named}. {again} when they "
            "have ended."
        )
    if isinstance(cause, (pg_errors.DeadlockDetected, *CHANGED)):
        return TryAgain(f"{sentence}, because another session is at work on the same. {again}.")
    return error


def find_failing_step(
    connection: BaseDatabaseWrapper, steps: Iterable[Step]
) -> tuple[Step, DatabaseError] | None:
    """Run steps singly until a step fails; undo all of them.

    The error of a message does not say which of its statements has failed.

    Lock: as each step says.

    Arguments:
        connection: in a transaction, which goes on afterwards.
    """
    found = None
    with taken_back(connection):
        for step in steps:
            try:
                with engine_transaction(connection):
                    execute(connection, step.statement)
            except DatabaseError as error:
                found = step, error
                break
    return found
