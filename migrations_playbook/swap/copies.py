"""Is the value kept a second time? Columns with the value, or with something made of the value.

A digest beside a secret (`token_checksum`, say) goes on letting the leaked value in after a swap.
Rows are sampled and compared inside the server: no value leaves the server.
"""

from __future__ import annotations

from itertools import product

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import (
    engine_transaction,
    fetch_all,
    fetch_row,
    pin_search_path,
)
from migrations_playbook.swap.pair import Member, Pair

# The number of compared rows, and the share that must agree.
SAMPLE, AGREE = 200, 0.9
# A beginning shorter than this says nothing.
SHORTEST = 4
# How a copy can be made of a text, as a condition on `copy`, the column's text in lower case, and
# `value`. A bytea's text is its hexadecimal digits behind \x.
MADE_BY = {
    "the value": "copy = value",
    "the MD5 digest": r"copy IN (md5(value), '\x' || md5(value))",
    **{
        f"the {name.upper().replace('SHA', 'SHA-')} digest": (
            f"copy IN (encode({name}(value::bytea), 'hex'), {name}(value::bytea)::text, "
            f"lower(encode({name}(value::bytea), 'base64')))"
        )
        for name in ("sha224", "sha256", "sha384", "sha512")
    },
    "the beginning": f"length(copy) >= {SHORTEST} AND starts_with(value, copy)",
}


def find_copies(connection: BaseDatabaseWrapper, pair: Pair) -> dict[str, str]:
    """Find the columns with a live value, or with something made of the value; by name.

    Lock: ACCESS SHARE on the table.

    Returns:
        For each column, its content in words.
    """
    found: dict[str, str] = {}
    with engine_transaction(connection):
        pin_search_path(connection)
        own = pair.lives | pair.shadows
        columns = [name for name in _texts(connection, pair) if name not in own]
        for column, member in product(columns, pair.members):
            rows, *counts = fetch_row(connection, _query(member, column))
            for how, agreeing in zip(MADE_BY, counts, strict=True):
                if rows and agreeing >= AGREE * rows:
                    found.setdefault(column, how)
                    break
    return found


def _texts(connection: BaseDatabaseWrapper, pair: Pair) -> list[str]:
    """List the columns that could hold a copy: texts, bytes and UUIDs."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT a.attname FROM pg_catalog.pg_attribute a
              JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
               AND (t.typcategory = 'S' OR t.typname IN ('bytea', 'uuid'))
             ORDER BY a.attnum"""),
        [pair.table.oid],
    )
    return [row[0] for row in rows]


def _query(member: Member, column: str) -> sql.Composed:
    """Count in a sample of rows how many agree, for each way; a UUID with its dashes or without."""
    counts = sql.SQL(", ").join(
        sql.SQL(
            "count(*) FILTER (WHERE EXISTS (SELECT FROM unnest(ARRAY[full_value, "
            "replace(full_value, '-', '')]) AS made (value) WHERE {}))"
        ).format(sql.SQL(condition))
        for condition in MADE_BY.values()
    )
    return sql.SQL("""
        SELECT count(*), {counts}
          FROM (SELECT {live}::text AS full_value, lower({column}::text) AS copy FROM {table}
                 WHERE {live} IS NOT NULL AND {column} IS NOT NULL LIMIT {sample}) AS sampled
    """).format(
        counts=counts,
        live=member.live.identifier,
        column=sql.Identifier(column),
        table=member.table.identifier,
        sample=sql.Literal(SAMPLE),
    )
