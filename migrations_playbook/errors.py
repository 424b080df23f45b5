"""The errors, each with its remedy and its exit code.

A message is a sentence that says what is wrong, and another that says which command mends the
fault. No message holds a column's value: PostgreSQL puts the offending value into the DETAIL of an
error, so only `primary_message` of a database error may be quoted.
"""

from __future__ import annotations

import re

from django.db import Error as DatabaseError
from psycopg import errors as pg_errors

REFUSED = 1
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT
UNREAD = 141  # 128 + SIGPIPE: whoever read the output has gone


# SQLSTATE classes whose primary message may quote a value: data exceptions, and PL/pgSQL's RAISE.
QUOTING = {"22", "P0"}
# Where a function's own RAISE comes from, whatever SQLSTATE it gives itself.
RAISING = {"pl_exec.c", "plpy_elog.c", "plperl.c", "pltcl.c"}


class PlaybookError(Exception):
    """A refusal or a failure that the user can act on; its text is the whole message."""

    exit_code = REFUSED


class WrongPhase(PlaybookError):
    """The play does not fit the phase that the catalog shows."""


class Refused(PlaybookError):
    """The play would lose something; nothing was changed."""


class VerificationFailed(PlaybookError):
    """The play was done, but a number afterwards is wrong."""


class LockNotAvailable(PlaybookError):
    """A lock was not granted within its bounds; nothing was changed."""

    exit_code = TRY_AGAIN


class TryAgain(PlaybookError):
    """Somebody else was at work, or something is short; the same command may succeed later."""

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
        message: the progress, and how to go on.
        exit_code: 128 + the signal's number, as a shell has it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def primary_message(error: DatabaseError) -> str:
    """Return the first line of a database error, without the DETAIL that may quote a row's values.

    The first line itself may quote a value that cannot be converted, or an error of somebody's own
    function. Where in the line depends on the server's language and on the value, so such an error
    is told by the name of its SQLSTATE, and by the function that raised the error.
    """
    diagnostic = getattr(error.__cause__, "diag", None)
    primary = getattr(diagnostic, "message_primary", None)
    if diagnostic is None or not primary:
        # The error was made by the client library (a lost connection, say), and has never seen a
        # row.
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    state = str(diagnostic.sqlstate)
    if state[:2] in QUOTING or diagnostic.source_file in RAISING:
        place = ""
        if diagnostic.source_function == "exec_stmt_raise" and diagnostic.context:
            # As in: PL/pgSQL function f(uuid) line 1 at RAISE.
            place = f"; {diagnostic.context.splitlines()[0]}"
        return f"{_condition(state)} (SQLSTATE {state}, whose words may quote a value{place})"
    return str(primary)


def _condition(state: str) -> str:
    """Return the name of an SQLSTATE in words: "invalid text representation"."""
    try:
        name = pg_errors.lookup(state).__name__
    except KeyError:
        return "an error of its own"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
