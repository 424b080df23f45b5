"""How the engine talks to PostgreSQL: composed statements on Django's connections.

Nothing here opens a transaction or changes a setting for longer than one: see `set_local`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

Query = sql.Composable
Row = tuple[Any, ...]


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


def pin_search_path(connection: BaseDatabaseWrapper, *schemas: str) -> None:
    """Have every name in a definition qualified, and nothing looked up along a path.

    Until the end of the transaction. The text of a view or a trigger is then the same to every
    session, and a schema earlier in somebody's path changes nothing.

    Arguments:
        schemas: where operators are looked up besides: the schema of the column's type.
    """
    path = [sql.Identifier(each).as_string(None) for each in dict.fromkeys(schemas)]
    set_local(connection, "search_path", ", ".join(["pg_catalog", *path, "pg_temp"]))
