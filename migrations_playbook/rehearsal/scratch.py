"""A database for the rehearsal alone: made on the same server, and dropped whatever happens.

Whatever happens but SIGKILL and a power cut. So every scratch database bears a comment, and its
rehearsal holds an advisory lock of its name for life. A database with the comment and a free lock
has lost its rehearsal, and the next rehearsal drops such a database.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import conninfo, pq, sql
from psycopg import errors as pg_errors

from migrations_playbook.errors import PlaybookError

# The database that is connected to while another one is made or dropped.
MAINTENANCE = "postgres"
MARK = "Scratch database of a rehearsal. The next one drops it if this one was killed."


@dataclass(frozen=True)
class ScratchDatabase:
    """The database of a rehearsal.

    Arguments:
        alias: the project's alias for the database, in the processes of the rehearsal.
        name: its name on the server.
        conninfo: how libpq reaches the database.
    """

    alias: str
    name: str
    conninfo: str


@contextmanager
def make_scratch(
    connection: BaseDatabaseWrapper, template: str | None
) -> Iterator[ScratchDatabase]:
    """Make a database, hand it out, and drop it in the end with whoever is connected.

    Lock: an advisory lock of its name, in a session of its own in the maintenance database.

    Arguments:
        connection: any of the server.
        template: a database to copy; None for an empty database.

    Raises:
        PlaybookError: the template is not there or in use, or the role may not create databases.
    """
    name = f"rehearsal_{os.getpid()}_{secrets.token_hex(3)}"
    server = compose_conninfo(connection, MAINTENANCE)
    if template is not None:
        connection.close()  # it may be of this very database
    with psycopg.connect(server, autocommit=True) as owner:
        # The lock lives as long as the session, which has nothing else to do meanwhile.
        owner.execute("SELECT pg_catalog.set_config('idle_session_timeout', '0', false)")
        owner.execute("SELECT pg_catalog.pg_advisory_lock(hashtextextended(%s, 0))", [name])
        try:
            _create_database(owner, name, template)
            yield ScratchDatabase(connection.alias, name, compose_conninfo(connection, name))
        finally:
            # In another session: the owner's may have been ended meanwhile.
            with psycopg.connect(server, autocommit=True) as session:
                _drop_database(session, name)


def drop_orphans(connection: BaseDatabaseWrapper) -> list[str]:
    """Drop the scratch databases whose rehearsal was killed.

    Lock: the advisory lock of each, during its drop.

    Arguments:
        connection: any of the server.

    Returns:
        The names of the dropped databases.
    """
    dropped = []
    with psycopg.connect(compose_conninfo(connection, MAINTENANCE), autocommit=True) as session:
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
                _drop_database(session, name)
                dropped.append(name)
    return dropped


def compose_conninfo(connection: BaseDatabaseWrapper, name: str) -> str:
    """Compose how libpq reaches another database of the same server.

    Arguments:
        connection: any of the server.
        name: the database.
    """
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    found = {
        key: value
        for key, value in connection.get_connection_params().items()
        if key in known and value not in (None, "")
    }
    return conninfo.make_conninfo(**{**found, "dbname": name})


def _create_database(owner: psycopg.Connection[Any], name: str, template: str | None) -> None:
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


def _drop_database(session: psycopg.Connection[Any], name: str) -> None:
    session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
