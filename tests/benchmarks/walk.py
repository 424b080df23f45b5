"""Which walk: by key, by block, or by block in shares? On rows in key order, and in none.

    python -m tests.benchmarks.walk --rows 300000
    python -m tests.benchmarks.walk --setting shared_buffers=8MB --setting max_wal_size=64MB

All claim 2,000 rows a batch with SKIP LOCKED. In shares, as the backfill does it, each window of
blocks is passed over several times. Rates are ratios to one UPDATE of the same table; `HOT` is the
share of the rows that stayed on their page, and `indexes` their size as a ratio to before.
The second line is a large table in small: as a table of fifty times the rows is to the stock
settings, so this one is to those: it does not fit the buffers, and checkpoints come while it runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from migrations_playbook.backfill.walk import WINDOW
from tests.benchmarks.server import running

SIZE = 2000
SHARES = (4, 8, 12, 16)
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


def in_shares(connection: psycopg.Connection[Any], shares: int) -> None:
    row = connection.execute("SELECT pg_relation_size('t') / 8192").fetchone()
    assert row is not None
    for first in range(0, row[0], WINDOW):
        for share in range(shares):
            after: str | None = f"({first},0)"
            while after is not None:
                found = connection.execute(
                    f"""
                    WITH claimed AS MATERIALIZED (
                        SELECT ctid FROM t WHERE ctid > %s::tid AND ctid < %s::tid
                           AND fresh IS NULL AND abs(hashtid(ctid) %% %s) = %s
                         LIMIT {SIZE} FOR NO KEY UPDATE SKIP LOCKED),
                    filled AS (
                        UPDATE t SET fresh = gen_random_uuid()
                         WHERE ctid = ANY (ARRAY(SELECT ctid FROM claimed)) RETURNING 1)
                    SELECT (SELECT max(ctid)::text FROM claimed), count(*) FROM filled""",  # noqa: S608
                    [after, f"({min(first + WINDOW, row[0])},0)", shares, share],
                    prepare=False,
                ).fetchone()
                assert found is not None
                after = found[0]


WALKS: dict[str, Callable[[psycopg.Connection[Any]], None]] = {
    "update": by_update,
    "by key": by_key,
    "by block": by_block,
    **{f"in {shares} shares": partial(in_shares, shares=shares) for shares in SHARES},
}


def _indexes(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_indexes_size('t')").fetchone()
    assert row is not None
    return int(row[0])


def _stayed(connection: psycopg.Connection[Any]) -> float:
    """The share of the updates that were heap-only."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    row = connection.execute(
        "SELECT n_tup_hot_upd::float / n_tup_upd FROM pg_stat_user_tables WHERE relname = 't'"
    ).fetchone()
    assert row is not None
    return float(row[0])


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
    sys.stdout.write(
        "| table | walk | rate / UPDATE | WAL a row | HOT | indexes |\n" + "|---" * 6 + "|\n"
    )
    with running(**settings) as server, server.connect("postgres") as connection:
        connection.execute("SET enable_sort = off")
        connection.execute("SET synchronous_commit = off")
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
                size = _indexes(connection)
                connection.execute("SELECT pg_stat_reset_single_table_counters('t'::regclass)")
                began = time.monotonic()
                walk(connection)
                seconds = time.monotonic() - began
                after = connection.execute(position).fetchone()
                assert before is not None
                assert after is not None
                whole = whole or seconds
                sys.stdout.write(
                    f"| {title} | {name} | {whole / seconds:.2f} "
                    f"| {(after[0] - before[0]) / rows:.0f} "
                    f"| {_stayed(connection):.2f} | {_indexes(connection) / size:.2f} |\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
