"""What the plays say to Python's logging: their events, waits and refusals, never a value.

The logger of a play is `migrations_playbook.backfill`, `.swap`, `.migrate` and so on. A record's
message is for a person; the same facts are attributes of the record (`extra`), for a machine.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from django.db import Error as DatabaseError
from django.db import transaction

from migrations_playbook.errors import PlaybookError, primary_message

ROOT = logging.getLogger(__name__.partition(".")[0])
# Silent, unless the project asks: without any handler Python would print warnings to stderr.
ROOT.addHandler(logging.NullHandler())

P = ParamSpec("P")
Subject = TypeVar("Subject")
Event = TypeVar("Event")


class Journal:
    """The log of a play of one replacement.

    Arguments:
        play: "backfill", "swap", "verify", "mend" or "migrate".
        subject: what is played with, `tickets.Ticket.new_token` say.
        database: the alias.
    """

    def __init__(self, play: str, subject: str, database: str) -> None:
        self.logger = ROOT.getChild(play)
        self.common = {"play": play, "replacement": subject, "database": database}
        self._began: float | None = None

    def begin(self) -> None:
        """Log that the play begins."""
        self._began = time.monotonic()
        self.say(logging.INFO, "begun", {})

    def end(self, error: BaseException | None = None) -> None:
        """Log once that the play has ended, and how: done, refused, failed or stopped."""
        if self._began is None:
            return
        facts = {"seconds": round(time.monotonic() - self._began, 3)}
        self._began = None
        self.say(*_describe_end(error, facts))

    def add(self, event: object) -> None:
        """Log an event of the play, each of its fields an attribute of the record."""
        level = getattr(event, "level", logging.INFO)
        if self.logger.isEnabledFor(level):
            fields = {name: simplify(value) for name, value in vars(event).items()}
            self.say(level, type(event).__name__.lower(), fields)

    def say(self, level: int, event: str, fields: Mapping[str, Any]) -> None:
        """Log a record.

        Arguments:
            level: as in `logging`.
            event: the event's name, a word.
            fields: the facts; none has the name of a `LogRecord`'s own attribute.
        """
        self.logger.log(
            level,
            "%s of %s: %s",
            *(self.common["play"], self.common["replacement"]),
            " ".join([event, *(f"{name}={value}" for name, value in fields.items())]),
            extra={**self.common, "event": event, **fields},
        )


@contextmanager
def keep_journal(play: str, subject: str, database: str) -> Iterator[None]:
    """Log the beginning of a play inside somebody's transaction, and its end.

    That it is done is logged after the commit: until then the table is locked, and a handler may be
    slow. (After a failure `LockPolicy.hold_ms` bounds the time.)

    Arguments:
        play, subject, database: see `Journal`.
    """
    journal = Journal(play, subject, database)
    journal.begin()
    try:
        yield
    except BaseException as error:
        journal.end(error)
        raise
    transaction.on_commit(journal.end, using=database)


class Journaled(Generator[Event, None, None]):
    """A play whose events are logged as they pass, with its beginning and its end.

    Arguments:
        events: the play. An interrupt that is thrown into this one is thrown into the play.
        journal: of the play.
    """

    def __init__(self, events: Generator[Event, None, None], journal: Journal) -> None:
        self.events = events
        self.journal = journal
        self._begun = False

    def send(self, value: None) -> Event:
        """Play on to the next event."""
        return self._pass_on(lambda: self.events.send(value))

    def throw(self, *error: Any) -> Event:
        """Throw an error into the play; return its next event."""
        return self._pass_on(lambda: self.events.throw(*error))

    def _pass_on(self, resume: Callable[[], Event]) -> Event:
        if not self._begun:
            self._begun = True
            self.journal.begin()
        try:
            event = resume()
        except StopIteration:
            self.journal.end()
            raise
        except BaseException as error:
            self.journal.end(error)
            raise
        self.journal.add(event)
        return event


def journaled(
    play: Callable[Concatenate[Subject, P], Generator[Event, None, None]],
) -> Callable[Concatenate[Subject, P], Generator[Event, None, None]]:
    """Log every event of a play, whose first argument is its replacement, and its end."""

    @functools.wraps(play)
    def keep(replacement: Subject, /, *args: P.args, **options: P.kwargs) -> Any:
        journal = Journal(play.__name__, str(replacement), str(options["using"]))
        return Journaled(play(replacement, *args, **options), journal)

    return keep


def _describe_end(
    error: BaseException | None, facts: dict[str, Any]
) -> tuple[int, str, dict[str, Any]]:
    """Describe how a play has ended, by a level, a word and facts."""
    match error:
        case None:
            return logging.INFO, "done", facts
        case KeyboardInterrupt() | GeneratorExit():
            return logging.INFO, "stopped", facts
        case PlaybookError(exit_code=code):
            named = {"error": type(error).__name__, "exit_code": code, "why": str(error)}
            return logging.WARNING, "refused", facts | named
        case DatabaseError():
            kind = type(error.__cause__ or error).__name__
            why = primary_message(error)
            return logging.ERROR, "failed", facts | {"error": kind, "why": why}
    # Its words may be anybody's, and quote anything.
    return logging.ERROR, "failed", facts | {"error": type(error).__name__}


def simplify(value: object) -> Any:
    """Make a fact of what JSON has: numbers, texts, lists and objects."""
    if hasattr(value, "as_json"):
        return value.as_json()
    if isinstance(value, Mapping):
        return {str(name): simplify(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [simplify(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
