"""The statements of a batch: the search for nulls, and the claim with the fill.

Each statement is for a single leaf: `ctid` means something within a table only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from psycopg import sql

from migrations_playbook.postgres.names import compose_name
from migrations_playbook.postgres.site_triggers import skip_settings
from migrations_playbook.postgres.tables import Leaf
from migrations_playbook.replacement import Replacement

# Bytes of a session's name, so its doings find room behind in PostgreSQL's 63.
NAME_BYTES = 34
# How the name ends.
BACKFILL = "_backfill"


def application_name(replacement: Replacement) -> str:
    """Say the name of a backfill's sessions in pg_stat_activity, on every host.

    The schema is part of the name where it was asked for: a tenant's sessions are no other's.
    PostgreSQL writes characters beyond ASCII in another way. A colon may follow, and the session's
    doings.
    """
    room = NAME_BYTES - len(BACKFILL)
    name = compose_name(*replacement.table_parts, replacement.shadow, limit=room) + BACKFILL
    return re.sub(r"[^ -9;-~]", "_", name)


def batch_settings(application: str, skipped: Sequence[str] = ()) -> Mapping[str, str | None]:
    """Say the settings for the transaction of a batch (see `engine_transaction`).

    Asynchronous commit is safe for these batches only: WAL is sequential, so the swap's synchronous
    commit makes them durable, and an earlier crash leaves nulls to fill again. The name tells an
    administrator, and our own throttles, who this is; a session of a pooler has no name otherwise.
    The planner has no statistics of a new column, and must not read the table from its
    beginning for every batch.

    Arguments:
        application: the session's name while it fills.
        skipped: the triggers of the site to be left out.
    """
    return {
        "synchronous_commit": "off",
        "application_name": application,
        "enable_seqscan": "off",
        "enable_indexscan": "off",
        "enable_bitmapscan": "off",
        "jit": "off",
        # The table's own triggers may read other tables, and run as they do for the site; a smaller
        # batch gets by with the site's timeouts. Hidden rows are found by the counts.
        "row_security": None,
        "statement_timeout": None,
        "lock_timeout": None,
        **skip_settings(skipped),
    }


def search_statement(replacement: Replacement, leaf: Leaf) -> sql.Composed:
    """Compose the search for the next nulls: the first place, the last place, and their number.

    Its parameters: the place to begin at, the place to end before, and how many to look for.
    """
    return sql.SQL("""
        SELECT min(ctid)::text, max(ctid)::text, count(*)
          FROM (SELECT ctid FROM ONLY {table}
                 WHERE ctid >= %s::tid AND ctid < %s::tid AND {to_do}
                 LIMIT %s) AS nulls""").format(
        table=leaf.identifier, to_do=replacement.meaning.to_do
    )


def batch_statement(replacement: Replacement, leaf: Leaf, *, careful: bool = False) -> sql.Composed:
    """Compose the statement to claim and fill a batch.

    Its row: rows filled, rows of these that are still to do, rows claimed, and the last claimed
    place. A claimed row is not filled where a trigger of the site keeps the row back.

    Its parameters: the place to begin behind, the place to end before, the number of shares, the
    share, and how many rows.

    A null row never moves, so `ctid` is safe between the SELECT and the UPDATE of the statement.
    FOR NO KEY UPDATE does not block inserts that reference the row by foreign key.

    The hash of a row's place says which share has the row: some rows of each page are in each. The
    claim reads a range of places, not a list, because a page is pruned only by a scan of the page.

    Arguments:
        careful: leave the values to the trigger, which stumbles over no row.
    """
    meaning = replacement.meaning
    return sql.SQL("""
        WITH claimed AS MATERIALIZED (
            SELECT ctid FROM ONLY {table}
             WHERE ctid > %s::tid AND ctid < %s::tid AND {to_do}
               AND abs(pg_catalog.hashtid(ctid) %% %s) = %s
             LIMIT %s FOR NO KEY UPDATE SKIP LOCKED),
        filled AS (
            UPDATE ONLY {table} SET {assignment}
             WHERE ctid = ANY (ARRAY(SELECT ctid FROM claimed))
            RETURNING {to_do} AS still_to_do)
        SELECT count(*), count(*) FILTER (WHERE still_to_do),
               (SELECT count(*) FROM claimed), (SELECT max(ctid)::text FROM claimed)
          FROM filled""").format(
        table=leaf.identifier,
        to_do=meaning.to_do,
        assignment=meaning.assignment(careful=careful),
    )


def place_before(block: int) -> str:
    """Spell the place before a block's first row, as a `tid`: line pointers count from 1."""
    return f"({block},0)"


def block_of(place: str) -> int:
    """Read the block of a `tid`."""
    return int(place[1:].split(",", maxsplit=1)[0])
