"""VACUUM between slices: dead versions give their room to new versions before the table grows.

An UPDATE writes a new version of the row and leaves the old version in its place. Freed after every
tenth of the rows, this space takes the next tenth.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import execute_alone, fetch_all, fetch_value
from migrations_playbook.postgres.sessions import Session, is_direct, lift_timeouts
from migrations_playbook.postgres.tables import Table, sum_statistic

# The rest of autovacuum after each few pages, in ms (autovacuum_vacuum_cost_delay).
GENTLE_DELAY_MS = 2
# PostgreSQL's SQLSTATE of the warning that a VACUUM (SKIP_LOCKED) was skipped.
LOCK_NOT_AVAILABLE = "55P03"
# Between two questions after old snapshots, in seconds.
ASK_EVERY = 0.5


class Slices:
    """The slices, which say when the next VACUUM is due.

    Arguments:
        rows: rows in all.
        every: the share of the rows after which to vacuum; 0 for never.
        done: row versions that are dead at the beginning: a run that ends in time leaves them to
            the next one, which would otherwise begin a slice of its own, and never end it.
    """

    def __init__(self, rows: int, every: float, done: int = 0) -> None:
        self.size = rows * every
        self.done = done

    def add(self, rows: int) -> None:
        """Count the rows of a batch."""
        self.done += rows

    @property
    def due(self) -> bool:
        """Whether the next VACUUM is due."""
        return 0 < self.size <= self.done

    def vacuumed(self) -> None:
        """Begin the next slice."""
        self.done = 0


class Clerk:
    """The clerk who begins a VACUUM when a slice is due, unless an old snapshot makes it useless.

    Arguments:
        slices: says when.
        besides: the name of our own sessions (see `batch.application_name`).
        session: makes a session for a VACUUM alone.
    """

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        slices: Slices,
        *,
        besides: str,
        session: Callable[[], Session],
    ) -> None:
        self.connection = connection
        self.slices = slices
        self.besides = besides
        self._make_session = session
        self._session: Session | None = None
        self._began = next_transaction(connection)
        self._asked = -ASK_EVERY
        self._met: list[str] = []
        self._useless: list[str] = []

    def attend(self) -> list[str]:
        """Begin a due VACUUM; return who makes a VACUUM useless, when met twice.

        A holder met only once may be a request of the site's, soon over.

        Lock: none; the new session takes the lock of `vacuum_table`.
        """
        if self.busy or not self.slices.due:
            return []
        now = time.monotonic()
        if now - self._asked < ASK_EVERY:
            return self._useless
        met, self._asked = self._met, now
        self._met = find_holders(self.connection, self._began, besides=self.besides)
        self._useless = self._met if met else []
        if self._met:
            return self._useless
        self.slices.vacuumed()
        self._began = next_transaction(self.connection)
        self._session = self._make_session()
        self._session.start()
        return []

    @property
    def busy(self) -> bool:
        """Whether a VACUUM of ours is at work."""
        return self._session is not None and self._session.is_alive()

    def end(self, *, cancel: bool) -> None:
        """Wait for the VACUUM under way, or cancel it."""
        if self._session is not None:
            if cancel:
                self._session.end()
            self._session.join()


def vacuum_table(connection: BaseDatabaseWrapper, table: Table, *, gently: bool) -> bool:
    """Vacuum the table, unless another vacuum is at work there.

    SKIP_LOCKED makes two at once impossible, whoever began the other: a worker on another host,
    autovacuum or an administrator. TRUNCATE FALSE, because giving back the end of the file takes
    ACCESS EXCLUSIVE, and the room is needed again at once.

    Lock: SHARE UPDATE EXCLUSIVE on the table, until the end; reads and writes go on.

    Arguments:
        connection: a session of its own, outside a transaction.
        gently: as slowly as autovacuum goes. Not behind a pooler, where the setting could stay
            behind in a session of somebody else's.

    Returns:
        Whether the vacuum ran.
    """
    skipped = False

    def notice(diagnostic: object) -> None:
        nonlocal skipped
        skipped |= getattr(diagnostic, "sqlstate", None) == LOCK_NOT_AVAILABLE

    connection.ensure_connection()
    lift_timeouts(connection)
    if gently and is_direct(connection):
        # VACUUM runs in no transaction, so this setting cannot be local.
        execute_alone(connection, sql.SQL("SET vacuum_cost_delay = {}").format(GENTLE_DELAY_MS))
    raw = connection.connection
    raw.add_notice_handler(notice)
    try:
        execute_alone(
            connection,
            # PARALLEL 0: no processes beside this one, which would take cores from the site.
            sql.SQL("VACUUM (TRUNCATE FALSE, SKIP_LOCKED, PARALLEL 0) {}").format(table.identifier),
        )
    finally:
        raw.remove_notice_handler(notice)
    return not skipped


def count_dead(connection: BaseDatabaseWrapper, table: Table) -> int:
    """Tell how many dead row versions a VACUUM would find, as the server's statistics say.

    Lock: none.
    """
    return sum_statistic(connection, table, "pg_stat_get_dead_tuples")


def next_transaction(connection: BaseDatabaseWrapper) -> int:
    """Read the next transaction's number: row versions that die from now on die later."""
    return int(
        fetch_value(
            connection,
            sql.SQL("""
                SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint
            """),
        )
    )


def find_holders(connection: BaseDatabaseWrapper, since: int, *, besides: str) -> list[str]:
    """Find who makes a VACUUM useless: whose snapshot is older than the rows' deaths.

    Lock: none.

    Arguments:
        since: `next_transaction` when the slice began.
        besides: the name of sessions to leave out (see `batch.application_name`). A batch of ours,
            here or on another host, is over in milliseconds.

    Returns:
        Sessions, slots and prepared transactions, the oldest first, each for a person.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            WITH horizon AS (
                SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint
                       - %s AS age),
            held AS (
                SELECT pg_catalog.age(backend_xmin) AS age,
                       pg_catalog.format('pid %%s%%s, snapshot held for %%s s', pid,
                           CASE WHEN application_name <> ''
                                THEN ' "' || application_name || '"' END,
                           round(extract(epoch FROM clock_timestamp() - xact_start))) AS who
                  FROM pg_catalog.pg_stat_activity
                 WHERE backend_xmin IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
                   AND (datname = pg_catalog.current_database() OR datname IS NULL)
                   AND pg_catalog.split_part(application_name, ':', 1) IS DISTINCT FROM %s
                UNION ALL
                SELECT greatest(pg_catalog.age(xmin), pg_catalog.age(catalog_xmin)),
                       pg_catalog.format('replication slot "%%s"', slot_name)
                  FROM pg_catalog.pg_replication_slots WHERE xmin IS NOT NULL
                UNION ALL
                SELECT pg_catalog.age(transaction),
                       pg_catalog.format('prepared transaction "%%s" of %%s', gid, prepared)
                  FROM pg_catalog.pg_prepared_xacts
                 WHERE database = pg_catalog.current_database())
            SELECT who FROM held, horizon WHERE held.age >= horizon.age AND horizon.age > 0
             ORDER BY held.age DESC"""),
        [since, besides],
    )
    return [row[0] for row in rows]
