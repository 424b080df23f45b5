"""The statements of a batch: the one that searches for nulls, and the one that claims and fills.

All of it is one leaf's: `ctid` means something within one table only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from psycopg import sql

from migrations_playbook.postgres.names import compose_name
from migrations_playbook.postgres.tables import Leaf
from migrations_playbook.replacement import Replacement

# Bytes of a session's name, so that what it does finds room behind it in the 63 that there are.
NAME_BYTES = 34


def application_name(replacement: Replacement) -> str:
    """Say what the sessions of a backfill call themselves in pg_stat_activity, on every host.

    What is not ASCII PostgreSQL writes in another way. A colon may follow, and what a session does.
    """
    name = compose_name(
        replacement.table_parts[-1], replacement.shadow, "backfill", limit=NAME_BYTES
    )
    return re.sub(r"[^ -9;-~]", "_", name)


def batch_settings(application: str) -> Mapping[str, str | None]:
    """Say what holds for the transaction of a batch (see `engine_transaction`).

    Asynchronous commit is safe for these batches only: WAL is sequential, so the swap's synchronous
    commit makes them durable, and a crash before that leaves nulls to fill again. The name tells an
    administrator, and our own throttles, who this is; the session has the name already, unless a
    pooler has not carried it over. The planner has no statistics of a column that was just added,
    and must not read the table from its beginning for every batch.

    Arguments:
        application: see `application_name`.
    """
    return {
        "synchronous_commit": "off",
        "application_name": application,
        "enable_seqscan": "off",
        "enable_indexscan": "off",
        "enable_bitmapscan": "off",
        "jit": "off",
        # The table's own triggers may read other tables, and run as they do for the site; a
        # smaller batch gets by with the site's timeouts. That no row is hidden is found by the
        # counts.
        "row_security": None,
        "statement_timeout": None,
        "lock_timeout": None,
    }


def search_statement(replacement: Replacement, leaf: Leaf) -> sql.Composed:
    """Compose the search for the next nulls: the first place, the last place, and their number.

    Its parameters: the place to begin at, the place to end before, and how many to look for.
    """
    return sql.SQL("""
        SELECT min(ctid)::text, max(ctid)::text, count(*)
          FROM (SELECT ctid FROM ONLY {table}
                 WHERE ctid >= %s::tid AND ctid < %s::tid AND {unfilled}
                 LIMIT %s) AS nulls""").format(table=leaf.identifier, unfilled=replacement.unfilled)


def batch_statement(replacement: Replacement, leaf: Leaf) -> sql.Composed:
    """Compose the statement that claims and fills a batch: rows filled, rows that the value
    expression has left null, and the last place that was claimed.

    Its parameters: the place to begin behind, the place to end before, the number of shares, the
    share, and how many rows.

    That a null row never moves makes `ctid` safe between the SELECT and the UPDATE of one
    statement. FOR NO KEY UPDATE does not block an insert that references the row by foreign key.
    A value equal to the live one is nulled again, for the fill trigger to draw another.

    The hash of a row's place says which share the row is in: some rows of each page are in each.
    The claim reads a range of places, and not a list of them, because a page is pruned only by a
    scan of the page.
    """
    return sql.SQL("""
        WITH claimed AS MATERIALIZED (
            SELECT ctid FROM ONLY {table}
             WHERE ctid > %s::tid AND ctid < %s::tid AND {unfilled}
               AND abs(pg_catalog.hashtid(ctid) %% %s) = %s
             LIMIT %s FOR NO KEY UPDATE SKIP LOCKED),
        filled AS (
            UPDATE ONLY {table} SET {shadow} = NULLIF({value}, {live})
             WHERE ctid = ANY (ARRAY(SELECT ctid FROM claimed))
            RETURNING {shadow} IS NULL AS still_null)
        SELECT count(*), count(*) FILTER (WHERE still_null),
               (SELECT max(ctid)::text FROM claimed)
          FROM filled""").format(
        table=leaf.identifier,
        unfilled=replacement.unfilled,
        shadow=sql.Identifier(replacement.shadow),
        live=sql.Identifier(replacement.live),
        value=replacement.value,
    )


def place_before(block: int) -> str:
    """The place before a block's first row, as a `tid`: line pointers count from 1."""
    return f"({block},0)"


def block_of(place: str) -> int:
    """The block of a `tid`."""
    return int(place[1:].split(",", maxsplit=1)[0])
