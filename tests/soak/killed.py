"""A play that sends its own process a signal at a moment of the transaction that matters.

python -m tests.soak.killed SIGNAL MOMENT PLAY
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Literal

from django.db.backends.base.base import BaseDatabaseWrapper

from tests.soak.plays import PLAYS, Play
from tests.soak.statements import before_each_statement

Moment = Literal["before the lock", "under the lock", "at the commit", "after the commit"]


class Awaited:
    """Waits for a moment of a play's transaction.

    Arguments:
        play: the play; `Play.since` and `Play.lock` tell its transaction.
        moment: the moment.
    """

    def __init__(self, play: Play, moment: Moment) -> None:
        self.play = play
        self.moment = moment
        self.reached = False
        self._begun = False
        self._locking: BaseDatabaseWrapper | None = None
        self._statements: list[str] = []

    def __call__(self, connection: BaseDatabaseWrapper, text: str) -> bool:
        """Tell whether the moment is just before this statement."""
        self._begun = self._begun or self.play.since in text
        if self._begun and self._locking is None and self.play.lock in text:
            self._locking = connection
        if self.reached or self._locking is not connection:
            return False
        self._statements.append(text)
        self.reached = {
            "before the lock": True,
            # Past the savepoint of the request for the lock.
            "under the lock": len(self._statements) > 5,
            "at the commit": text == "COMMIT",
            "after the commit": "COMMIT" in self._statements[:-1],
        }[self.moment]
        return self.reached


def main(number: signal.Signals, moment: Moment, play: Play) -> None:
    import django  # noqa: PLC0415 - the settings are those of whoever starts this

    django.setup()
    from django.core.management import execute_from_command_line  # noqa: PLC0415

    awaited = Awaited(play, moment)

    def look(connection: BaseDatabaseWrapper, text: str) -> None:
        if awaited(connection, text):
            os.kill(os.getpid(), number)

    with before_each_statement(look):
        execute_from_command_line(["manage.py", *play.command])


if __name__ == "__main__":
    main(signal.Signals[sys.argv[1]], sys.argv[2], PLAYS[sys.argv[3]])  # type: ignore[arg-type]
