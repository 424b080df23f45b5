"""Who is in the way: sessions and prepared transactions that others wait for.

Of another session's query only the command is shown, SELECT or UPDATE: the rest may be a secret, in
more forms of literals, comments and names than a scanner would know.

Lock: none that conflicts with anything, in every function of this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import Row, execute, fetch_all, fetch_row
from migrations_playbook.postgres.tables import TREE

# The table lock modes as pg_locks spells them.
STRONGEST_FIRST = [
    "AccessExclusiveLock",
    "ExclusiveLock",
    "ShareRowExclusiveLock",
    "ShareLock",
    "ShareUpdateExclusiveLock",
    "RowExclusiveLock",
    "RowShareLock",
    "AccessShareLock",
]


# The commands that may be shown of a query: its first word, when among these.
COMMANDS = {
    *("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "WITH", "FETCH", "EXECUTE", "CALL"),
    *("ALTER", "CREATE", "DROP", "TRUNCATE", "COMMENT", "GRANT", "REVOKE", "LOCK", "REFRESH"),
    *("VACUUM", "ANALYZE", "CLUSTER", "REINDEX", "BEGIN", "SAVEPOINT", "RELEASE", "SET", "SHOW"),
}


@dataclass(frozen=True)
class Holder:
    """A session, or a prepared transaction, in somebody's way.

    Arguments:
        pid: the server process, or None for a prepared transaction.
        mode: the strongest lock mode held on the table; empty where no table is meant.
        age_ms: how long its transaction has been open, in milliseconds; None if hidden from us.
        state: as pg_stat_activity has it; empty if hidden from us.
        application: the session's own name.
        command: the first word of its last query, SELECT say; empty if hidden or unknown.
        prepared: the prepared transaction's name.
    """

    pid: int | None
    mode: str
    age_ms: float | None
    state: str
    application: str
    command: str
    prepared: str | None

    @property
    def name(self) -> str:
        """The name by which a person tells the holder from others."""
        if self.prepared is not None:
            return f'prepared transaction "{self.prepared}"'
        application = f' "{self.application}"' if self.application else ""
        return f"pid {self.pid}{application}"

    def __str__(self) -> str:
        about = [self.mode, self.state]
        if self.age_ms is not None:
            about.append(f"open for {self.age_ms / 1000:.1f} s")
        if self.command:
            about.append(f"last command {self.command}")
        return f"{self.name} ({', '.join(filter(None, about))})"


def read_holders(connection: BaseDatabaseWrapper, table: sql.Identifier) -> list[Holder]:
    """Read who else holds a lock on the table or a partition of it; the oldest first."""
    _look_anew(connection)
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT l.pid,
                   (array_agg(l.mode ORDER BY array_position(%s, l.mode)))[1],
                   extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))
                       * 1000,
                   coalesce(a.state, ''), coalesce(a.application_name, ''), {command}, p.gid
              FROM pg_catalog.pg_locks l
              LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
              -- A prepared transaction has no pid; the lock on its own number tells which it is.
              LEFT JOIN pg_catalog.pg_locks x
                     ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
                    AND x.virtualtransaction = l.virtualtransaction
              LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
             WHERE l.locktype = 'relation'
               AND l.relation IN (SELECT oid FROM {tree} AS tree)
               AND l.database = (SELECT oid FROM pg_catalog.pg_database
                                  WHERE datname = pg_catalog.current_database())
               AND l.granted
               AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
             GROUP BY l.pid, a.xact_start, p.prepared, a.state, a.application_name, a.query, p.gid
             ORDER BY coalesce(a.xact_start, p.prepared) NULLS LAST""").format(
            tree=TREE, command=COMMAND
        ),
        [STRONGEST_FIRST, table.as_string(None)],
    )
    return [_holder(row) for row in rows]


def find_old_holders(
    connection: BaseDatabaseWrapper, table: sql.Identifier, old_ms: float
) -> list[Holder]:
    """Find the holders of the table in a transaction older than `old_ms` milliseconds."""
    return [
        holder
        for holder in read_holders(connection, table)
        if holder.age_ms is not None and holder.age_ms > old_ms
    ]


def read_blockers(connection: BaseDatabaseWrapper, pid: int) -> list[Holder]:
    """Read whom a session waits for; the oldest first.

    A concurrent build of an index waits for every older transaction, whatever its locks.

    Arguments:
        pid: the waiting session.
    """
    _look_anew(connection)
    rows = fetch_all(
        connection,
        sql.SQL("""
            WITH blocker (pid) AS (SELECT unnest(pg_catalog.pg_blocking_pids(%s)))
            SELECT b.pid, '', extract(epoch FROM clock_timestamp() - a.xact_start) * 1000,
                   coalesce(a.state, ''), coalesce(a.application_name, ''), {command}, NULL::text
              FROM blocker b LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
             WHERE b.pid <> 0
            UNION ALL
            -- The process number 0 stands for some prepared transaction.
            SELECT NULL, '', extract(epoch FROM clock_timestamp() - p.prepared) * 1000, '', '', '',
                   p.gid
              FROM pg_catalog.pg_prepared_xacts p
             WHERE p.database = pg_catalog.current_database()
               AND EXISTS (SELECT FROM blocker WHERE pid = 0)
             ORDER BY 3 DESC NULLS LAST""").format(command=COMMAND),
        [pid],
    )
    return [_holder(row) for row in rows]


def read_builders(connection: BaseDatabaseWrapper, table: sql.Identifier) -> list[Holder]:
    """Read who builds an index on the table or a partition of it now, ourselves apart."""
    rows = fetch_all(
        connection, sql.SQL("SELECT pid FROM pg_catalog.pg_stat_progress_create_index")
    )
    building = {row[0] for row in rows}
    return [each for each in read_holders(connection, table) if each.pid in building]


def count_waiters(connection: BaseDatabaseWrapper, tables: Sequence[int]) -> tuple[int, float]:
    """Count the sessions waiting for a lock on one of the tables; the longest wait in milliseconds.

    Asked just before the holder's commit, these are all sessions that had to wait: pg_locks tells
    since when (PostgreSQL 14+).

    Arguments:
        tables: their oids.
    """
    count, longest = fetch_row(
        connection,
        sql.SQL("""
            SELECT count(*),
                   coalesce(max(extract(epoch FROM clock_timestamp() - waitstart)) * 1000, 0)
              FROM pg_catalog.pg_locks
             WHERE NOT granted AND locktype = 'relation' AND relation = ANY (%s)"""),
        [list(tables)],
    )
    return int(count), float(longest)


# The first word of a session's query, in capitals.
COMMAND = sql.SQL("coalesce(upper(substring(a.query FROM '^[[:space:]]*([A-Za-z]+)')), '')")


def _look_anew(connection: BaseDatabaseWrapper) -> None:
    # A transaction sees pg_stat_activity as it was when it first looked: a session that has begun
    # another transaction since would seem to hold on to its old one.
    execute(connection, sql.SQL("SELECT pg_catalog.pg_stat_clear_snapshot()"))


def _holder(row: Row) -> Holder:
    pid, mode, age, state, application, command, gid = row
    return Holder(
        pid=pid,
        mode=mode,
        age_ms=None if age is None else float(age),
        state=state,
        application=application,
        command=command if command in COMMANDS else "",
        prepared=gid,
    )
