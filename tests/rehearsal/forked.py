"""The project's commands, with the processes of their rehearsals forked from the nursery.

A rehearsal has two dozen, which import Django each; `test_processes` has them as they are.

    python -m tests.rehearsal.forked rehearse ...
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import manage
from migrations_playbook.rehearsal import runner
from tests.fixtures.nursery import Program


def start(words: list[str], *, env: dict[str, str], **_: object) -> Program:
    """Start a process of a rehearsal, as its runner starts it by subprocess.Popen."""
    return Program(words[1:], cwd=Path.cwd(), env=env)


# A program that `Database.start` starts.
FORKED_COMMANDS = ("-m", "tests.rehearsal.forked")
# What the runner has of subprocess.
FORKED = SimpleNamespace(Popen=start, PIPE=subprocess.PIPE)

if __name__ == "__main__":
    vars(runner)["subprocess"] = FORKED
    manage.main()
