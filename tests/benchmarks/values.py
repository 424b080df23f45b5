"""What a drawn value costs, beside `gen_random_uuid()`.

    python -m tests.benchmarks.values --rows 200000

Microseconds a value, the best of five runs: the values alone, counted inside the server; and the
UPDATE of a whole table of as many rows that writes one to each.
"""

from __future__ import annotations

import argparse
import sys
import time

import django
import psycopg
from django.contrib.postgres.functions import RandomUUID
from django.db.models import CharField
from django.db.models.functions import Cast

from migrations_playbook import DIGITS, HEX, UNAMBIGUOUS, RandomHexUUID, RandomText, Shadow
from tests.benchmarks.server import running

VALUES = {
    "RandomUUID()": RandomUUID(),
    "RandomUUID() as text": Cast(RandomUUID(), CharField()),
    "RandomHexUUID()": RandomHexUUID(),
    "RandomText(16)": RandomText(16),
    'RandomText(16, prefix="sk_live_")': RandomText(16, prefix="sk_live_"),
    "RandomText(43)": RandomText(43),
    "RandomText(32, HEX)": RandomText(32, HEX),
    "RandomText(16, UNAMBIGUOUS)": RandomText(16, UNAMBIGUOUS),
    "RandomText(16, DIGITS)": RandomText(16, DIGITS),
}
RUNS = 5


def best(connection: psycopg.Connection[object], statement: str) -> float:
    """The seconds of the fastest of a few runs."""
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        connection.execute(statement.encode())
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    django.setup()
    from tickets.models import Ticket  # noqa: PLC0415 - once the apps are ready

    with running() as server, server.connect("postgres") as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, value text)")
        connection.execute("INSERT INTO t SELECT generate_series(1, %s)", [rows])
        sys.stdout.write("| value | µs | with its UPDATE |\n|---|---|---|\n")
        for name, value in VALUES.items():
            drawn = Shadow("token", "new_token", value).value_sql(Ticket)
            alone = best(
                connection,
                f"SELECT count(v) FROM (SELECT {drawn} AS v "  # noqa: S608
                f"FROM generate_series(1, {rows})) AS drawn",
            )
            connection.execute("VACUUM FULL t")
            written = best(connection, f"UPDATE t SET value = {drawn}")  # noqa: S608
            sys.stdout.write(
                f"| `{name}` | {alone / rows * 1e6:.1f} | {written / rows * 1e6:.1f} |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
