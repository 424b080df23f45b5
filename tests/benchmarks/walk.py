"""Which walk: by key or by block? On rows that lie in the order of their key, and in none.

    python -m tests.benchmarks.walk --rows 300000
    python -m tests.benchmarks.walk --setting shared_buffers=8MB --setting max_wal_size=64MB

Both claim 2,000 rows a batch with SKIP LOCKED. Rates are ratios to one UPDATE of the same table.
The second line is a large table in small: as a table of fifty times the rows is to the stock
settings, so this one is to those: it does not fit the buffers, and checkpoints come while it runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg

from tests.benchmarks.server import running

SIZE = 2000
TABLES = {
    "bigint, in order": ("bigint", "n"),
    "bigint, wide gaps": ("bigint", "n * 1000003"),
    "bigint, no order": ("bigint", "hashint8extended(n, 0)"),
    "uuid": ("uuid", "gen_random_uuid()"),
}


def by_update(connection: psycopg.Connection[Any]) -> None:
    connection.execute("UPDATE t SET fresh = gen_random_uuid()")


def by_key(connection: psycopg.Connection[Any]) -> None:
    last = connection.execute("SELECT min(id::text) FROM t WHERE false").fetchone()
    condition = "true"
    while True:
        last = connection.execute(f"""
            WITH filled AS (
                UPDATE t SET fresh = gen_random_uuid() WHERE ctid = ANY (ARRAY(
                    SELECT ctid FROM t WHERE {condition} AND fresh IS NULL
                     ORDER BY id LIMIT {SIZE} FOR NO KEY UPDATE SKIP LOCKED))
                RETURNING id)
            SELECT id::text FROM filled ORDER BY id DESC LIMIT 1""").fetchone()  # noqa: S608
        if last is None:
            return
        condition = f"id > '{last[0]}'"


def by_block(connection: psycopg.Connection[Any]) -> None:
    after = "(0,0)"
    while True:
        row = connection.execute(
            f"""
            WITH claimed AS MATERIALIZED (
                SELECT ctid FROM t WHERE ctid > %s::tid AND fresh IS NULL
                 LIMIT {SIZE} FOR NO KEY UPDATE SKIP LOCKED),
            filled AS (
                UPDATE t SET fresh = gen_random_uuid()
                 WHERE ctid = ANY (ARRAY(SELECT ctid FROM claimed)) RETURNING 1)
            SELECT (SELECT max(ctid)::text FROM claimed), count(*) FROM filled""",  # noqa: S608
            [after],
            prepare=False,
        ).fetchone()
        assert row is not None
        if row[0] is None:
            return
        after = row[0]


WALKS: dict[str, Callable[[psycopg.Connection[Any]], None]] = {
    "update": by_update,
    "by key": by_key,
    "by block": by_block,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="of the server"
    )
    options = parser.parse_args()
    rows = options.rows
    settings = dict(each.split("=", 1) for each in options.setting)
    sys.stdout.write("| table | walk | rate / UPDATE | WAL a row |\n|---|---|---|---|\n")
    with running(**settings) as server, server.connect("postgres") as connection:
        connection.execute("SET enable_sort = off")
        for title, (kind, key) in TABLES.items():
            whole = 0.0
            for name, walk in WALKS.items():
                connection.execute("DROP TABLE IF EXISTS t")
                connection.execute(
                    f"CREATE TABLE t (id {kind} PRIMARY KEY, token uuid NOT NULL UNIQUE, "
                    "at timestamptz, fresh uuid)"
                )
                connection.execute(
                    f"INSERT INTO t SELECT {key}, gen_random_uuid(), now() "  # noqa: S608
                    f"FROM generate_series(1, {rows}::bigint) AS n"
                )
                connection.execute("VACUUM ANALYZE t")
                connection.execute("CHECKPOINT")
                position = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"
                before = connection.execute(position).fetchone()
                began = time.monotonic()
                walk(connection)
                seconds = time.monotonic() - began
                after = connection.execute(position).fetchone()
                assert before is not None
                assert after is not None
                whole = whole or seconds
                sys.stdout.write(
                    f"| {title} | {name} | {whole / seconds:.2f} "
                    f"| {(after[0] - before[0]) / rows:.0f} |\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
