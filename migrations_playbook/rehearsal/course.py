"""How the phases go: their times, and the news of them meanwhile."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

from migrations_playbook.rehearsal.happenings import Happening, PhaseBegan, PhaseEnded, PhaseGoing
from migrations_playbook.rehearsal.runner import look_while
from migrations_playbook.rehearsal.traffic.fleet import Fleets
from migrations_playbook.rehearsal.traffic.measure import PlayedPhase, add_up

# Between two happenings that say how a phase goes, in seconds.
TELL = 0.25

T = TypeVar("T")


class Course:
    """Keeps the phases' times.

    Arguments:
        fleets: the fleets with the requests to tell of.
    """

    def __init__(self, fleets: Fleets) -> None:
        self.phases: list[PlayedPhase] = []
        self._fleets = fleets
        self._name = ""
        self._began = self._told = time.monotonic()

    def play(
        self, name: str, act: Generator[Happening, None, float | None]
    ) -> Generator[Happening, None, None]:
        """Play a phase.

        Arguments:
            name: the phase.
            act: the work of the phase; returns how long its strongest lock was held, in
                milliseconds, or None.
        """
        yield PhaseBegan(name)
        self._name = name
        self._began = self._told = time.monotonic()
        held = None
        try:
            held = yield from act
        finally:
            self.phases.append(PlayedPhase(name, self._began, time.monotonic(), held))
        yield PhaseEnded(add_up(self.phases[-1], self._fleets.requests))

    def watch(self, waiting: Generator[None, None, T]) -> Generator[Happening, None, T]:
        """Wait for something, and say now and then how the phase goes.

        Returns:
            The result of the waiting.
        """
        with closing(waiting):
            while True:
                try:
                    next(waiting)
                except StopIteration as ended:
                    result: T = ended.value
                    return result
                yield from self._tell()

    def dwell(self, seconds: float) -> Generator[Happening, None, None]:
        """Let the traffic go on for a while."""
        yield from self.watch(_let_pass(seconds))

    def _tell(self) -> Generator[Happening, None, None]:
        now = time.monotonic()
        if now - self._told < TELL:
            return
        self._told = now
        self._fleets.note_deaths()
        so_far = add_up(PlayedPhase(self._name, self._began, now), self._fleets.requests)
        yield PhaseGoing(self._name, so_far.seconds, so_far.requests, so_far.errors, so_far.max_ms)


def _let_pass(seconds: float) -> Generator[None, None, None]:
    until = time.monotonic() + seconds
    # Nothing is waited for but the requests that come due meanwhile.
    yield from look_while(lambda: time.monotonic() < until)
