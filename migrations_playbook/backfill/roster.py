"""Who is at work, on any host: each session of a backfill says it in its own name.

A name is `ticket_new_token_backfill: waits: replica lag`: the backfill's, the doing, the reason. So
pg_stat_activity, the status and every monitor show it, and nothing is stored anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.backfill.batch import application_name
from migrations_playbook.postgres.names import MAX_NAME_BYTES
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.sessions import is_direct, rename_session
from migrations_playbook.replacement import Replacement

# What a session does, but for what the supervisor says of the pace ("feels 1.4/5, 6 ms").
FILLS, WAITS, VACUUMS, PROBES, LEADS = "fills", "waits", "vacuums", "probes", "leads"
# A probe says the site's latencies at rest, which the probes of other processes read.
BASELINE = "rest "
# A worker says a pause between batches only where longer, in seconds: to say it is a round trip.
LONG_PAUSE = 0.5


@dataclass(frozen=True)
class Worker:
    """A session of a backfill.

    Arguments:
        host: the client's address; None over a Unix socket. Behind a pooler it is the pooler's.
        process: the server's process of the session, as in pg_stat_activity.
        what: what the session does: "fills", "waits", "vacuums", "probes", "leads", or, of who
            leads beside others, "feels 1.4/5, 6 ms".
        why: the signal waited for, "replica lag+1" where there is another; None without.
    """

    host: str | None
    process: int
    what: str
    why: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Build the form of the worker in the JSON result."""
        return dict(vars(self))

    def __str__(self) -> str:
        return f"{spell_doing(self.what, self.why)} (pid {self.process})"


class Voice:
    """What a session says of its doings, at a round trip for each change.

    Behind a pooler it says nothing: the name would stay behind in somebody else's session. What a
    session says while it fills is part of each batch (see `batch_settings`), and is seen there too.

    Arguments:
        connection: of the session.
        application: see `batch.application_name`.
        said: what its name says from the start.
    """

    def __init__(self, connection: BaseDatabaseWrapper, application: str, said: str = "") -> None:
        self.connection = connection
        self.application = application
        self._said: str | None = said if is_direct(connection) else None

    def say(self, what: str, why: str | None = None) -> None:
        """Say what the session does from now on, and why."""
        doing = spell_doing(what, why)
        if self._said not in (None, doing):
            rename_session(self.connection, name_session(self.application, doing))
            self._said = doing


def spell_doing(what: str, why: str | None = None) -> str:
    """Spell a doing with its reason."""
    return what if why is None else f"{what}: {why}"


def spell_signals(signals: Sequence[str]) -> str:
    """Spell the signals waited for within a name's bytes: the first, and how many besides."""
    return signals[0] + (f"+{len(signals) - 1}" if len(signals) > 1 else "")


def name_session(application: str, doing: str) -> str:
    """Name a session after its backfill and its doing, within PostgreSQL's 63 bytes."""
    return f"{application}: {doing}"[:MAX_NAME_BYTES]


def read_workers(connection: BaseDatabaseWrapper, replacement: Replacement) -> list[Worker]:
    """Read who is at work on a replacement, on any host, the hosts one after the other.

    Lock: none; reads pg_stat_activity. (A role that may not read other roles' sessions sees their
    names nevertheless, and not their hosts.)
    """
    application = application_name(replacement)
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT pg_catalog.host(client_addr), pid,
                   pg_catalog.substr(application_name, %s)
              FROM pg_catalog.pg_stat_activity
             WHERE datname = pg_catalog.current_database()
               AND pg_catalog.split_part(application_name, ':', 1) = %s
               AND pid <> pg_catalog.pg_backend_pid()
             ORDER BY client_addr NULLS FIRST, pid"""),
        [len(application) + 3, application],
    )
    return [_read_worker(*row) for row in rows]


def _read_worker(host: str | None, process: int, doing: str) -> Worker:
    if doing.startswith(BASELINE):
        return Worker(host, process, PROBES)
    what, _, why = doing.partition(": ")
    return Worker(host, process, what or LEADS, why or None)
