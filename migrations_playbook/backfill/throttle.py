"""When to step aside: what the server's signals say, and what is made of them.

`read` asks the server and decides nothing; `reasons` decides and asks nothing. A signal that
cannot be read any more means stop, not go. One that the role may not read is said once, and left.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from django.db import Error as DatabaseError
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import primary_message
from migrations_playbook.postgres.query import fetch_all, fetch_value, set_local
from migrations_playbook.postgres.server import server_cores, wal_position

# A signal that takes longer than this to read is one that cannot be read, in milliseconds.
READ_TIMEOUT_MS = 2000
# A session that has ended a statement so lately is one that is at work, in seconds.
RECENT = 1.0
# For how long the positions of the log are remembered that a replica's lag is told from, in s.
REMEMBER = 3600.0


@dataclass(frozen=True)
class Limits:
    """Where each signal says stop.

    Arguments:
        replica_lag: how far behind a replica's replay may be, in seconds.
        slot_wal: WAL that a replication slot may retain, in bytes; None for half of
            max_slot_wal_keep_size, or eight times max_wal_size where that is unlimited.
        archive_backlog: WAL files that may wait to be archived.
        waiting_ms: how long a session may have stood behind one of our locks, in milliseconds.
        active_sessions: sessions of others at work; None for twice the server's cores
            (see `server_cores`), and at least 4.
        wal_rate: WAL that the whole server may write, in bytes a second; None for no bound.
        query: the user's own: one value; 0 or false means go, anything else stop.
    """

    replica_lag: float = 5.0
    slot_wal: float | None = None
    archive_backlog: int = 64
    waiting_ms: float = 200.0
    active_sessions: int | None = None
    wal_rate: float | None = None
    query: str | None = None


@dataclass(frozen=True)
class Reason:
    """Why to stop.

    Arguments:
        signal: the signal's name, by which the time is counted.
        text: what it says, for a person.
    """

    signal: str
    text: str


@dataclass(frozen=True)
class Readings:
    """What the signals said. An absent reading is one that this server has no cause for.

    Arguments:
        replica_lag: seconds of each replica by name.
        slot_wal: bytes of each slot by name.
        archive_backlog: files.
        waiting_ms: the longest wait behind us, in milliseconds.
        waiting: sessions behind us.
        active_sessions: of others.
        recent_sessions: of others, with those that were active within the last second.
        wal_rate: bytes a second since the last reading.
        query: what the user's query gave.
        unreadable: what could not be read, and why.
    """

    replica_lag: dict[str, float] = field(default_factory=dict)
    slot_wal: dict[str, float] = field(default_factory=dict)
    archive_backlog: int = 0
    waiting_ms: float = 0.0
    waiting: int = 0
    active_sessions: int = 0
    recent_sessions: int = 0
    wal_rate: float = 0.0
    query: Any = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def reasons(readings: Readings, limits: Limits) -> list[Reason]:
    """Why to stop now; nothing when all is well."""
    found = [
        Reason(name, f"the signal {name!r} cannot be read: {why}")
        for name, why in readings.unreadable.items()
    ]
    found += [
        Reason(
            "replica lag", f"replica {name} is {lag:.1f} s behind (limit {limits.replica_lag:g})"
        )
        for name, lag in readings.replica_lag.items()
        if lag > limits.replica_lag
    ]
    found += [
        Reason("slot WAL", f"slot {name} retains {_mb(wal)} (limit {_mb(limits.slot_wal)})")
        for name, wal in readings.slot_wal.items()
        if limits.slot_wal is not None and wal > limits.slot_wal
    ]
    if readings.archive_backlog > limits.archive_backlog:
        found.append(
            Reason(
                "archive backlog",
                f"{readings.archive_backlog} WAL files wait to be archived "
                f"(limit {limits.archive_backlog})",
            )
        )
    if readings.waiting_ms > limits.waiting_ms:
        found.append(
            Reason(
                "sessions behind us",
                f"{readings.waiting} sessions wait behind us, for {readings.waiting_ms:.0f} ms "
                f"(limit {limits.waiting_ms:g})",
            )
        )
    if limits.active_sessions is not None and readings.active_sessions > limits.active_sessions:
        found.append(
            Reason(
                "active sessions",
                f"{readings.active_sessions} sessions are at work (limit {limits.active_sessions})",
            )
        )
    if limits.wal_rate is not None and readings.wal_rate > limits.wal_rate:
        found.append(
            Reason(
                "WAL rate",
                f"the server writes {_mb(readings.wal_rate)}/s of WAL "
                f"(limit {_mb(limits.wal_rate)}/s)",
            )
        )
    # Not the value: it may be a secret of the user's.
    if readings.query is None:
        found.append(Reason("throttle query", "the throttle query gave no value"))
    elif readings.query not in (0, False):
        found.append(Reason("throttle query", "the throttle query says stop"))
    return found


def derive(connection: BaseDatabaseWrapper, limits: Limits) -> Limits:
    """Replace what is None by the default that follows from the server's settings.

    Lock: none.
    """
    wal, keep = fetch_all(
        connection,
        sql.SQL("""
            SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size')),
                   CASE pg_catalog.current_setting('max_slot_wal_keep_size') WHEN '-1' THEN -1
                   ELSE pg_catalog.pg_size_bytes(
                       pg_catalog.current_setting('max_slot_wal_keep_size')) END"""),
    )[0]
    slot = limits.slot_wal
    if slot is None:
        slot = keep / 2 if keep >= 0 else 8 * wal
    active = limits.active_sessions
    if active is None:
        active = max(4, 2 * server_cores(connection))
    return Limits(**{**vars(limits), "slot_wal": slot, "active_sessions": active})


def describe(readings: Readings, limits: Limits) -> str:
    """The signals as they stand, beside their limits."""
    said = [
        f"replica {name} {lag:.1f} s behind (limit {limits.replica_lag:g})"
        for name, lag in readings.replica_lag.items()
    ]
    said += [
        f"slot {name} retains {_mb(wal)} (limit {_mb(limits.slot_wal)})"
        for name, wal in readings.slot_wal.items()
    ]
    said += [
        f"{readings.archive_backlog} WAL files to archive (limit {limits.archive_backlog})",
        f"{readings.active_sessions} sessions at work (limit {limits.active_sessions})",
        f"{readings.recent_sessions} within the last second",
        f"{readings.waiting} sessions behind us (limit {limits.waiting_ms:g} ms)",
    ]
    return ", ".join(said)


class Signals:
    """Reads the signals, again and again.

    Arguments:
        application: what our own batches call themselves in pg_stat_activity.
        query: the user's own signal.
    """

    def __init__(self, application: str, query: str | None = None) -> None:
        self.application = application
        self.query = query
        self._positions: deque[tuple[float, int]] = deque()
        self._readers = {
            "replica lag": self._replica_lag,
            "slot WAL": self._slot_wal,
            "archive backlog": self._archive_backlog,
            "sessions behind us": self._waiting,
            "active sessions": self._active,
            "WAL rate": self._wal_rate,
        }
        if query is not None:
            self._readers["throttle query"] = self._query

    def unprivileged(self, connection: BaseDatabaseWrapper) -> list[str]:
        """What the role may not read, each in a sentence; these signals are left out from now on.

        Lock: none.
        """
        if fetch_value(
            connection,
            sql.SQL("SELECT pg_catalog.pg_has_role(current_user, 'pg_monitor', 'USAGE')"),
        ):
            return []
        for name in ("replica lag", "archive backlog", "sessions behind us"):
            del self._readers[name]
        sentence = (
            "The role may not read the replicas' lag, the archive's backlog and the waits of "
            "others, nor see other roles' sessions at work, so the backfill does not step aside "
            "for them. GRANT pg_monitor to it."
        )
        return [sentence]

    def read(self, connection: BaseDatabaseWrapper) -> Readings:
        """Read each signal. Lock: none, but for what the user's own query takes."""
        found: dict[str, Any] = {}
        unreadable = {}
        for name, reader in self._readers.items():
            try:
                with transaction.atomic(using=connection.alias):
                    set_local(connection, "statement_timeout", f"{READ_TIMEOUT_MS}ms")
                    found |= reader(connection)
            except DatabaseError as error:
                unreadable[name] = primary_message(error)
                if connection.connection is None or connection.connection.closed:
                    # The next reading opens another one.
                    connection.close()
        return Readings(**found, unreadable=unreadable)

    def _replica_lag(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """How long ago the log was where each replica has replayed it to.

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
                name: self._behind(int(replayed), now)
                for _, name, replayed in rows
                if replayed is not None
            }
        }

    def _behind(self, replayed: int, now: float) -> float:
        """Seconds since the oldest remembered position that is not replayed yet."""
        return next((now - at for at, written in self._positions if written > replayed), 0.0)

    def _slot_wal(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        rows = fetch_all(
            connection,
            sql.SQL("""
                SELECT slot_name,
                       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)
                  FROM pg_catalog.pg_replication_slots WHERE restart_lsn IS NOT NULL"""),
        )
        return {"slot_wal": {name: float(retained) for name, retained in rows}}

    def _archive_backlog(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
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

    def _waiting(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """Who stands behind a session of ours, of this host or another."""
        ((count, longest),) = fetch_all(
            connection,
            sql.SQL("""
                WITH ours AS MATERIALIZED (
                    SELECT pid FROM pg_catalog.pg_stat_activity WHERE application_name = %s),
                waiting AS (
                    SELECT a.pid FROM pg_catalog.pg_stat_activity a
                     WHERE a.wait_event_type = 'Lock' AND a.application_name <> %s
                       AND pg_catalog.pg_blocking_pids(a.pid) && ARRAY(SELECT pid FROM ours))
                SELECT count(DISTINCT w.pid),
                       coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)) * 1000, 0)
                  FROM waiting w
                  JOIN pg_catalog.pg_locks l ON l.pid = w.pid AND NOT l.granted"""),
            [self.application, self.application],
        )
        return {"waiting": count, "waiting_ms": float(longest)}

    def _active(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """Who is at work, and who was a moment ago: requests are too short to be met at work."""
        ((active, recent),) = fetch_all(
            connection,
            sql.SQL("""
                SELECT count(*) FILTER (
                           WHERE state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock'),
                       count(*) FILTER (
                           WHERE state = 'active'
                              OR state_change > clock_timestamp() - %s * interval '1 s')
                  FROM pg_catalog.pg_stat_activity
                 WHERE backend_type = 'client backend' AND application_name <> %s
                   AND pid <> pg_catalog.pg_backend_pid()"""),
            [RECENT, self.application],
        )
        return {"active_sessions": active, "recent_sessions": recent}

    def _wal_rate(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        position = wal_position(connection)
        now = time.monotonic()
        before = getattr(self, "_last_wal", None)
        self._last_wal = (now, position)
        if before is None or now == before[0]:
            return {}
        return {"wal_rate": (position - before[1]) / (now - before[0])}

    def _query(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        assert self.query is not None
        return {"query": fetch_value(connection, sql.SQL(self.query))}


def _mb(size: float | None) -> str:
    return "none" if size is None else f"{size / 1e6:,.0f} MB"
