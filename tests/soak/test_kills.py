"""A play that is ended at any statement: the schema is whole, and the same command goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.fixtures.database import DEADLINE, Database, wait_until
from tests.soak.killed import Moment
from tests.soak.kills import disturb_everywhere
from tests.soak.plays import PLAYS, Course, copy_of, goes_on, read_state, undisturbed

Courses = dict[str, Course]
KILLED: list[tuple[str, Moment, signal.Signals]] = [
    ("migrate", "under the lock", signal.SIGKILL),
    ("migrate", "at the commit", signal.SIGTERM),
    ("backfill", "at the commit", signal.SIGKILL),
    ("swap", "before the lock", signal.SIGKILL),
    ("swap", "under the lock", signal.SIGKILL),
    ("swap", "after the commit", signal.SIGTERM),
    ("revert", "at the commit", signal.SIGKILL),
    ("contract", "under the lock", signal.SIGTERM),
]


@pytest.fixture(scope="module")
def courses(template: str) -> Iterator[Courses]:
    with undisturbed(Database(template)) as courses:
        yield courses


@pytest.mark.timeout(300)  # beside another worker on a busy machine
@pytest.mark.parametrize("name", PLAYS)
def test_a_session_that_is_ended_at_any_statement_leaves_a_play_that_goes_on(
    name: str, courses: Courses
) -> None:
    # The revert has the swap's statements: `make soak` tries each of them.
    assert disturb_everywhere(courses[name], "session", every=2 if name == "revert" else 1) > 20


@pytest.mark.parametrize("name", PLAYS)
def test_a_signal_at_many_a_statement_leaves_a_play_that_goes_on(
    name: str, courses: Courses
) -> None:
    assert disturb_everywhere(courses[name], "signal", every=8) > 20


@pytest.mark.parametrize(
    ("name", "moment", "number"),
    KILLED,
    ids=[f"{name} {moment}: {number.name}" for name, moment, number in KILLED],
)
def test_a_client_that_is_killed_leaves_a_play_that_goes_on(
    name: str, moment: Moment, number: signal.Signals, courses: Courses
) -> None:
    course = courses[name]
    with copy_of(course.stage) as database:
        process = database.start(
            *(number.name, moment, name),
            settings=course.play.settings,
            program=("-m", "tests.soak.killed"),
        )
        _, complaint = process.communicate(timeout=DEADLINE)
        # The swap hears SIGTERM, after its commit with the advice to prove it.
        assert process.returncode in (-number, 75), complaint
        wait_until(lambda: not others(database), "the server has noticed")
        assert read_state(database) in course.states
        goes_on(database, course.play, course.dump, f"{name}, {number.name} {moment}")


def others(database: Database) -> int:
    """Count the sessions in a database but for the one that asks."""
    count = database.value(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return int(count)
