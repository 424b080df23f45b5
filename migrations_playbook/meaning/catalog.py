"""What the catalogs say of the sync triggers: which fire after them, and what they have counted.

PostgreSQL fires the triggers of a row in the order of their names, byte by byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import fetch_all, fetch_value
from migrations_playbook.postgres.tables import TREE, Table


def find_later_trigger(
    connection: BaseDatabaseWrapper, table: Table, columns: Sequence[str], ours: Sequence[str]
) -> str | None:
    """Find a BEFORE trigger that fires after ours and may write the columns.

    A function that is C, or that assigns the whole row, may write any. Of the others the text
    tells: it has to name a column.

    Lock: none that conflicts with anything.

    Arguments:
        columns: the columns that must not be written after ours.
        ours: the names of our triggers.

    Returns:
        A sentence with the trigger's name; None without.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT t.tgname
              FROM pg_catalog.pg_trigger t
              JOIN {tree} AS tree ON tree.oid = t.tgrelid
              JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
              JOIN pg_catalog.pg_language l ON l.oid = p.prolang
             -- Of each row (1), before (2), at an insert or an update (4, 16).
             WHERE t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0 AND NOT t.tgisinternal
               AND t.tgenabled <> 'D' AND t.tgname > %s COLLATE "C" AND t.tgname <> ALL (%s)
               AND (l.lanname IN ('c', 'internal') OR p.prosrc ~* %s)
             ORDER BY 1""").format(tree=TREE),
        [table.oid, min(ours), list(ours), _writes(columns)],
    )
    if not rows:
        return None
    named = ", ".join(f'"{name}"' for (name,) in rows)
    return (
        f"The trigger {named} on {table} fires after the sync triggers, in the order of their "
        f"names, and may write {' or '.join(columns)}: the other column would not follow."
    )


def _writes(columns: Sequence[str]) -> str:
    """Write the pattern of a function's text that may write one of the columns."""
    names = "|".join(re.sub(r"([^\w])", r"\\\1", column) for column in columns)
    return rf"\mnew\s*:?=|\m({names})\M"


def count_disagreements(connection: BaseDatabaseWrapper, table: Table, ours: Sequence[str]) -> int:
    """Count the writes of both columns that did not agree, so that one was overruled.

    A sequence counts when the transaction rolls back too, and takes no row lock.

    Lock: none that conflicts with anything.

    Arguments:
        ours: the names of our triggers.
    """
    return int(
        fetch_value(
            connection,
            sql.SQL("""
                SELECT coalesce(sum(s.last_value), 0)
                  FROM pg_catalog.pg_trigger t
                  JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
                  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                  JOIN pg_catalog.pg_sequences s
                    ON s.schemaname = n.nspname AND s.sequencename = p.proname
                 WHERE t.tgrelid = %s AND t.tgname = ANY (%s)"""),
            [table.oid, list(ours)],
        )
    )
