"""How the engine talks to PostgreSQL: composed statements, transactions with their settings.

All SQL of the plays goes through this door. A role, a database or Django's OPTIONS may have set
timeouts, an isolation level or row security for the site's requests; none of these holds here.
Nothing is set for longer than a transaction.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from django.db import Error as DatabaseError
from django.db import InternalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.errors import Refused

Query = sql.Composable
Row = tuple[Any, ...]

READ_COMMITTED = "read committed"
# The settings of every transaction of the engine.
SETTINGS: Mapping[str, str | None] = {
    # PostgreSQL raises where it would otherwise leave out rows that the role may not see.
    "row_security": "off",
    # Builds, proofs and counts take as long as the table is large.
    "statement_timeout": "0",
    # For the locks of any SELECT. Strong locks have shorter bounds: see `locks`.
    "lock_timeout": "30s",
    # Longer than any pause of ours, and an end to a transaction whose client is frozen.
    "idle_in_transaction_session_timeout": "60s",
}
# Since PostgreSQL 17.
TRANSACTION_TIMEOUT_SINCE = 170000


@contextmanager
def engine_transaction(connection: BaseDatabaseWrapper, **settings: str | None) -> Iterator[None]:
    """Open a transaction that does not depend on the settings for the site's requests.

    READ COMMITTED: each statement sees all earlier commits, as every check under a lock must.
    Inside another transaction this is a savepoint, and only `settings` are set; they stay until the
    whole transaction ends, unless the savepoint is rolled back.

    Arguments:
        settings: more settings, or others than `SETTINGS`; None leaves the session's own.
    """
    outermost = not connection.in_atomic_block
    with keep_interrupts(), transaction.atomic(using=connection.alias):
        if outermost:
            _send(connection, sql.SQL("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"), settings)
        elif settings:
            _send(connection, None, settings, defaults={})
        yield


@contextmanager
def taken_back(connection: BaseDatabaseWrapper, **settings: str | None) -> Iterator[None]:
    """Open a transaction as `engine_transaction` does, and roll back all work within at its end."""
    with engine_transaction(connection, **settings):
        yield
        transaction.set_rollback(True, using=connection.alias)


def adopt_transaction(connection: BaseDatabaseWrapper) -> None:
    """Give somebody else's transaction, `migrate`'s say, the engine's settings.

    Raises:
        Refused: the transaction has begun at another isolation level, and has read already.
    """
    if not connection.in_atomic_block:
        return
    isolation = None
    # SHOW and SET need no snapshot: an isolation level can be changed until there is one.
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        level = str(cursor.fetchone()[0])
    if level != READ_COMMITTED:
        isolation = sql.SQL("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    try:
        _send(connection, isolation, {})
    except InternalError as error:
        if not isinstance(error.__cause__, pg_errors.ActiveSqlTransaction):
            raise
        raise Refused(
            f"The transaction runs at isolation level {level.upper()} and has read already, so a "
            "lock would not show what others commit meanwhile; nothing was changed. Put the "
            "operation first in a migration of its own."
        ) from None


def _send(
    connection: BaseDatabaseWrapper,
    isolation: Query | None,
    settings: Mapping[str, str | None],
    defaults: Mapping[str, str | None] = SETTINGS,
) -> None:
    """Send the beginning of a transaction, in a single message."""
    messages = _compose_beginning(connection, isolation, settings, defaults)
    if not messages:
        return
    with _open_cursor(connection) as cursor:
        cursor.execute(as_text(connection, sql.SQL("; ").join(messages)), None)


def _compose_beginning(
    connection: BaseDatabaseWrapper,
    isolation: Query | None,
    settings: Mapping[str, str | None],
    defaults: Mapping[str, str | None] = SETTINGS,
) -> list[Query]:
    chosen = {**defaults, **settings}
    if defaults and server_version(connection) >= TRANSACTION_TIMEOUT_SINCE:
        chosen.setdefault("transaction_timeout", "0")
    values = [(name, value) for name, value in chosen.items() if value is not None]
    messages = [isolation] if isolation is not None else []
    if values:
        # set_config(), because SET takes a search_path of several schemas for one name.
        calls = sql.SQL(", ").join(
            sql.SQL("pg_catalog.set_config({}, {}, true)").format(name, value)
            for name, value in values
        )
        messages.append(sql.SQL("SELECT {}").format(calls))
    return messages


def spell_message(connection: BaseDatabaseWrapper, query: Query, **settings: str | None) -> str:
    """Write a query and its transaction as a message for `run_message`.

    Arguments:
        query: may have placeholders.
        settings: as for `engine_transaction`.
    """
    connection.ensure_connection()
    isolation = sql.SQL("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    parts = [*_compose_beginning(connection, isolation, settings), query]
    return as_text(connection, _escaped(sql.SQL("; ").join(parts), ()))


def run_message(connection: BaseDatabaseWrapper, message: str, params: Sequence[Any] = ()) -> Row:
    """Run a query in a transaction of its own, in a single round trip; return its first row.

    PostgreSQL runs a message of several statements as one transaction, and transaction-local
    settings hold for all. Such a message has no parameters, so the values are written into the
    text.

    Arguments:
        connection: outside a transaction.
        message: see `spell_message`.
    """
    assert not connection.in_atomic_block, "the transaction would be somebody else's"
    connection.ensure_connection()
    text = psycopg.ClientCursor(connection.connection).mogrify(cast("Any", message), params)
    with _open_cursor(connection) as cursor:
        cursor.execute(text, None)
        while cursor.nextset():
            pass
        row: Row = cursor.fetchone()
    return row


def execute(
    connection: BaseDatabaseWrapper, query: Query, params: Sequence[Any] | None = None
) -> int:
    """Run a statement; return the number of rows touched."""
    with _running(connection, query, params) as cursor:
        return int(cursor.rowcount)


def execute_alone(connection: BaseDatabaseWrapper, statement: Query) -> None:
    """Run a statement that PostgreSQL allows in no transaction, VACUUM say.

    No setting can be local to such a statement: see `sessions.lift_timeouts`.
    """
    assert not connection.in_atomic_block, "this statement runs in no transaction"
    with _open_cursor(connection) as cursor:
        cursor.execute(as_text(connection, statement), None)


def fetch_all(
    connection: BaseDatabaseWrapper, query: Query, params: Sequence[Any] | None = None
) -> list[Row]:
    """Run a query; return its rows."""
    with _running(connection, query, params) as cursor:
        return list(cursor.fetchall())


def fetch_one(
    connection: BaseDatabaseWrapper, query: Query, params: Sequence[Any] | None = None
) -> Row | None:
    """Run a query; return its first row, or None."""
    with _running(connection, query, params) as cursor:
        row: Row | None = cursor.fetchone()
    return row


def fetch_row(
    connection: BaseDatabaseWrapper, query: Query, params: Sequence[Any] | None = None
) -> Row:
    """Run a query of exactly one row, an aggregate say; return the row."""
    (row,) = fetch_all(connection, query, params)
    return row


def fetch_value(
    connection: BaseDatabaseWrapper, query: Query, params: Sequence[Any] | None = None
) -> Any:
    """Run a query; return the first column of its first row, or None."""
    row = fetch_one(connection, query, params)
    return row[0] if row else None


@contextmanager
def _running(
    connection: BaseDatabaseWrapper, query: Query, params: Sequence[Any] | None
) -> Iterator[Any]:
    """Run a statement, in a transaction of its own where there is none."""
    if not connection.in_atomic_block:
        with engine_transaction(connection), _running(connection, query, params) as cursor:
            yield cursor
        return
    with _open_cursor(connection) as cursor:
        cursor.execute(as_text(connection, _escaped(query, params)), params)
        yield cursor


@contextmanager
def _open_cursor(connection: BaseDatabaseWrapper) -> Iterator[Any]:
    with keep_interrupts(), connection.cursor() as cursor:
        yield cursor


@contextmanager
def keep_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt where the driver has raised another error in its place.

    On Ctrl-C the driver cancels the statement, and waits for its end. When a lock timeout or the
    end of the session comes first, psycopg before 3.3.9 raises that error, and only its context is
    the interrupt: the next attempt would begin as if nobody had asked to stop. So is it when an
    interrupt comes just before a COMMIT: Django then complains of the open transaction.
    """
    handled = sys.exc_info()[1]
    try:
        yield
    except DatabaseError as error:
        hidden = error.__cause__ and error.__cause__.__context__
        # An interrupt that is being handled is the context of every error from here on.
        if isinstance(hidden, KeyboardInterrupt) and hidden is not handled:
            raise KeyboardInterrupt from error
        raise


