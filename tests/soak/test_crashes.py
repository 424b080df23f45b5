"""A server that stops at once, or takes no new session, in the middle of a play."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from app.embedded.server import Cluster
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.locks import LockPolicy
from tests.fixtures.database import Database, backend_pid, wait_until
from tests.fixtures.server import crash, new_server, on_server, server_home
from tests.soak.killed import Awaited, Moment
from tests.soak.plays import Course, copy_of, play_here, read_state, undisturbed
from tests.soak.statements import before_each_statement

Courses = dict[str, Course]
# A play, the moment of the crash, and what is said then. The backfill's lost worker is replaced, so
# it goes on in the same run.
CRASHES: list[tuple[str, Moment, str]] = [
    ("migrate", "under the lock", "connection"),
    ("backfill", "at the commit", "Workers that lost the connection: 1"),
    ("swap", "before the lock", "the swap was not committed"),
    ("swap", "at the commit", "the swap was not committed"),
    ("swap", "after the commit", "the swap was committed"),
    ("revert", "under the lock", "the revert was not committed"),
    ("contract", "at the commit", "connection"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with (
        tempfile.TemporaryDirectory(prefix="playbook-crashes-", dir=server_home()) as folder,
        new_server(Path(folder) / "data") as server,
        on_server(server),
    ):
        yield server


@pytest.fixture(scope="module")
def courses(server: Cluster) -> Iterator[Courses]:
    for source in Database.temporary():
        call_command("migrate", verbosity=0)
        with undisturbed(source) as courses:
            yield courses


@pytest.mark.parametrize(
    ("name", "moment", "says"), CRASHES, ids=[f"{name} {moment}" for name, moment, _ in CRASHES]
)
def test_a_server_that_stops_at_once_and_is_started_leaves_a_play_that_goes_on(
    name: str, moment: Moment, says: str, courses: Courses, server: Cluster
) -> None:
    course = courses[name]
    awaited = Awaited(course.play, moment)

    def look(connection: BaseDatabaseWrapper, text: str) -> None:
        if awaited(connection, text):
            crash(server)

    with copy_of(course.stage) as database:
        # A sequence of a copied database has not written yet that its values are taken.
        database.run("CHECKPOINT")
        with before_each_statement(look):
            code, said = play_here(course.play)
        assert awaited.reached
        assert code == (0 if name == "backfill" else 75), said
        assert says in said
        assert read_state(database) in course.states
        code, said = play_here(course.play)
        assert code == 0 or (moment == "after the commit" and course.play.done in said), said
        connection.close()
        assert database.dump() == course.dump


def test_an_interrupt_is_heard_though_its_cancel_request_comes_too_late(
    courses: Courses, server: Cluster
) -> None:
    """With its postmaster frozen a server takes no cancel request: the lock's timeout is first."""
    table, postmaster = sql.Identifier("tickets_ticket"), server.pid
    assert postmaster is not None
    with copy_of(courses["swap"].stage) as database, database.connect() as holder:
        holder.execute("LOCK TABLE tickets_ticket IN SHARE UPDATE EXCLUSIVE MODE")
        pid = backend_pid()

        def waits() -> bool:
            return holder.execute("SELECT pg_blocking_pids(%s)", [pid]).fetchall() != [([],)]

        def interrupt() -> None:
            wait_until(waits, "the lock is waited for")
            os.kill(postmaster, signal.SIGSTOP)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                wait_until(lambda: not waits(), "the lock's timeout is over")
            finally:
                os.kill(postmaster, signal.SIGCONT)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt), transaction.atomic():
            locks.reserve(connection, table, LockPolicy(patience_ms=1500))
        interrupting.join()
