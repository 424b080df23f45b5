"""The server as a whole: its cores, its log, whether writes are allowed.

Lock: none, in every function of this file.
"""

from __future__ import annotations

import os

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import Refused
from migrations_playbook.postgres.query import fetch_all, fetch_row, fetch_value


def server_cores(connection: BaseDatabaseWrapper) -> int:
    """Estimate the server's cores, as near as SQL comes to them.

    Behind a Unix socket they are this machine's. Elsewhere max_parallel_workers stands for them,
    which tuning guides and hosting companies set to the number of cores.

    Lock: none.
    """
    local, workers = fetch_row(
        connection,
        sql.SQL("""
            SELECT pg_catalog.inet_server_addr() IS NULL,
                   pg_catalog.current_setting('max_parallel_workers')::int"""),
    )
    return (os.cpu_count() or 1) if local else int(workers)


def wal_position(connection: BaseDatabaseWrapper) -> int:
    """Read the end of the write-ahead log, in bytes since its beginning."""
    return int(
        fetch_value(
            connection,
            sql.SQL("SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')"),
        )
    )


def read_standbys(connection: BaseDatabaseWrapper) -> list[str]:
    """Read which standbys replay the log now, by their own names."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT application_name
              FROM pg_catalog.pg_stat_replication
             WHERE pid NOT IN (SELECT active_pid FROM pg_catalog.pg_replication_slots
                                WHERE slot_type = 'logical' AND active_pid IS NOT NULL)
               AND coalesce(state, 'streaming') IN ('streaming', 'catchup')
             ORDER BY 1"""),
    )
    return [row[0] for row in rows]


def lock_room(connection: BaseDatabaseWrapper) -> tuple[int, int]:
    """Read how many locks fit into the server's memory, and max_locks_per_transaction.

    All possible sessions share the room.
    """
    each, sessions = fetch_row(
        connection,
        sql.SQL("""
            SELECT pg_catalog.current_setting('max_locks_per_transaction')::int,
                   sum(pg_catalog.current_setting(name)::int)
              FROM unnest('{max_connections, max_prepared_transactions, max_worker_processes,
                            max_wal_senders, autovacuum_max_workers}'::text[]) AS name"""),
    )
    return int(each) * int(sessions), int(each)


def refuse_read_only(connection: BaseDatabaseWrapper) -> None:
    """Refuse to begin a play where nothing may be written.

    Raises:
        Refused: the server is a standby, or transactions are read only by default.
    """
    standby, read_only = fetch_row(
        connection,
        sql.SQL("""
            SELECT pg_catalog.pg_is_in_recovery(),
                   pg_catalog.current_setting('transaction_read_only')::bool"""),
    )
    if standby:
        raise Refused(
            f'The server of the database "{connection.alias}" is a standby, which takes no writes; '
            "nothing was changed. Name the primary with --database."
        )
    if read_only:
        raise Refused(
            f'Transactions of the database "{connection.alias}" are read only for this role '
            "(default_transaction_read_only); nothing was changed. Run ALTER ROLE ... SET "
            "default_transaction_read_only = off, or find out why it is on."
        )


def is_read_only(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether this is a standby, or a session that may not write: good enough for a status."""
    return bool(
        fetch_value(
            connection,
            sql.SQL("SELECT pg_catalog.current_setting('transaction_read_only')::bool"),
        )
    )
