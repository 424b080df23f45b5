"""How the engine talks to PostgreSQL: composed statements on Django's connections.

Nothing here opens a transaction or changes a setting for longer than one: see `set_local`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import PlaybookError

Query = sql.Composable
Row = tuple[Any, ...]

# What the server says as it ends a session: by an administrator, a crash, a start in progress,
# or a timeout of idle transactions and sessions.
SESSION_ENDED = {"57P01", "57P02", "57P03", "57P05", "25P03"}

# NAMEDATALEN is 64 in every stock build: 63 bytes of name.
MAX_NAME_BYTES = 63


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
def named(connection: BaseDatabaseWrapper, application: str) -> Iterator[BaseDatabaseWrapper]:
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


def _escaped(query: Query, params: Sequence[Any] | None) -> Query:
    """A query whose names and literals may have a percent sign beside parameters.

    With parameters the driver takes every percent sign for a placeholder, psycopg.sql's own
    quoting of names included.
    """
    if params is None:
        return query
    if isinstance(query, sql.Composed):
        return sql.Composed([_escaped(part, params) for part in query])
    if isinstance(query, sql.Identifier | sql.Literal):
        return sql.SQL(query.as_string(None).replace("%", "%%"))
    return query


def execute(
    connection: BaseDatabaseWrapper, query: Query, params: Sequence[Any] | None = None
) -> int:
    """Run one statement; return the number of rows that it touched."""
    with connection.cursor() as cursor:
        cursor.execute(cast("Any", _escaped(query, params)), params)
        return int(cursor.rowcount)


def fetch_all(
    connection: BaseDatabaseWrapper, query: Query, params: Sequence[Any] | None = None
) -> list[Row]:
    """Run one query; return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(cast("Any", _escaped(query, params)), params)
        return cast("list[Row]", cursor.fetchall())


def fetch_one(
    connection: BaseDatabaseWrapper, query: Query, params: Sequence[Any] | None = None
) -> Row | None:
    """Run one query; return its first row, or None."""
    with connection.cursor() as cursor:
        cursor.execute(cast("Any", _escaped(query, params)), params)
        return cast("Row | None", cursor.fetchone())


def fetch_value(
    connection: BaseDatabaseWrapper, query: Query, params: Sequence[Any] | None = None
) -> Any:
    """Run one query; return the first column of its first row, or None."""
    row = fetch_one(connection, query, params)
    return row[0] if row else None


def set_local(connection: BaseDatabaseWrapper, name: str, value: str) -> None:
    """Change a setting until the end of the transaction (or the roll-back of its savepoint).

    set_config() takes parameters, which SET does not under server-side binding; being local,
    it needs no restoring and is safe behind a transaction-pooling proxy.
    """
    assert connection.in_atomic_block, "a local setting outside a transaction has no effect"
    execute(connection, sql.SQL("SELECT pg_catalog.set_config(%s, %s, true)"), [name, value])


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


def unquoted(name: str) -> str:
    """A `db_table` or `db_column` as PostgreSQL has it, without the quotes that Django leaves.

    Django puts quotes around a name unless it has them already, and doubles none inside.
    """
    if len(name) > 1 and name.startswith('"') and name.endswith('"'):
        name = name[1:-1]
    return name.replace('""', '"')


def name_of(*parts: str, limit: int = MAX_NAME_BYTES) -> str:
    """A name made of parts, cut to `limit` bytes with a digest to stay unique.

    Deterministic: the same parts give the same name in every run and on every host.
    """
    name = "_".join(parts)
    if len(name.encode()) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    room = limit - len(digest) - 1
    return name.encode()[:room].decode(errors="ignore") + "_" + digest
