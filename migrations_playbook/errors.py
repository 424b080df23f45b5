"""What can go wrong, each with its remedy and its exit code.

A message is one sentence that says what is wrong, and one that says which command mends it.
No message holds a column's value: PostgreSQL puts the offending value into the DETAIL of an
error, so only `primary_message` of a database error may be quoted.
"""

from __future__ import annotations

import re

from django.db import Error as DatabaseError

DONE = 0
REFUSED = 1
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM


# SQLSTATE classes whose primary message may quote a value: data exceptions, and PL/pgSQL's RAISE.
QUOTING = {"22", "P0"}
VALUE = re.compile(r"""["'][^"']*["']|[\w-]*\d[\w-]*""")


class PlaybookError(Exception):
    """A refusal or a failure that the user can act on; its text is the whole message."""

    exit_code = REFUSED


class WrongPhase(PlaybookError):
    """The play does not fit the phase that the catalog shows."""


class Refused(PlaybookError):
    """The play would lose something; nothing was changed."""


class VerificationFailed(PlaybookError):
    """The play was done, but the numbers afterwards are not what they must be."""


class LockNotAvailable(PlaybookError):
    """A lock was not to be had within its bounds; nothing was changed."""

    exit_code = TRY_AGAIN


class ConnectionLost(PlaybookError):
    """The server went away; what was committed stays."""

    exit_code = TRY_AGAIN


class RowsLeft(PlaybookError):
    """The backfill ended before the last row was filled."""

    exit_code = TRY_AGAIN


class Stopped(PlaybookError):
    """A signal ended the play; its progress is kept.

    Arguments:
        message: what is done and how to go on.
        exit_code: 128 + the signal's number, as a shell has it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def primary_message(error: DatabaseError) -> str:
    """The first line of a database error, without the DETAIL that may quote a row's values.

    Of a value that cannot be converted, or an error that somebody's own function raises, the
    first line itself may quote one: what is quoted there, and each word with a digit, is left out.
    """
    diagnostic = getattr(error.__cause__, "diag", None)
    primary = getattr(diagnostic, "message_primary", None)
    if primary:
        quotes_values = str(diagnostic.sqlstate)[:2] in QUOTING  # type: ignore[union-attr]
        return VALUE.sub("...", str(primary)) if quotes_values else str(primary)
    # No diagnostic: the error was made by the client library (a lost connection, say),
    # and has never seen a row.
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
