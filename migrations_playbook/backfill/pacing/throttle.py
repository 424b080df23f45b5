"""When to step aside: decided by the signals.

A signal that cannot be read any more means stop, not go. A signal that the role may not read is
left out, which is said once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.backfill.pacing.signals import Readings, Signals
from migrations_playbook.postgres.query import fetch_row
from migrations_playbook.postgres.server import server_cores
from migrations_playbook.settings import setting
from migrations_playbook.units import megabytes

# The server is shared when others were at work at more than a quarter of the last looks: the site
# is at each look, and whoever asks for the server's health now and then at few.
OTHERS_LOOKS, OTHERS_SHARE = 20, 0.25
# Of a slot whose replica or subscriber has gone away, and which retains the log for ever.
IDLE = " and nobody reads it: start its reader again, or drop the slot"


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
        query: the user's own, of a single value; 0 or false means go, anything else stop.
    """

    replica_lag: float = setting("max-lag")
    slot_wal: float | None = setting("max-slot-wal")
    archive_backlog: int = setting("max-archive-backlog")
    waiting_ms: float = setting("max-waiting-ms")
    active_sessions: int | None = setting("max-active")
    wal_rate: float | None = setting("max-wal-rate")
    query: str | None = setting("throttle-query")


@dataclass(frozen=True)
class Reason:
    """Why to stop.

    Arguments:
        signal: the signal's name, by which the time is counted.
        text: the signal's news, for a person.
    """

    signal: str
    text: str


def find_reasons(readings: Readings, limits: Limits) -> list[Reason]:
    """Find why to stop now; nothing when all is well."""
    reasons = [
        Reason(name, f"the signal {name!r} cannot be read: {why}")
        for name, why in readings.unreadable.items()
    ]
    reasons += [
        Reason(
            "replica lag", f"replica {name} is {lag:.1f} s behind (limit {limits.replica_lag:g})"
        )
        for name, lag in readings.replica_lag.items()
        if lag > limits.replica_lag
    ]
    reasons += [
        Reason(
            "slot WAL",
            f"slot {name} retains {megabytes(wal)} (limit {megabytes(limits.slot_wal)})"
            + (IDLE if name in readings.idle_slots else ""),
        )
        for name, wal in readings.slot_wal.items()
        if limits.slot_wal is not None and wal > limits.slot_wal
    ]
    if readings.archive_backlog > limits.archive_backlog:
        reasons.append(
            Reason(
                "archive backlog",
                f"{readings.archive_backlog} WAL files wait to be archived "
                f"(limit {limits.archive_backlog})",
            )
        )
    if readings.waiting_ms > limits.waiting_ms:
        reasons.append(
            Reason(
                "sessions behind us",
                f"{readings.waiting} sessions wait behind us, for {readings.waiting_ms:.0f} ms "
                f"(limit {limits.waiting_ms:g})",
            )
        )
    if limits.active_sessions is not None and readings.active_sessions > limits.active_sessions:
        reasons.append(
            Reason(
                "active sessions",
                f"{readings.active_sessions} sessions are at work (limit {limits.active_sessions})",
            )
        )
    if limits.wal_rate is not None and readings.wal_rate > limits.wal_rate:
        reasons.append(
            Reason(
                "WAL rate",
                f"the server writes {megabytes(readings.wal_rate)}/s of WAL "
                f"(limit {megabytes(limits.wal_rate)}/s)",
            )
        )
    # Not the value, which may be a secret of the user's.
    if readings.query is None:
        reasons.append(Reason("throttle query", "the throttle query gave no value"))
    elif readings.query not in (0, False):
        reasons.append(Reason("throttle query", "the throttle query says stop"))
    return reasons


def derive_limits(connection: BaseDatabaseWrapper, limits: Limits) -> Limits:
    """Replace None by the default that follows from the server's settings.

    Lock: none.
    """
    wal, keep = fetch_row(
        connection,
        sql.SQL("""
            SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size')),
                   CASE pg_catalog.current_setting('max_slot_wal_keep_size') WHEN '-1' THEN -1
                   ELSE pg_catalog.pg_size_bytes(
                       pg_catalog.current_setting('max_slot_wal_keep_size')) END"""),
    )
    slot = limits.slot_wal
    if slot is None:
        slot = keep / 2 if keep >= 0 else 8 * wal
    active = limits.active_sessions
    if active is None:
        active = max(4, 2 * server_cores(connection))
    return Limits(**{**vars(limits), "slot_wal": slot, "active_sessions": active})


def describe_readings(readings: Readings, limits: Limits) -> str:
    """Say the signals as they stand, beside their limits."""
    said = [
        f"replica {name} {lag:.1f} s behind (limit {limits.replica_lag:g})"
        for name, lag in readings.replica_lag.items()
    ]
    said += [
        f"slot {name} retains {megabytes(wal)} (limit {megabytes(limits.slot_wal)})"
        for name, wal in readings.slot_wal.items()
    ]
    said += [
        f"{readings.archive_backlog} WAL files to archive (limit {limits.archive_backlog})",
        f"{readings.active_sessions} sessions at work (limit {limits.active_sessions})",
        f"{readings.recent_sessions} within the last second",
        f"{readings.waiting} sessions behind us (limit {limits.waiting_ms:g} ms)",
    ]
    return ", ".join(said)


class Throttle:
    """The throttle, which says why to wait and whether others are at work.

    Arguments:
        connection: the supervisor's.
        application: the name of our own sessions.
        limits: where each signal says stop.
    """

    def __init__(self, connection: BaseDatabaseWrapper, application: str, limits: Limits) -> None:
        self.connection = connection
        self.limits = derive_limits(connection, limits)
        self.signals = Signals(application, limits.query)
        # What is to be said once: signals left out, replicas gone.
        self.said = self.signals.leave_out(connection)
        self.readings = Readings()
        self._others: deque[bool] = deque(maxlen=OTHERS_LOOKS)
        self._replicas: set[str] = set()

    def __str__(self) -> str:
        return describe_readings(self.readings, self.limits)

    @property
    def shared(self) -> bool:
        """Whether others were at work on the server at the last looks."""
        return sum(self._others) > len(self._others) * OTHERS_SHARE

    def look(self) -> list[Reason]:
        """Read the signals; return why to wait now, nothing when all is well."""
        self.readings = self.signals.read_all(self.connection)
        if "replica lag" not in self.readings.unreadable:
            self._follow_replicas(set(self.readings.replica_lag))
        self._others.append(self.readings.recent_sessions > 0)
        return find_reasons(self.readings, self.limits)

    def _follow_replicas(self, present: set[str]) -> None:
        """Say of a replica that has gone away that nobody waits for it any more."""
        self.said += [
            f"The replica {name} has gone away, and the primary sends it nothing any more: nobody "
            "waits for it until it is back."
            for name in sorted(self._replicas - present)
        ]
        self._replicas = present
