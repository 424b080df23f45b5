"""The server's own signals of its health, read twice a second: nothing is decided here.

`throttle` decides.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.errors import primary_message
from migrations_playbook.postgres.query import (
    engine_transaction,
    fetch_all,
    fetch_row,
    fetch_value,
    set_local,
)
from migrations_playbook.postgres.server import wal_position

# A signal that takes longer than this to read counts as unreadable, in milliseconds.
READ_TIMEOUT_MS = 2000
# A session that has ended a statement so lately counts as at work, in seconds.
RECENT = 1.0
# The errors of a server that refuses a function or a view for good. (Aurora has no log to tell of.)
REFUSED = (
    pg_errors.InsufficientPrivilege,
    pg_errors.FeatureNotSupported,
    pg_errors.UndefinedFunction,
    pg_errors.ObjectNotInPrerequisiteState,
)
# For how long the log's positions, which tell a replica's lag, are remembered, in seconds.
REMEMBER = 3600.0


@dataclass(frozen=True)
class Readings:
    """The readings of the signals.

    A field keeps its default where the server has no such thing (no replica, no slot).

    Arguments:
        replica_lag: seconds of each replica by name.
        slot_wal: bytes of each slot by name.
        idle_slots: the slots that nobody reads.
        archive_backlog: files.
        waiting_ms: the longest wait behind us, in milliseconds.
        waiting: sessions behind us.
        active_sessions: of others.
        recent_sessions: of others, active now or within the last second.
        wal_rate: bytes a second since the last reading.
        query: the result of the user's query.
        unreadable: the unreadable signals, and why.
    """

    replica_lag: dict[str, float] = field(default_factory=dict)
    slot_wal: dict[str, float] = field(default_factory=dict)
    idle_slots: frozenset[str] = frozenset()
    archive_backlog: int = 0
    waiting_ms: float = 0.0
    waiting: int = 0
    active_sessions: int = 0
    recent_sessions: int = 0
    wal_rate: float = 0.0
    query: Any = 0
    unreadable: dict[str, str] = field(default_factory=dict)


class Signals:
    """The reader of the signals, again and again.

    Arguments:
        application: the name of our own sessions (see `batch.application_name`).
        query: the user's own signal.
    """

    def __init__(self, application: str, query: str | None = None) -> None:
        self.application = application
        self.query = query
        self._positions: deque[tuple[float, int]] = deque()
        self._readers = {
            "replica lag": self._read_replica_lag,
            "slot WAL": self._read_slot_wal,
            "archive backlog": self._read_archive_backlog,
            "sessions behind us": self._read_waiting,
            "active sessions": self._read_active,
            "WAL rate": self._read_wal_rate,
        }
        if query is not None:
            self._readers["throttle query"] = self._read_query

    def leave_out(self, connection: BaseDatabaseWrapper) -> list[str]:
        """Leave out signals that the role may not read, or the server lacks; return sentences.

        Lock: none.
        """
        sentences = []
        if not fetch_value(
            connection,
            sql.SQL("SELECT pg_catalog.pg_has_role(current_user, 'pg_monitor', 'USAGE')"),
        ):
            for name in ("replica lag", "archive backlog", "sessions behind us"):
                del self._readers[name]
            sentences.append(
                "The role may not read the replicas' lag, the archive's backlog and the waits of "
                "others, nor see other roles' sessions at work, so the backfill does not step "
                "aside for them. GRANT pg_monitor to it."
            )
        for name in set(self._readers) - {"throttle query"}:
            error = self._read_one(connection, name, {})
            if error is not None and isinstance(error.__cause__, REFUSED):
                # A managed server may not have, or may not give, a function or a view.
                del self._readers[name]
                sentences.append(
                    f"The server refuses to tell the {name} ({primary_message(error)}), so the "
                    "backfill does not step aside for it."
                )
        return sorted(sentences)

    def read_all(self, connection: BaseDatabaseWrapper) -> Readings:
        """Read each signal.

        Lock: none, but for the locks of the user's own query.
        """
        readings: dict[str, Any] = {}
        unreadable = {}
        for name in self._readers:
            error = self._read_one(connection, name, readings)
            if error is not None:
                unreadable[name] = primary_message(error)
        return Readings(**readings, unreadable=unreadable)

    def _read_one(
        self, connection: BaseDatabaseWrapper, name: str, readings: dict[str, Any]
    ) -> DatabaseError | None:
        """Read a signal into the readings; return why not, if unreadable."""
        try:
            with engine_transaction(connection):
                set_local(connection, "statement_timeout", f"{READ_TIMEOUT_MS}ms")
                readings |= self._readers[name](connection)
        except DatabaseError as error:
            if connection.connection is None or connection.connection.closed:
                # The next reading opens another connection.
                connection.close()
            return error
        return None

    def _read_replica_lag(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """Read how long ago the log was where each replica has replayed the log to.

        Not `replay_lag`, which stands still while a replica's replay does. On a standby there is
        no current position, but no backfill either.
        """
        rows = fetch_all(
            connection,
            sql.SQL("""
                SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0'),
                       coalesce(nullif(application_name, ''), client_addr::text, pid::text),
                       pg_catalog.pg_wal_lsn_diff(replay_lsn, '0/0')
                  FROM (SELECT) AS one
                  LEFT JOIN pg_catalog.pg_stat_replication
                         ON state IN ('streaming', 'catchup')"""),
        )
        now = time.monotonic()
        self._positions.append((now, int(rows[0][0])))
        while now - self._positions[0][0] > REMEMBER:
            self._positions.popleft()
        return {
            "replica_lag": {
                name: self._seconds_behind(int(replayed), now)
                for _, name, replayed in rows
                if replayed is not None
            }
        }

    def _seconds_behind(self, replayed: int, now: float) -> float:
        """Tell the seconds since the oldest remembered position not replayed yet."""
        return next((now - at for at, written in self._positions if written > replayed), 0.0)

    def _read_slot_wal(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        rows = fetch_all(
            connection,
            sql.SQL("""
                SELECT slot_name, active,
                       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)
                  FROM pg_catalog.pg_replication_slots WHERE restart_lsn IS NOT NULL"""),
        )
        return {
            "slot_wal": {name: float(retained) for name, _, retained in rows},
            "idle_slots": frozenset(name for name, active, _ in rows if not active),
        }

    def _read_archive_backlog(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        return {
            "archive_backlog": fetch_value(
                connection,
                sql.SQL("""
                    SELECT CASE WHEN pg_catalog.current_setting('archive_mode') = 'off' THEN 0 ELSE
                           (SELECT count(*) FROM pg_catalog.pg_ls_archive_statusdir()
                             WHERE name LIKE '%%.ready') END"""),
                [],
            )
        }

    def _read_waiting(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """Read who stands behind a session of ours, of this host or another."""
        count, longest = fetch_row(
            connection,
            sql.SQL("""
                WITH ours AS MATERIALIZED (
                    SELECT pid FROM pg_catalog.pg_stat_activity
                     WHERE pg_catalog.split_part(application_name, ':', 1) = %s),
                waiting AS (
                    SELECT a.pid FROM pg_catalog.pg_stat_activity a
                     WHERE a.wait_event_type = 'Lock'
                       AND pg_catalog.split_part(a.application_name, ':', 1) <> %s
                       AND pg_catalog.pg_blocking_pids(a.pid) && ARRAY(SELECT pid FROM ours))
                SELECT count(DISTINCT w.pid),
                       coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)) * 1000, 0)
                  FROM waiting w
                  JOIN pg_catalog.pg_locks l ON l.pid = w.pid AND NOT l.granted"""),
            [self.application, self.application],
        )
        return {"waiting": count, "waiting_ms": float(longest)}

    def _read_active(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """Read who is at work, and who was a moment ago: requests are too short to be met."""
        active, recent = fetch_row(
            connection,
            sql.SQL("""
                SELECT count(*) FILTER (
                           WHERE state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock'),
                       count(*) FILTER (
                           WHERE state = 'active'
                              OR state_change > clock_timestamp() - %s * interval '1 s')
                  FROM pg_catalog.pg_stat_activity
                 WHERE backend_type = 'client backend'
                   AND pg_catalog.split_part(application_name, ':', 1) <> %s
                   AND pid <> pg_catalog.pg_backend_pid()"""),
            [RECENT, self.application],
        )
        return {"active_sessions": active, "recent_sessions": recent}

    def _read_wal_rate(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        position = wal_position(connection)
        now = time.monotonic()
        before = getattr(self, "_last_wal", None)
        self._last_wal = (now, position)
        if before is None or now == before[0]:
            return {}
        return {"wal_rate": (position - before[1]) / (now - before[0])}

    def _read_query(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        assert self.query is not None
        return {"query": fetch_value(connection, sql.SQL(self.query))}
