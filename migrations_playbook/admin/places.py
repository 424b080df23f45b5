"""Where each replacement is: a replacement, and a database in which its model lives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from django.db import DEFAULT_DB_ALIAS

from migrations_playbook.history import (
    Remembered,
    is_declared,
    known_replacements,
    read_history,
)
from migrations_playbook.replacement import Replacement, list_homes

# Between the replacement and the database in a place's name.
AT = "@"


@dataclass(frozen=True)
class Place:
    """A replacement in one of the databases.

    Arguments:
        replacement: a declared one, or one that only the migrations remember.
        using: the database alias.
        remembered: the shadow as the migrations have it.
    """

    replacement: Replacement
    using: str
    remembered: Remembered | None

    @property
    def declared(self) -> bool:
        """Whether a model declares the replacement today."""
        return is_declared(self.replacement)

    def __str__(self) -> str:
        there = "" if self.using == DEFAULT_DB_ALIAS else f"{AT}{self.using}"
        return f"{self.replacement}{there}"


def list_places() -> Iterator[Place]:
    """List every known replacement in every PostgreSQL where the routers let its model live.

    Raises:
        PlaybookError: the migrations do not fit together.
    """
    remembered = {str(each): each for each in _history()}
    for replacement in known_replacements(_history()):
        for using in list_homes(replacement) if replacement.leads else ():
            yield Place(replacement, using, remembered.get(str(replacement)))


def find_place(name: str) -> Place | None:
    """Find a place by its name, `tickets.Ticket.new_token` or `tickets.Ticket.new_token@other`."""
    return next((each for each in list_places() if str(each) == name), None)


@cache
def _history() -> list[Remembered]:
    """Read the migrations once: they are files, and those of a running process do not change."""
    return read_history()
