"""Kill each play, at a statement or at a random moment, and let the same command go on.

    python -m tests.soak.kills [SECONDS]

After each kill the schema is that of before or of after the exchange, the same command ends well,
and the dump is that of an undisturbed run. What it finds is an AssertionError with the play, the
way of the kill and the moment.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from django.core.management import call_command
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from tests.fixtures.database import DEADLINE, PROJECT, Database
from tests.fixtures.server import new_server
from tests.fixtures.tickets import Phase, add_old_tickets, bring_to

Way = Literal["TERM", "KILL", "session"]
ROWS = 50


@dataclass(frozen=True)
class Play:
    """A command, and where it begins.

    Arguments:
        begins: the phase of the table before it.
        command: what is typed.
        settings: the release that types it.
        done: what the same command says when it was done already; its exit code is 1 then.
    """

    begins: Phase
    command: tuple[str, ...]
    settings: str = "app.settings"
    done: str = ""


PLAYS = {
    "migrate": Play("none", ("migrate", "tickets")),
    "backfill": Play("expanded", ("backfill_new_token", "--no-progress")),
    "swap": Play("filled", ("swap_token_columns",), done="is swapped already"),
    "revert": Play("swapped", ("swap_token_columns", "--revert"), done="nothing to revert"),
    "contract": Play("swapped", ("migrate", "tickets"), "tests.releases.n3.settings"),
}


def set_stage(database: Database, play: Play) -> None:
    """Bring an expanded, empty table to where a play begins, with rows of before the expand."""
    add_old_tickets(database, ROWS)
    bring_to(play.begins)
    connection.close()


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


def run(database: Database, play: Play) -> subprocess.CompletedProcess[str]:
    """Play it to its end, in a process of its own."""
    process = start(database, play)
    output, complaint = process.communicate(timeout=DEADLINE * 2)
    return subprocess.CompletedProcess(process.args, process.returncode, output, complaint)


def start(database: Database, play: Play) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", *play.command],
        cwd=PROJECT,
        env={**database.environment, "DJANGO_SETTINGS_MODULE": play.settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def goes_on(database: Database, play: Play, undisturbed: str, moment: str) -> None:
    """See that the same command ends well, and where an undisturbed one ends.

    Raises:
        AssertionError: names the moment.
    """
    done = run(database, play)
    well = done.returncode == 0 or (play.done and play.done in done.stderr)
    assert well, f"{moment}: {done.stderr}"
    assert database.dump() == undisturbed, f"{moment}: it has ended elsewhere"


class SessionsEnded:
    """Ends the session that runs the n-th statement of this process, before it is run."""

    def __init__(self, database: Database, at: int) -> None:
        self.database = database
        self.at = at
        self._numbers = itertools.count(1)
        self.statements = 0

    def __enter__(self) -> SessionsEnded:
        connection_created.connect(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        connection_created.disconnect(self._watch)
        for each in connections.all():
            each.close()
            each.execute_wrappers.clear()

    def _watch(self, connection: BaseDatabaseWrapper, **_: object) -> None:
        if self._end_session not in connection.execute_wrappers:
            connection.execute_wrappers.append(self._end_session)

    def _end_session(
        self,
        execute: Callable[..., Any],
        sql: str,
        params: Any,
        many: bool,  # noqa: FBT001 - as Django calls a wrapper
        context: Any,
    ) -> Any:
        self.statements = next(self._numbers)
        if self.statements == self.at:
            raw = context["connection"].connection
            self.database.run("SELECT pg_terminate_backend(%s, 5000)", raw.info.backend_pid)
        return execute(sql, params, many, context)


def kill_at_random(database: Database, play: Play, way: Way, within: float) -> float:
    """Begin a play, and kill it after a moment, in seconds; return that."""
    moment = random.uniform(0, within)  # noqa: S311 - which moment is nobody's secret
    process = start(database, play)
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


def soak(seconds: float) -> int:
    """Kill every play in every way at random moments; return how many kills went well."""
    until, kills = time.monotonic() + seconds, 0
    for source in Database.temporary():
        call_command("migrate", verbosity=0)
        for name, play in itertools.cycle(PLAYS.items()):
            if time.monotonic() > until:
                break
            with copy_of(source) as stage:
                set_stage(stage, play)
                with copy_of(stage) as calm:
                    began = time.monotonic()
                    assert run(calm, play).returncode == 0
                    took, undisturbed = time.monotonic() - began, calm.dump()
                for way in ("TERM", "KILL", "session"):
                    with copy_of(stage) as disturbed:
                        moment = kill_at_random(disturbed, play, way, took)
                        what = f"{name}, {way} after {moment:.3f} s"
                        goes_on(disturbed, play, undisturbed, what)
                        kills += 1
    return kills


def main(seconds: float) -> None:
    import django  # noqa: PLC0415 - the server's address comes first

    with tempfile.TemporaryDirectory(prefix="playbook-kills-") as folder:
        server = new_server(Path(folder) / "data")
        with server:
            os.environ["DATABASE_URL"] = server.url()
            os.environ["DJANGO_SETTINGS_MODULE"] = "app.settings"
            django.setup()
            kills = soak(seconds)
            connections.close_all()
    sys.stdout.write(f"{kills} kills; each time the same command went on.\n")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
