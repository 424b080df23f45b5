"""The script and the options: everything that a rehearsal must be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.utils.module_loading import import_string

from migrations_playbook.errors import PlaybookError
from migrations_playbook.settings import setting

# Makes the values of one row: takes the release's model, returns the fields that it sets.
RowMaker = Callable[[type[models.Model]], dict[str, Any]]
# Makes one read: takes the model's manager and a live value, returns the rows to be read.
RowReader = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Script:
    """A project's part in the rehearsal of a shadow column.

    Arguments:
        model: the model's label, `tickets.Ticket`.
        shadow: the shadow field.
        stamp: the field that the clients write; None for the first that will do.
        row: the dotted path of a `RowMaker`; None for the model's defaults.
        read: the dotted path of a `RowReader`; None for a page of the newest rows.
    """

    model: str
    shadow: str
    stamp: str | None = None
    row: str | None = None
    read: str | None = None

    @property
    def target(self) -> str:
        """`tickets.Ticket.new_token`: how a command is told of the column."""
        return f"{self.model}.{self.shadow}"


@dataclass(frozen=True)
class RehearsalOptions:
    """How a rehearsal is run.

    Arguments:
        rows: rows in the table at the start.
        rate: requests a second, of all clients together.
        seconds: how long each phase goes on at least.
        max_stall_ms: a request that takes longer fails the rehearsal, in milliseconds.
        max_added_ms: how much the backfill may add to the 99th percentile of the requests, in
            milliseconds; the backfill is told the same.
        template: a database to copy instead of making rows, or None.
        until: the last phase to play, or None for all.
    """

    rows: int = 100_000
    rate: float = 200.0
    seconds: float = 8.0
    max_stall_ms: float = 500.0
    max_added_ms: float = setting("max-added-ms")
    template: str | None = None
    until: str | None = None


def import_callable(path: str) -> Any:
    """Import a project's callable by its dotted path.

    Raises:
        PlaybookError: there is no such callable.
    """
    try:
        found = import_string(path)
    except ImportError as error:
        raise PlaybookError(f"{path!r} cannot be imported: {error}.") from None
    if not callable(found):
        raise PlaybookError(f"{path!r} is no callable.")
    return found
