"""A database for the rehearsal alone: made on the same server, and dropped whatever happens.

Whatever happens but SIGKILL and a power cut. So every scratch database bears a comment, and its
rehearsal holds an advisory lock of its name for as long as it lives: one that bears the comment
and whose lock is free has lost its rehearsal, and the next one drops it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import pq, sql

from migrations_playbook.errors import PlaybookError

# The database that is connected to while another one is made or dropped.
MAINTENANCE = "postgres"
MARK = "Scratch database of a rehearsal. The next one drops it if this one was killed."


@contextmanager
def scratch(connection: BaseDatabaseWrapper, template: str | None) -> Iterator[str]:
    """Make a database, hand out its URL, and drop it in the end with whoever is connected.

    Lock: an advisory one of its name, in a session of its own in the maintenance database.

    Arguments:
        connection: any of the server.
        template: a database to copy; None for an empty one.

    Raises:
        PlaybookError: the template is not there or in use, or the role may not create databases.
    """
    name = f"rehearsal_{os.getpid()}_{secrets.token_hex(3)}"
    server = url(connection, MAINTENANCE)
    if template is not None:
        connection.close()  # it may be of this very database
    with psycopg.connect(server, autocommit=True) as owner:
        # The lock lives as long as the session, which has nothing else to do meanwhile.
        owner.execute("SELECT pg_catalog.set_config('idle_session_timeout', '0', false)")
        owner.execute("SELECT pg_catalog.pg_advisory_lock(hashtextextended(%s, 0))", [name])
        try:
            _create(owner, name, template)
            yield url(connection, name)
        finally:
            # In another session: the owner's may have been ended meanwhile.
            with psycopg.connect(server, autocommit=True) as session:
                _drop(session, name)


def drop_orphans(connection: BaseDatabaseWrapper) -> list[str]:
    """Drop the scratch databases whose rehearsal was killed.

    Lock: the advisory one of each, while it is dropped.

    Arguments:
        connection: any of the server.

    Returns:
        The names of those that were dropped.
    """
    dropped = []
    with psycopg.connect(url(connection, MAINTENANCE), autocommit=True) as session:
        marked = session.execute(
            """
            SELECT datname FROM pg_catalog.pg_database
             WHERE datname ~ '^rehearsal_[0-9]+_[0-9a-f]{6}$'
               AND pg_catalog.shobj_description(oid, 'pg_database') = %s
               AND pg_catalog.pg_has_role(datdba, 'USAGE')""",
            [MARK],
        ).fetchall()
        for (name,) in marked:
            free = session.execute(
                "SELECT pg_catalog.pg_try_advisory_lock(hashtextextended(%s, 0))", [name]
            ).fetchone()
            if free == (True,):
                _drop(session, name)
                dropped.append(name)
    return dropped


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


def _create(owner: psycopg.Connection[Any], name: str, template: str | None) -> None:
    try:
        owner.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template or "template0")
            )
        )
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
    owner.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), MARK))


def _drop(session: psycopg.Connection[Any], name: str) -> None:
    session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
