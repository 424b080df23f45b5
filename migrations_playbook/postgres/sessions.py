"""Django's connections as sessions of the server: their kind, their name, and their end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import PlaybookError
from migrations_playbook.postgres.query import fetch_value

# What the server says as it ends a session: by an administrator, a crash, a start in progress,
# or a timeout of idle transactions and sessions.
SESSION_ENDED = {"57P01", "57P02", "57P03", "57P05", "25P03"}


def postgresql(alias: str) -> BaseDatabaseWrapper:
    """The connection of a database alias, if it is PostgreSQL's.

    Raises:
        PlaybookError: the alias is of another vendor.
    """
    connection = connections[alias]
    if connection.vendor != "postgresql":
        raise PlaybookError(
            f'The database "{alias}" is {connection.display_name}, and this playbook needs '
            "PostgreSQL. Name another alias with --database."
        )
    return connection


@contextmanager
def named_session(
    connection: BaseDatabaseWrapper, application: str
) -> Iterator[BaseDatabaseWrapper]:
    """Within this context the connection is a session of its own with an application name.

    It is part of the startup message, so no setting is left behind in a pooled session: PgBouncer
    carries the name over to whichever session it uses. A pool in this process would not, and
    is passed by.

    Arguments:
        connection: outside a transaction; what it is connected to is closed, before and after.
        application: what the session calls itself in pg_stat_activity.
    """
    assert not connection.in_atomic_block, "to connect anew would lose the transaction"
    usual = connection.settings_dict
    options = {key: value for key, value in usual["OPTIONS"].items() if key != "pool"}
    connection.close()
    connection.settings_dict = {**usual, "OPTIONS": {**options, "application_name": application}}
    try:
        yield connection
    finally:
        connection.close()
        connection.settings_dict = usual


def is_direct(connection: BaseDatabaseWrapper) -> bool:
    """Whether the session is the server's own, and not one that a pooler lends.

    A pooler makes up the process number that it greets its clients with, to route their cancel
    requests by.
    """
    connection.ensure_connection()
    greeted = connection.connection.info.backend_pid
    return bool(fetch_value(connection, sql.SQL("SELECT pg_catalog.pg_backend_pid()")) == greeted)


def is_connection_lost(error: BaseException) -> bool:
    """Whether an error means that the session is gone, not only its statement.

    What the server says about a statement has an SQLSTATE; what libpq says about a socket has
    none. (Django's connection is no witness: after a failed COMMIT it has connected anew.)
    """
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    sqlstate = getattr(error.__cause__, "sqlstate", None)
    return sqlstate is None or sqlstate in SESSION_ENDED
