"""Starts the processes of a rehearsal: `__main__` has the work of each.

Every process has the project's own settings; `__main__` lets their databases lead to the scratch
database, and nowhere else.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings

from migrations_playbook.errors import PlaybookError
from migrations_playbook.rehearsal.scratch import ScratchDatabase
from migrations_playbook.rehearsal.script import Script

# Between two looks at a process, in seconds.
LOOK = 0.02
# Nothing that is played takes longer, in seconds, whatever the table's size.
DEADLINE = 3600.0


class StepFailed(Exception):
    """A step of the play ended otherwise than it must; the text is the step's own last line."""


@dataclass(frozen=True)
class ProcessRunner:
    """Starts processes that know the script and the scratch database.

    Arguments:
        script: the script to rehearse.
        database: where.
    """

    script: Script
    database: ScratchDatabase

    def start(self, job: str, **arguments: Any) -> subprocess.Popen[str]:
        """Start a job; its standard input stays open.

        Arguments:
            job: a name in `__main__.JOBS`.
            arguments: the job's arguments, fit for JSON.

        Raises:
            PlaybookError: the settings are in no module to start a process with.
        """
        started = subprocess.Popen(
            [sys.executable, "-m", "migrations_playbook.rehearsal"],
            env=_read_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert started.stdin is not None
        task = {
            "job": job,
            "alias": self.database.alias,
            "database": self.database.name,
            "script": asdict(self.script),
            "arguments": arguments,
        }
        started.stdin.write(json.dumps(task) + "\n")
        started.stdin.flush()
        return started

    def start_command(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `manage.py` with these arguments, on the scratch database."""
        return self.start("command", words=[*arguments, "--database", self.database.alias])

    def run(self, job: str, **arguments: Any) -> Generator[None, None, str]:
        """Run a job to its end; yield while the job is under way.

        Returns:
            The job's output.

        Raises:
            StepFailed: the job ended with an exit code of its own.
        """
        return (yield from _wait_for(self.start(job, **arguments), job))

    def run_command(self, *arguments: str) -> Generator[None, None, str]:
        """Run `manage.py` with these arguments to its end, as `run` does."""
        name = " ".join(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
        return (yield from _wait_for(self.start_command(*arguments), name))


def look_while(going_on: Callable[[], bool]) -> Generator[None, None, None]:
    """Yield between looks, while something goes on: at processes, or a clock.

    Arguments:
        going_on: the look.
    """
    while going_on():
        yield
        # A process of its own tells nobody that it is further, or at its end.
        time.sleep(LOOK)


def _wait_for(started: subprocess.Popen[str], name: str) -> Generator[None, None, str]:
    """Yield while a process is under way; return its output."""
    deadline = time.monotonic() + DEADLINE
    try:
        yield from look_while(lambda: started.poll() is None and time.monotonic() < deadline)
    finally:
        if started.poll() is None:
            started.kill()
        output, complaint = started.communicate()
    if started.returncode:
        raise StepFailed(f"{name}: {read_last_line(complaint)}")
    return output


def finish_all(*running: Generator[None, None, Any]) -> None:
    """Wait for jobs side by side, with nobody to be told meanwhile."""
    for _ in itertools.zip_longest(*running):
        pass


def read_last_line(complaint: str) -> str:
    """Read a process's last line: the sentence of a refusal."""
    lines = complaint.strip().splitlines() or ["it said nothing"]
    return lines[-1].removeprefix("CommandError: ")


def _read_environment() -> dict[str, str]:
    """Read the settings of this process, and its import path."""
    if not settings.SETTINGS_MODULE:
        raise PlaybookError(
            "The settings are in no module, so no other process can have them. Put them into one, "
            "and name it in DJANGO_SETTINGS_MODULE."
        )
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": str(settings.SETTINGS_MODULE),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONUNBUFFERED": "1",
    }
