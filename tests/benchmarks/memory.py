"""Peak client memory and queries of the ways to give every row a new value.

    python -m tests.benchmarks.memory --rows 200000
    python -m tests.benchmarks.memory --rows 200000 --only all_and_save,playbook --json

Each way runs in a process of its own on a fresh copy of the table, for at most `--seconds`: what
loads the whole table has done so by then. Memory is the high-water mark of the process above
what it was before the way began (Linux: VmHWM); queries are per 1,000 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.server import Server, running

NAMES = (
    "all_and_save",
    "iterator_and_save",
    "all_and_bulk_update",
    "iterator_and_bulk_update",
    "update",
    "batched_update",
    "playbook",
)


@dataclass(frozen=True)
class Cost:
    """What one way costs the client.

    Arguments:
        way: its name in `ways.WAYS`.
        rows: rows that were done in the time given.
        seconds: how long it worked.
        queries: statements sent, transaction control apart.
        peak_bytes: the process's high-water mark above its mark at the start.
    """

    way: str
    rows: int
    seconds: float
    queries: int
    peak_bytes: int


def measure(server: Server, way: str, *, seconds: float, fresh: bool = True) -> Cost:
    """Run one way in a process of its own, on a fresh copy of the table unless told otherwise."""
    if fresh:
        server.reset()
    printed = server.python(
        "-m", "tests.benchmarks.memory", "--run", way, "--seconds", str(seconds)
    )
    return Cost(**json.loads(printed))


def run(way: str, *, seconds: float) -> Cost:
    """Run one way in this process, on the database of the settings."""
    import django  # noqa: PLC0415 - the parent process never sets Django up

    django.setup()
    from django.db import connection  # noqa: PLC0415
    from django.db.backends.signals import connection_created  # noqa: PLC0415

    from tests.benchmarks.ways import WAYS  # noqa: PLC0415

    sent = 0

    def count(execute: Any, query: Any, params: Any, many: bool, context: Any) -> Any:  # noqa: FBT001
        nonlocal sent
        sent += 1
        return execute(query, params, many, context)

    def watch(connection: Any, **kwargs: Any) -> None:
        connection.execute_wrappers.append(count)

    connection_created.connect(watch)
    connection.ensure_connection()
    before, sent = high_water_mark(), 0
    began = time.monotonic()
    rows = 0
    for done in WAYS[way]():
        rows += done
        if time.monotonic() - began > seconds:
            break
    return Cost(way, rows, time.monotonic() - began, sent, high_water_mark() - before)


def high_water_mark() -> int:
    """The most memory that this process has had, in bytes."""
    # getrusage() comes second: its maximum is inherited from the process that started this one.
    unit = 1 if sys.platform == "darwin" else 1024
    return high_water_mark_of(os.getpid()) or (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    )


def high_water_mark_of(pid: int) -> int:
    """The same of any process, as Linux tells it; 0 when it has ended, and elsewhere."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="at most, for each way")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(NAMES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        sys.stdout.write(json.dumps(asdict(run(options.run, seconds=options.seconds))))
        return
    with running() as server:
        server.seed(options.rows)
        costs = [measure(server, way, seconds=options.seconds) for way in options.only]
    if options.json:
        sys.stdout.write(json.dumps([asdict(cost) for cost in costs], indent=2) + os.linesep)
        return
    sys.stdout.write(f"{'way':26}{'peak MB':>9}{'queries per 1,000 rows':>24}{'rows/s':>10}\n")
    for cost in costs:
        sys.stdout.write(
            f"{cost.way:26}{cost.peak_bytes / 1e6:9.1f}"
            f"{1000 * cost.queries / cost.rows:24.2f}{cost.rows / cost.seconds:10,.0f}\n"
        )


if __name__ == "__main__":
    main()