def server_version(connection: BaseDatabaseWrapper) -> int:
    """Read the version of a connection's server: 180003, say."""
    connection.ensure_connection()
    return int(connection.connection.info.server_version)


def as_text(connection: BaseDatabaseWrapper, query: Query) -> str:
    """Write a composed statement as text, as Django's cursors and their wrappers expect."""
    return query.as_string(connection.connection)


def _escaped(query: Query, params: Sequence[Any] | None) -> Query:
    """Double the percent signs of a query's names and literals, where it has parameters.

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


def set_local(connection: BaseDatabaseWrapper, name: str, value: str) -> None:
    """Change a setting until the end of the transaction; see `set_locals`."""
    set_locals(connection, {name: value})


def set_locals(connection: BaseDatabaseWrapper, settings: Mapping[str, str]) -> None:
    """Change settings until the end of the transaction (or the roll-back of its savepoint).

    A local setting needs no restoring and is safe behind a transaction-pooling proxy.
    """
    assert connection.in_atomic_block, "a local setting outside a transaction has no effect"
    _send(connection, None, settings, defaults={})


@contextmanager
def local_settings(connection: BaseDatabaseWrapper, settings: Mapping[str, str]) -> Iterator[None]:
    """Change settings for a part of a transaction. An error leaves them to its rollback."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT name, pg_catalog.current_setting(name)
              FROM pg_catalog.unnest(%s::text[]) AS name"""),
        [list(settings)],
    )
    set_locals(connection, settings)
    yield
    set_locals(connection, dict(rows))


def pin_search_path(connection: BaseDatabaseWrapper, *schemas: str) -> None:
    """Have every name in a definition qualified, and every constant written in full.

    Until the end of the transaction. The text of a view or a trigger is then the same to every
    session, and a schema earlier in somebody's path changes nothing. The settings are pg_dump's: a
    float of fewer digits would be another number, and an interval may be read back as another.

    Arguments:
        schemas: where operators are looked up besides: the schema of the column's type.
    """
    path = [sql.Identifier(each).as_string(None) for each in dict.fromkeys(schemas)]
    texts = {
        "search_path": ", ".join(["pg_catalog", *path, "pg_temp"]),
        "DateStyle": "ISO",
        "IntervalStyle": "postgres",
        "extra_float_digits": "3",
        "bytea_output": "hex",
        "quote_all_identifiers": "off",
        "transform_null_equals": "off",
    }
    set_locals(connection, texts)
