"""Kill each play, at every statement and at random moments, and let the same command go on.

    python -m tests.soak.kills [SECONDS]

After each kill the schema is that of before or of after a transaction of the play, the same command
ends well, and the dump is that of an undisturbed run. What it finds is an AssertionError with the
play, the way of the kill and the moment.
"""

from __future__ import annotations

import itertools
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import psycopg
from django.core.management import call_command
from django.db.backends.base.base import BaseDatabaseWrapper

from app.embedded.server import Cluster
from tests.fixtures.database import DEADLINE, Database
from tests.fixtures.server import crash, throwaway_server
from tests.soak.plays import (
    PLAYS,
    Command,
    Course,
    copy_of,
    goes_on,
    play_here,
    read_state,
    undisturbed,
)
from tests.soak.statements import Disturber, Killer, close_sessions

Way = Literal["session", "signal", "server"]
WAYS: tuple[Way, ...] = ("session", "signal", "server")
# Stopped by SIGINT or SIGTERM, or to be run again.
STOPPED = {0, 75, 130, 143}


@contextmanager
def disturbance(
    way: Way, course: Course, database: Database, server: Cluster | None = None
) -> Iterator[Callable[[BaseDatabaseWrapper], object]]:
    """Within this context there is a way to disturb the session of a statement."""
    if way == "session":
        with Killer(database) as killer:
            yield killer.end
    elif way == "signal":
        # A command of ours hears SIGTERM; Django's `migrate` knows Ctrl-C alone.
        migrates = course.play.command[0] == "migrate"
        number = signal.SIGINT if migrates else signal.SIGTERM
        yield lambda _: signal.raise_signal(number)
    else:
        assert server is not None
        # A sequence of a copied database has not written yet that its values are taken.
        database.run("CHECKPOINT")
        yield lambda _: crash(server)


def disturb_everywhere(
    course: Course, way: Way, server: Cluster | None = None, *, every: int = 1, most: int = 3
) -> int:
    """Disturb a play at each of its statements, or at some; return how many there were.

    Arguments:
        every: of how many statements one is disturbed.
        most: how often an exchange that was committed is undone, to be disturbed again.

    Raises:
        AssertionError: names the play, the way and the statement.
    """
    play = course.play
    with copy_of(course.stage) as database, disturbance(way, course, database, server) as disturb:
        disturber, states = Disturber(disturb, every=every), set(course.states)

        def attempt(command: Command) -> str:
            """Run a command once; return how it ended, empty where it was disturbed."""
            with disturber.once():
                code, said = play_here(play, command)
            where = f"{' '.join(command)}, {way} at {disturber.at or 'the end'}: {code}, {said}"
            done = bool(play.done) and play.done in said
            assert done or code in (STOPPED if disturber.at else {0}), where
            assert read_state(database) in states, where
            return "" if disturber.at else "done already" if done else "done"

        ended, exchanges = "", 0
        while ended != "done" and exchanges < most:
            ended = attempt(play.command)
            if ended == "done already":
                # It was disturbed after its COMMIT. What follows is the proof, which is a command
                # too; the rest comes with another exchange.
                while play.proof and not attempt(play.proof):
                    pass
                code, said = play_here(play, play.back)
                assert code == 0, f"{play.back}: {said}"
                # With the memory of what has leaked, which a revert keeps.
                states.add(read_state(database))
                exchanges += 1
        if ended != "done":
            code, said = play_here(play)
            assert code == 0, said
        close_sessions()
        assert database.dump() == course.dump, f"{play.command} by {way} has ended elsewhere"
        return len(disturber.tried)


def kill_at_random(database: Database, course: Course, way: str) -> float:
    """Begin a play in a process, and kill it after a moment, in seconds; return that."""
    moment = random.uniform(0, course.seconds + 1)  # noqa: S311 - which moment is nobody's secret
    process = database.start(*course.play.command, settings=course.play.settings)
    time.sleep(moment)  # the moment itself is what is tried
    if way == "session":
        with psycopg.connect(database.url, autocommit=True) as session:
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    else:
        process.send_signal(signal.SIGTERM if way == "TERM" else signal.SIGKILL)
    process.communicate(timeout=DEADLINE * 2)
    return moment


def kill_at_random_moments(courses: dict[str, Course], until: float) -> int:
    """Kill every play in every way at random moments; return how many kills went well."""
    kills = 0
    for name, way in itertools.cycle(itertools.product(PLAYS, ("TERM", "KILL", "session"))):
        if time.monotonic() > until:
            break
        course = courses[name]
        with copy_of(course.stage) as disturbed:
            moment = kill_at_random(disturbed, course, way)
            goes_on(disturbed, course.play, course.dump, f"{name}, {way} after {moment:.3f} s")
            kills += 1
    return kills


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(seconds: float) -> None:
    with throwaway_server() as server:
        for source in Database.temporary():
            call_command("migrate", verbosity=0)
            with undisturbed(source) as courses:
                for (name, course), way in itertools.product(courses.items(), WAYS):
                    statements = disturb_everywhere(course, way, server, most=5)
                    say(f"{name}: {way} ended at each of {statements} statements.")
                kills = kill_at_random_moments(courses, time.monotonic() + seconds)
    say(f"{kills} kills at random moments; each time the same command went on.")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
