"""Every way beside the others, on one server, in one run: `make bench ROWS=1000000`.

    python -m tests.benchmarks --rows 1000000 --output docs/benchmarks.json

Each way works on a fresh copy of the same table. What would take too long is cut short after
`--seconds`: it has had rows enough by then for a stable rate. Rates are told as ratios to
`.update()` of the whole table, which is the fastest that one session can be, and locks every row
until its end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import django
import psycopg

from tests.benchmarks import memory
from tests.benchmarks.probe import Probe
from tests.benchmarks.server import Server, running

WAYS = (
    "chunks_and_save",
    "iterator_and_save",
    "iterator_and_bulk_update",
    "update",
    "batched_update",
    "pgroll",
    "playbook",
    "playbook_slices",
    "playbook_2_workers",
    "playbook_2_workers_slices",
    "playbook_defaults",
)
# The traffic: two threads, each with two hundred updates of single rows a second.
WRITERS = 2
BESIDE_TRAFFIC = ("playbook_slices", "playbook_2_workers_slices", "playbook_defaults")


@dataclass(frozen=True)
class Measured:
    """One way.

    Arguments:
        way: its name in `ways.WAYS`; "... beside traffic" with writers at work.
        rows: rows done.
        seconds: for them.
        rate: rows a second.
        wal_per_row: bytes of WAL a row, full-page images included.
        heap_growth: how much larger the heap is, as a ratio; of a whole run only.
        index_growth: the same of the indexes.
        peak_bytes: the client's memory above its mark at the start.
        queries_per_1000: statements sent for 1,000 rows.
        longest_hold_ms: the longest transaction that held rows, as sampled.
        p99_ms: of a lookup beside it; without it, at rest and beside traffic, in the header.
        over_vacuum_full: heap and indexes over the same table's after VACUUM FULL.
    """

    way: str
    rows: int
    seconds: float
    rate: float
    wal_per_row: float
    heap_growth: float | None
    index_growth: float | None
    peak_bytes: int
    queries_per_1000: float
    longest_hold_ms: float
    p99_ms: float
    over_vacuum_full: float | None


def measure(server: Server, way: str, rows: int, *, seconds: float, busy: int = 0) -> Measured:
    server.reset()
    heap, indexes = _sizes(server)
    wal = server.wal_position()
    with Probe(server, busy=busy) as probe:
        cost = memory.measure(server, way, seconds=seconds, fresh=False)
    wal = server.wal_position() - wal
    whole = cost.rows >= 0.99 * rows
    heap_after, indexes_after = _sizes(server)
    over_full = None
    if whole and ("slices" in way or way == "playbook_defaults"):
        with server.connect() as connection:
            connection.execute("VACUUM FULL tickets_ticket")
        over_full = (heap_after + indexes_after) / sum(_sizes(server))
    return Measured(
        way=way + (" beside traffic" if busy else ""),
        rows=cost.rows,
        seconds=cost.seconds,
        rate=cost.rows / cost.seconds,
        wal_per_row=wal / cost.rows,
        heap_growth=heap_after / heap if whole else None,
        index_growth=indexes_after / indexes if whole else None,
        peak_bytes=cost.peak_bytes,
        queries_per_1000=1000 * cost.queries / cost.rows,
        longest_hold_ms=probe.longest_hold_ms,
        p99_ms=probe.p99_ms,
        over_vacuum_full=over_full,
    )


def at_rest(server: Server, *, seconds: float = 8.0, busy: int = 0) -> float:
    """The p99 of a lookup without any of the ways beside it, in milliseconds."""
    server.reset()
    with Probe(server, busy=busy) as probe:
        # The probe measures meanwhile.
        time.sleep(seconds)
    return probe.p99_ms


def header(server: Server, rows: int) -> dict[str, Any]:
    """What was measured on, and how busy it was."""
    return {
        "rows": rows,
        "python": platform.python_version(),
        "django": django.get_version(),
        "psycopg": psycopg.__version__,
        **server.about("shared_buffers", "max_wal_size", "fsync", "wal_compression"),
    }


def table(results: list[Measured]) -> str:
    """The results as a table for a person (Markdown), ratios first."""
    update = next((each.rate for each in results if each.way == "update"), None)
    titles = (
        "way",
        "rate / update()",
        "rows/s",
        "WAL a row",
        "heap",
        "indexes",
        "client MB",
        "queries / 1,000 rows",
        "longest hold ms",
        "lookup p99 ms",
        "size / VACUUM FULL",
    )
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for each in results:
        ratio = "" if update is None else f"{each.rate / update:.3f}"
        heap = "" if each.heap_growth is None else f"{each.heap_growth:.2f}"
        indexes = "" if each.index_growth is None else f"{each.index_growth:.2f}"
        full = "" if each.over_vacuum_full is None else f"{each.over_vacuum_full:.2f}"
        lines.append(
            f"| {each.way} | {ratio} | {each.rate:,.0f} | {each.wal_per_row:,.0f} | {heap} "
            f"| {indexes} | {each.peak_bytes / 1e6:.1f} | {each.queries_per_1000:.2f} "
            f"| {each.longest_hold_ms:,.0f} | {each.p99_ms:.2f} | {full} |"
        )
    return "\n".join(lines)


def medians(runs: list[Measured]) -> list[Measured]:
    """Of each way's runs the one with the median rate, in the order of the ways."""
    by_way: dict[str, list[Measured]] = {}
    for run in runs:
        by_way.setdefault(run.way, []).append(run)
    return [
        sorted(same, key=lambda run: run.rate)[(len(same) - 1) // 2] for same in by_way.values()
    ]


def _sizes(server: Server) -> tuple[int, int]:
    with server.connect() as connection:
        row = connection.execute(
            "SELECT pg_table_size('tickets_ticket'), pg_indexes_size('tickets_ticket')"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="at most, for a slow way")
    parser.add_argument(
        "--rounds", type=int, default=1, help="how often; the median is told, of each way"
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(WAYS))
    parser.add_argument("--output", type=Path, help="where to write the results as JSON")
    options = parser.parse_args()
    with running() as server:
        server.seed(options.rows)
        about = header(server, options.rows)
        about["p99_ms_at_rest"] = at_rest(server)
        about["p99_ms_of_traffic"] = at_rest(server, busy=WRITERS)
        runs: list[Measured] = []
        for way in options.only * options.rounds:
            # Ours and the whole-table UPDATE are measured to the end.
            whole = way == "update" or way.startswith("playbook")
            seconds = 3600.0 if whole else options.seconds
            runs.append(measure(server, way, options.rows, seconds=seconds))
            sys.stderr.write(f"{runs[-1].way}: {runs[-1].rate:,.0f} rows/s\n")
            if way in BESIDE_TRAFFIC:
                runs.append(measure(server, way, options.rows, seconds=seconds, busy=WRITERS))
    results = medians(runs)
    about["load_after"] = round(os.getloadavg()[0], 2)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        found = {"about": about, "results": [asdict(each) for each in results]}
        options.output.write_text(json.dumps(found, indent=2) + "\n")
    for name, value in about.items():
        sys.stdout.write(f"{name}: {value}\n")
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
