"""Signals, in two stages: the first finishes the batch, the second stops at once.

SIGTERM would kill Python without unwinding while the server finishes the statement with its
locks held; here both signals unwind, and psycopg cancels the running statement.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Warns of a statement that a signal has cut short, which is no news to whoever sent the signal.
DRIVER = logging.getLogger("psycopg")


class GracefulStop:
    """A context in which the first SIGINT or SIGTERM only makes the object true.

    The second raises KeyboardInterrupt. The previous handlers come back at the end. Outside the
    main thread Python allows no handlers: there the object is never true.

    Arguments:
        patient: False to raise at the first signal, and to ignore others during the undoing: for
            work that is rolled back rather than finished.
    """

    def __init__(self, *, patient: bool = True) -> None:
        self.patient = patient
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as a shell reports it."""
        return 128 + (self.received or signal.SIGINT)

    def __enter__(self) -> GracefulStop:
        DRIVER.addFilter(self._is_news)
        if threading.current_thread() is threading.main_thread():
            self._previous = {each: signal.signal(each, self._handle) for each in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)
        DRIVER.removeFilter(self._is_news)

    def _is_news(self, record: logging.LogRecord) -> bool:
        return self.received is None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = signal.Signals(number)
        if again is self.patient:
            raise KeyboardInterrupt
