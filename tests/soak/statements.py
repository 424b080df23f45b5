"""Looks over a play's shoulder: something happens before a statement of its sessions."""

from __future__ import annotations

import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from tests.fixtures.database import Database

# Parts of a text that differ from run to run: Django's savepoints are counted, and objects that are
# made anew have other numbers.
PASSING = re.compile(r'"s\d+_x\d+"|\b\d{4,}\b')
# Called before each statement, with its connection and its text.
Look = Callable[[BaseDatabaseWrapper, str], None]


@contextmanager
def before_each_statement(look: Look) -> Iterator[None]:
    """Within this context `look` is called before each statement of this process's Django sessions.

    A COMMIT is a statement too. Sessions of this thread are opened anew, before and after.
    """
    # Any: the type of Django's wrapper has no `_commit`.
    watched: list[Any] = []

    def execute(
        run: Callable[..., Any],
        text: str,
        params: Any,
        many: bool,  # noqa: FBT001 - as Django calls a wrapper
        context: Any,
    ) -> Any:
        look(context["connection"], str(text))
        return run(text, params, many, context)

    def watch(connection: Any, **_: object) -> None:
        if any(connection is each for each in watched):
            return
        watched.append(connection)
        connection.execute_wrappers.append(execute)
        commit = connection._commit

        def look_and_commit() -> None:
            look(connection, "COMMIT")
            commit()

        connection._commit = look_and_commit

    close_sessions()
    connection_created.connect(watch)
    try:
        yield
    finally:
        connection_created.disconnect(watch)
        close_sessions()
        for each in watched:
            each.execute_wrappers.remove(execute)
            del each._commit


def close_sessions() -> None:
    """Close the sessions of this thread."""
    for each in connections.all(initialized_only=True):
        each.close()


class Killer:
    """Ends sessions, from a session of its own."""

    def __init__(self, database: Database) -> None:
        self.session = database.connect(autocommit=True)

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def end(self, connection: BaseDatabaseWrapper) -> None:
        """End a session, and wait until its transaction is rolled back."""
        pid = [connection.connection.info.backend_pid]
        self.session.execute("SELECT pg_terminate_backend(%s)", pid)
        # Not by its second argument, which looks ten times a second.
        while self.session.execute("SELECT FROM pg_stat_activity WHERE pid = %s", pid).rowcount:
            pass


@contextmanager
def session_ended(database: Database, at: int | None) -> Iterator[None]:
    """Within this context the session that runs the n-th statement is ended before it, once.

    Arguments:
        at: the n; None ends no session.
    """
    if at is None:
        yield
        return
    numbers = itertools.count(1)
    with Killer(database) as killer:

        def look(connection: BaseDatabaseWrapper, text: str) -> None:
            if next(numbers) == at:
                killer.end(connection)

        with before_each_statement(look):
            yield


class Disturber:
    """Disturbs a play once a run, each time at another statement, until none is left.

    A run goes on where the one before was disturbed: what that has prepared is not done again. A
    statement is told by its text, and by how often the run has had the text before; a COMMIT by the
    statement that it follows.

    Arguments:
        disturb: what happens before the statement, given its connection.
        often: how many times of the same text in a run are told apart.
        every: of how many statements one is disturbed.
    """

    def __init__(
        self,
        disturb: Callable[[BaseDatabaseWrapper], object],
        *,
        often: int = 1,
        every: int = 1,
    ) -> None:
        self.disturb = disturb
        self.often = often
        self.every = every
        self.tried: set[tuple[str, int]] = set()
        self.at = ""
        self._lock = threading.Lock()
        self._times: Counter[str] = Counter()
        self._before: dict[int, str] = {}

    @contextmanager
    def once(self) -> Iterator[None]:
        """Within this context a statement is disturbed before which nothing was yet; see `at`."""
        self.at = ""
        self._times.clear()
        self._before.clear()
        with before_each_statement(self._look):
            yield

    def _look(self, connection: BaseDatabaseWrapper, text: str) -> None:
        text = PASSING.sub("", text)
        with self._lock:
            if text == "COMMIT":
                text += f" after {self._before.get(id(connection))}"
            self._before[id(connection)] = text
            self._times[text] += 1
            here = text, min(self._times[text], self.often)
            if self.at or here in self.tried:
                return
            self.tried.add(here)
            if len(self.tried) % self.every:
                return
            self.at = f"{text} (for the {self._times[text]}. time)"
        self.disturb(connection)
