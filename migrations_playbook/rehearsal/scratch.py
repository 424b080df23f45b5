"""A database for the rehearsal alone: made on the same server, and dropped whatever happens."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlencode

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import pq, sql

from migrations_playbook.errors import PlaybookError

# The database that is connected to while another one is made or dropped.
MAINTENANCE = "postgres"


@contextmanager
def scratch(connection: BaseDatabaseWrapper, template: str | None) -> Iterator[str]:
    """Make a database, hand out its URL, and drop it in the end with whoever is connected.

    Arguments:
        connection: any of the server.
        template: a database to copy; None for an empty one.

    Raises:
        PlaybookError: the template is not there or in use, or the role may not create databases.
    """
    name = f"rehearsal_{os.getpid()}_{secrets.token_hex(3)}"
    server = url(connection, MAINTENANCE)
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(template or "template0")
    )
    if template is not None:
        connection.close()  # it may be of this very database
    try:
        _run(server, statement)
    except pg_errors.InvalidCatalogName:
        raise PlaybookError(
            f'There is no database "{template}" to copy on this server. Name another one with '
            "--template, or leave it out to have rows made."
        ) from None
    except pg_errors.ObjectInUse:
        raise PlaybookError(
            f'The database "{template}" is in use, and PostgreSQL copies none that is. '
            "Disconnect its sessions, then run the same command again."
        ) from None
    except pg_errors.InsufficientPrivilege:
        raise PlaybookError(
            "This role may not create databases. Give it CREATEDB, or name a server where it may "
            "in DATABASE_URL."
        ) from None
    try:
        yield url(connection, name)
    finally:
        _run(
            server,
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)),
        )


def url(connection: BaseDatabaseWrapper, name: str) -> str:
    """The address of another database of the same server, fit for DATABASE_URL and for libpq."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    found = {
        key: str(value)
        for key, value in connection.get_connection_params().items()
        if key in known and value not in (None, "")
    }
    found.pop("dbname", None)
    found.pop("client_encoding", None)
    user, password = found.pop("user", ""), found.pop("password", "")
    host, port = found.pop("host", ""), found.pop("port", "")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    place = quote(host, safe="") + (f":{port}" if port else "")
    query = f"?{urlencode(found)}" if found else ""
    return f"postgresql://{login}{'@' if login else ''}{place}/{quote(name, safe='')}{query}"


def _run(server: str, statement: sql.Composed) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement)
