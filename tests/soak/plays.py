"""The plays as a disturbance meets them: a command, where it begins, and where it must end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

from django.core.management import CommandError, call_command
from django.db import Error as DatabaseError
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import override_settings

from tests.fixtures.database import DEADLINE, Database
from tests.fixtures.tickets import Phase, add_old_tickets, bring_to
from tests.soak.statements import before_each_statement

State = tuple[Any, ...]
Command = tuple[str, ...]
ROWS = 50


@dataclass(frozen=True)
class Play:
    """A command, and where it begins.

    Arguments:
        begins: the phase of the table before it.
        ends: the phase after it.
        command: what is typed.
        release: the release that types it: its settings, and its migrations of the tickets.
        done: what the same command says when it was done already; its exit code is 1 then.
        back: the command that undoes it, where there is one.
        proof: the command that proves it, where there is one.
        states: how many states the site sees, one after the other, in an undisturbed run.
        since: in the text of the first statement of the transaction that matters.
        lock: in the text of that transaction's statement that takes its lock.
    """

    begins: Phase
    ends: Phase
    command: Command
    release: str = ""
    done: str = ""
    back: Command = ()
    proof: Command = ()
    states: int = 2
    since: str = ""
    lock: str = "IN ACCESS EXCLUSIVE MODE"

    @property
    def settings(self) -> str:
        return f"tests.releases.{self.release}.settings" if self.release else "app.settings"

    @property
    def migrations(self) -> dict[str, str]:
        return {"tickets": f"tests.releases.{self.release}.migrations"} if self.release else {}


SWAP = ("swap_token_columns",)
REVERT = (*SWAP, "--revert")
EXCHANGE = "pg_current_xact_id()"
PLAYS = {
    # Two migrations: the second renews the triggers.
    "migrate": Play("none", "expanded", ("migrate", "tickets", "--verbosity=0"), states=3),
    "backfill": Play(
        "expanded",
        "filled",
        ("backfill_new_token", "--no-progress", "--workers=1", "--batch-size=10"),
        states=1,
        lock="claimed",
    ),
    "swap": Play(
        "filled",
        "swapped",
        SWAP,
        done="is swapped already",
        back=REVERT,
        proof=(*SWAP, "--verify"),
        since=EXCHANGE,
    ),
    "revert": Play(
        "swapped", "reverted", REVERT, done="nothing to revert", back=SWAP, since=EXCHANGE
    ),
    "contract": Play("swapped", "none", ("migrate", "tickets", "--verbosity=0"), release="n3"),
}
# What a reader and a writer of tickets meet: columns, triggers, constraints, and the live values.
# The preparation adds unique indexes and CHECKs, which differ from nothing that the site does.
SEEN = """
SELECT (SELECT array_agg((attname, attnotnull) ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = 'tickets_ticket'::regclass AND attnum > 0 AND NOT attisdropped)::text,
       (SELECT array_agg((tgname, tgenabled, pg_get_triggerdef(t.oid), prosrc) ORDER BY tgname)
          FROM pg_trigger t JOIN pg_proc p ON p.oid = tgfoid
         WHERE tgrelid = 'tickets_ticket'::regclass)::text,
       (SELECT array_agg((conname, pg_get_constraintdef(oid)) ORDER BY conname)
          FROM pg_constraint
         WHERE conrelid = 'tickets_ticket'::regclass AND contype NOT IN ('c', 'n'))::text,
       (SELECT md5(string_agg(token::text, ',' ORDER BY id)) FROM tickets_ticket)"""


@dataclass(frozen=True)
class Course:
    """A play that nobody has disturbed.

    Arguments:
        play: the play.
        stage: a database in which it begins.
        states: what the site has seen, before, meanwhile and after.
        dump: the schema at its end.
        seconds: how long it took.
    """

    play: Play
    stage: Database
    states: frozenset[State]
    dump: str
    seconds: float


@contextmanager
def undisturbed(source: Database) -> Iterator[dict[str, Course]]:
    """Play all plays, one after the other; within this context the stage of each is there.

    Arguments:
        source: an expanded database without a ticket.
    """
    with ExitStack() as stack:
        stage = stack.enter_context(copy_of(source))
        add_old_tickets(stage, ROWS)
        bring_to("none")
        stages: dict[Phase, Database] = {"none": stage}
        courses = {}
        for name, play in PLAYS.items():
            stage = stages[play.begins]
            database = stack.enter_context(copy_of(stage))
            began = time.monotonic()
            with states_seen(database) as states:
                code, said = play_here(play)
            took = time.monotonic() - began
            assert (code, len(states)) == (0, play.states), f"{name}: {said}"
            connection.close()
            stages.setdefault(play.ends, database)
            courses[name] = Course(play, stage, frozenset(states), database.dump(), took)
        yield courses


@contextmanager
def states_seen(database: Database) -> Iterator[set[State]]:
    """Within this context collect what the site sees after each COMMIT of a play."""
    committed: set[int] = set()
    states = {read_state(database)}

    def look(connection: BaseDatabaseWrapper, text: str) -> None:
        # Between two transactions nothing is locked that this look would wait for.
        if id(connection) in committed:
            states.add(read_state(database))
        committed.discard(id(connection))
        if text == "COMMIT":
            committed.add(id(connection))

    with before_each_statement(look):
        yield states
    states.add(read_state(database))


def read_state(database: Database) -> State:
    """Read what the site sees."""
    return database.fetch(SEEN)[0]


@contextmanager
def copy_of(database: Database) -> Iterator[Database]:
    """Copy a database, to which Django's default connection points meanwhile."""
    connection.close()
    copies = Database.temporary(template=database.name)
    try:
        yield next(copies)
    finally:
        for _ in copies:
            pass


def play_here(play: Play, command: Command = ()) -> tuple[int, str]:
    """Play in this process; return the exit code, and what was said.

    Django's own statements of `migrate` may end in the driver's error, which is 75 here.
    """
    said = StringIO()
    try:
        with override_settings(MIGRATION_MODULES=play.migrations):
            call_command(*(command or play.command), stdout=said, stderr=said)
    except CommandError as error:
        return error.returncode, f"{said.getvalue()}{error}"
    except (DatabaseError, KeyboardInterrupt) as error:
        if play.command[0] != "migrate":
            raise
        return 75, f"Django's own statement: {error}"
    return 0, said.getvalue()


def run(database: Database, play: Play) -> subprocess.CompletedProcess[str]:
    """Play it to its end, in a process of its own."""
    process = database.start(*play.command, settings=play.settings)
    output, complaint = process.communicate(timeout=DEADLINE * 2)
    return subprocess.CompletedProcess(process.args, process.returncode, output, complaint)


def goes_on(database: Database, play: Play, undisturbed: str, moment: str) -> None:
    """See that the same command ends well, and where an undisturbed one ends.

    Raises:
        AssertionError: names the moment.
    """
    done = run(database, play)
    well = done.returncode == 0 or (play.done and play.done in done.stderr)
    assert well, f"{moment}: {done.stderr}"
    assert database.dump() == undisturbed, f"{moment}: it has ended elsewhere"
