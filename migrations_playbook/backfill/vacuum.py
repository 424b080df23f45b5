"""VACUUM between slices: what the backfill leaves behind is used again before the table grows.

An UPDATE writes a new version of the row and leaves the old one where it was. Freed after every
tenth of the rows, that space takes the next tenth.
"""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import execute, fetch_all, fetch_value
from migrations_playbook.postgres.sessions import is_direct
from migrations_playbook.postgres.tables import Table

DEFAULT_EVERY = 0.1
# What autovacuum rests for after each few pages, in ms (autovacuum_vacuum_cost_delay).
GENTLE_DELAY_MS = 2
# PostgreSQL's SQLSTATE of the warning that a VACUUM (SKIP_LOCKED) was skipped.
LOCK_NOT_AVAILABLE = "55P03"


class Slices:
    """Says when the next VACUUM is due.

    Arguments:
        rows: rows in all.
        every: the share of them after which to vacuum; 0 for never.
    """

    def __init__(self, rows: int, every: float) -> None:
        self.size = rows * every
        self.done = 0

    def add(self, rows: int) -> None:
        self.done += rows

    @property
    def due(self) -> bool:
        return 0 < self.size <= self.done

    def vacuumed(self) -> None:
        """Begin the next slice."""
        self.done = 0


def run(connection: BaseDatabaseWrapper, table: Table, *, gently: bool) -> bool:
    """Vacuum the table, unless a vacuum is at work on it.

    SKIP_LOCKED makes two at once impossible, whoever began the other: a worker on another host,
    autovacuum or an administrator. TRUNCATE FALSE, because giving back the end of the file
    takes ACCESS EXCLUSIVE, and it is needed again at once.

    Lock: SHARE UPDATE EXCLUSIVE on the table, while it runs; reads and writes go on.

    Arguments:
        connection: a session of its own, outside a transaction.
        gently: as slowly as autovacuum goes. Not behind a pooler, where the setting could stay
            behind in a session of somebody else's.

    Returns:
        Whether it ran.
    """
    skipped = False

    def notice(diagnostic: object) -> None:
        nonlocal skipped
        skipped |= getattr(diagnostic, "sqlstate", None) == LOCK_NOT_AVAILABLE

    connection.ensure_connection()
    if gently and is_direct(connection):
        # VACUUM runs in no transaction, so this cannot be local to one.
        execute(connection, sql.SQL("SET vacuum_cost_delay = {}").format(GENTLE_DELAY_MS))
    raw = connection.connection
    raw.add_notice_handler(notice)
    try:
        execute(
            connection,
            # PARALLEL 0: no processes beside this one, which would take cores from the site.
            sql.SQL("VACUUM (TRUNCATE FALSE, SKIP_LOCKED, PARALLEL 0) {}").format(table.identifier),
        )
    finally:
        raw.remove_notice_handler(notice)
    return not skipped


def next_transaction(connection: BaseDatabaseWrapper) -> int:
    """The next transaction's number: row versions that die from now on die later than this."""
    return int(
        fetch_value(
            connection,
            sql.SQL("""
                SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint
            """),
        )
    )


def held_by(connection: BaseDatabaseWrapper, since: int, *, besides: str) -> list[str]:
    """Who makes a VACUUM useless: whose snapshot is older than the rows' deaths.

    Lock: none.

    Arguments:
        since: `next_transaction` when the slice began.
        besides: the name of sessions that are left out. A batch of ours, here or on another host,
            is over in milliseconds.

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
                   AND application_name IS DISTINCT FROM %s
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
