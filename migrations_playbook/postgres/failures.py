"""PostgreSQL's refusals, each as a sentence with the remedy and an exit code."""

from __future__ import annotations

from django.db import Error as DatabaseError
from psycopg import errors as pg_errors

from migrations_playbook.errors import (
    ConnectionLost,
    PlaybookError,
    Refused,
    TryAgain,
    primary_message,
)
from migrations_playbook.postgres.sessions import is_connection_lost, is_connection_refused

AGAIN = "What was committed stays. Run the same command again."
# Failures that pass, or are mended on the server, by the driver's class: the meaning, the remedy.
PASSING: dict[type[Exception], str] = {
    pg_errors.LockNotAvailable: f"A lock was not granted in time. {AGAIN}",
    pg_errors.QueryCanceled: f"A statement was cancelled, by a timeout or by somebody. {AGAIN}",
    pg_errors.DeadlockDetected: f"Another session wanted the same locks in another order. {AGAIN}",
    pg_errors.SerializationFailure: f"Another session has changed the same rows. {AGAIN}",
    pg_errors.DiskFull: (
        "The server's disk is full. What was committed stays. Make room, then run the same command "
        "again."
    ),
    pg_errors.TooManyConnections: (
        "The server takes no more connections. What was committed stays. Run the same command "
        "again when there is room, with fewer --workers perhaps."
    ),
}
# The errors of a statement that was planned before somebody's schema change.
CHANGED = (
    pg_errors.UndefinedTable,
    pg_errors.UndefinedColumn,
    pg_errors.UndefinedObject,
    pg_errors.DuplicateTable,
    pg_errors.DuplicateObject,
)
# Failures that stay until somebody changes a setting.
LASTING: dict[type[Exception], str] = {
    pg_errors.ReadOnlySqlTransaction: (
        "This session may not write: the server is a standby, or its transactions are read only "
        "(default_transaction_read_only). Name the primary with --database, or run ALTER ROLE ... "
        "SET default_transaction_read_only = off."
    ),
    pg_errors.OutOfMemory: (
        "The server has no room for more locks or memory: raise max_locks_per_transaction, then "
        "run the same command again."
    ),
}


def explain_failure(error: DatabaseError) -> PlaybookError:
    """Build the refusal for a database error without a sentence elsewhere.

    Arguments:
        error: as Django raises it, with the driver's error for its cause.
    """
    cause = error.__cause__
    if is_connection_refused(error):
        return ConnectionLost(
            f"No connection to the server: {primary_message(error)}. Run the same command again "
            "when it takes connections."
        )
    if is_connection_lost(error):
        return ConnectionLost("The connection to the server was lost. Run the same command again.")
    for kind, sentence in PASSING.items():
        if isinstance(cause, kind):
            return TryAgain(sentence)
    if isinstance(cause, CHANGED):
        return TryAgain(
            f"Another session has changed the schema meanwhile ({primary_message(error)}). {AGAIN}"
        )
    for kind, sentence in LASTING.items():
        if isinstance(cause, kind):
            return Refused(sentence)
    return PlaybookError(f"PostgreSQL says: {primary_message(error)}.")
