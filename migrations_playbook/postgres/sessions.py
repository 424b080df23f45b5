"""Django's connections as sessions of the server: their kind, their name, and their end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import PlaybookError
from migrations_playbook.postgres.query import (
    READ_COMMITTED,
    TRANSACTION_TIMEOUT_SINCE,
    execute_alone,
    fetch_value,
    server_version,
)

# The server's errors as it ends a session: by an administrator, a crash, a start in progress, or a
# timeout of idle transactions, of long ones, and of idle sessions.
SESSION_ENDED = {"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"}


def postgresql(alias: str) -> BaseDatabaseWrapper:
    """Return the connection of a database alias, if PostgreSQL's.

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
    """Make the connection a session of its own with an application name, within this context.

    The name is part of the startup message, so no setting is left behind in a pooled session:
    PgBouncer carries the name over to any session. A pool in this process would not, and is passed
    by.

    Arguments:
        connection: outside a transaction; its session is closed, before and after.
        application: the session's name in pg_stat_activity.
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


def rename_session(connection: BaseDatabaseWrapper, application: str) -> None:
    """Rename a session of our own for pg_stat_activity, for longer than a transaction.

    Not behind a pooler, where the name would stay behind in a session of somebody else's.
    """
    fetch_value(
        connection,
        sql.SQL("SELECT pg_catalog.set_config('application_name', %s, false)"),
        [application],
    )


def is_direct(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the session is the server's own, not lent by a pooler.

    A pooler greets its clients with an invented process number, to route their cancel requests.
    """
    connection.ensure_connection()
    greeted = connection.connection.info.backend_pid
    return bool(fetch_value(connection, sql.SQL("SELECT pg_catalog.pg_backend_pid()")) == greeted)


def lift_timeouts(connection: BaseDatabaseWrapper, *, lock_timeout_ms: int = 0) -> None:
    """Free a session of the settings for the site's requests, where no transaction can.

    VACUUM and concurrent builds run in no transaction of ours, and take as long as the table is
    large. Behind a pooler nothing is changed: a setting could stay in somebody else's session.

    Arguments:
        connection: a session of its own, outside a transaction, which is closed afterwards.
        lock_timeout_ms: how long the statement may wait for a lock, in milliseconds; 0 for ever.
    """
    if not is_direct(connection):
        return
    settings = {
        "statement_timeout": "0",
        "lock_timeout": f"{lock_timeout_ms}ms",
        "default_transaction_isolation": READ_COMMITTED,
        # A single process: more would take the site's cores.
        "max_parallel_maintenance_workers": "0",
    }
    if server_version(connection) >= TRANSACTION_TIMEOUT_SINCE:
        settings["transaction_timeout"] = "0"
    for name, value in settings.items():
        statement = sql.SQL("SET {} = {}").format(sql.Identifier(name), value)
        execute_alone(connection, statement)


class Session(threading.Thread):
    """A thread with a connection of its own, which another thread can cancel.

    Arguments:
        using: the database alias.
        application: the session's name in pg_stat_activity.
        work: the work to do with its connection.
    """

    def __init__(
        self, using: str, application: str, work: Callable[[BaseDatabaseWrapper], None]
    ) -> None:
        super().__init__(daemon=True)
        self.using = using
        self.application = application
        self.work = work
        self.error: BaseException | None = None
        self.lost = False
        self._connection: BaseDatabaseWrapper | None = None

    def run(self) -> None:
        """Do the work in a session of its own, and keep its error."""
        with named_session(connections[self.using], self.application) as connection:
            self._connection = connection
            try:
                self.work(connection)
            except BaseException as error:
                self.error = error
                self.lost = isinstance(error, DatabaseError) and is_connection_lost(error)
            finally:
                self._connection = None

    @property
    def pid(self) -> int | None:
        """The session's server process; None without a session. A pooler makes the number up."""
        raw: Any = self._connection and self._connection.connection
        return None if raw is None or raw.closed else int(raw.info.backend_pid)

    def cancel(self) -> None:
        """Cancel the running statement, if any."""
        raw: Any = self._connection and self._connection.connection
        if raw is not None:
            with contextlib.suppress(Exception):
                raw.cancel()

    def end(self) -> None:
        """Cancel the running statement, as often as needed, and wait for the end of the thread."""
        while self.is_alive():
            self.cancel()
            self.join(0.2)


def is_connection_lost(error: BaseException) -> bool:
    """Tell whether an error means the end of the session, not only of its statement.

    The server's errors about a statement have an SQLSTATE; libpq's about a socket have none.
    (Django's connection is no witness: after a failed COMMIT Django has connected anew.)
    """
    if not isinstance(error, DatabaseError | InterfaceError):
        return False
    sqlstate = getattr(error.__cause__, "sqlstate", None)
    if sqlstate is None:
        return isinstance(error, OperationalError | InterfaceError)
    # The timeouts of idle and of long transactions are no OperationalError of the driver's.
    return sqlstate in SESSION_ENDED


def is_connection_refused(error: BaseException) -> bool:
    """Tell whether an error means that there never was a session."""
    # The driver hands on the connection that it failed to open.
    return is_connection_lost(error) and getattr(error.__cause__, "pgconn", None) is not None
