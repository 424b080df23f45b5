"""How gentle, how fast: a backfill beside a site, at several paces, side by side.

    python -m tests.benchmarks.pace --rows 1000000
    python -m tests.benchmarks.pace --load light --load steady --rounds 3 --watch

For each load: the site alone, a fixed pace of a third of the time in batches of 4 ms, without any
throttle, by default, and a plain loop of range UPDATEs of 1,000 keys. Added is the 99th percentile
over that of the site alone, in the same run; of several rounds all requests count together, and
the seconds are the median. `--watch` says what the longest writes waited for. The server has log
files to use again, as one has that has been at work for a while; with `--fresh-log` whoever needs
a new file makes it. A load of a million rows takes one to four minutes a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.server import PROJECT, Server, running
from tests.benchmarks.traffic import Load, percentile

LOADS = {
    "light": Load(reads=100, writes=50),
    "steady": Load(reads=500, writes=200),
    "cores taken": Load(reads=100, writes=50, burners=os.cpu_count() or 1),
    "django": Load(reads=140, writes=60, django=True),
    "meeting": Load(reads=100, writes=50, meeting=True),
}
PACES: dict[str, list[str] | None] = {
    "none": None,
    "33 %, 4 ms": ["--duty", "33%", "--target-ms", "4"],
    "unthrottled": ["--no-throttle"],
    "default": [],
    "plain loop": None,
}
ALONE_SECONDS = 12.0
KEYS = 1000
# A write that takes longer is looked into, in milliseconds.
LONG = 30.0
SPIN = "while True: pass"
# Log files of 16 MB that are made beforehand, and kept.
LOG_FILES = 64
SETTINGS = {"min_wal_size": "1GB", "max_wal_size": "2GB"}


@dataclass
class Measured:
    """A pace beside a load, in all rounds.

    Arguments:
        load: its name.
        pace: its name.
        seconds: of the backfill, in each round.
        reads: of all requests, in milliseconds.
        writes: the same.
        pace_at_end: what the backfill says of its pace, in each round.
        waits: what long statements of the site waited for, and how often that was seen.
    """

    load: str
    pace: str
    seconds: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    pace_at_end: list[Any] = field(default_factory=list)
    waits: Counter[str] = field(default_factory=Counter)

    @property
    def usual_seconds(self) -> float:
        return statistics.median(self.seconds)

    def as_json(self) -> dict[str, Any]:
        """Give the sums instead of each request."""
        return {**vars(self), "reads": _summary(self.reads), "writes": _summary(self.writes)}


def measure(server: Server, measured: Measured, *, watch: bool) -> None:
    """Measure one pace beside one load, on a fresh copy of the table: a round."""
    load, pace = measured.load, measured.pace
    server.reset()
    result: dict[str, Any] = {}
    with traffic(server, LOADS[load]) as took, watching(server, measured.waits, watch=watch):
        time.sleep(1.5)  # connections are made, and pages read
        began = time.monotonic()
        if pace == "none":
            time.sleep(ALONE_SECONDS)  # in which the site is measured
        elif pace == "plain loop":
            fill_plainly(server)
        else:
            said = server.manage("backfill_new_token", "--json", *(PACES[pace] or []))
            result = json.loads(said)
        ended = time.monotonic()
    if result:
        # Without the start of the process, which takes a core of this machine for seconds.
        began = ended - result["seconds"]
    left = server.value("SELECT count(*) FROM tickets_ticket WHERE new_token IS NULL")
    assert pace == "none" or not left, f"{left} rows are left"
    for kind, figures in (("reads", measured.reads), ("writes", measured.writes)):
        figures += [ms for due, ms in took[kind] if began <= due < ended]
    measured.seconds.append(result.get("seconds", ended - began))
    measured.pace_at_end.append(result.get("pace"))


def play(
    server: Server, load: str, paces: list[str], *, rounds: int, watch: bool
) -> list[Measured]:
    """Measure the paces beside a load, in turns: what the machine does beside changes by itself."""
    runs = [Measured(load, pace) for pace in paces]
    for _ in range(rounds):
        for each in runs:
            measure(server, each, watch=watch)
    return runs


def _summary(values: list[float]) -> list[float]:
    return [percentile(values, 0.9), percentile(values, 0.99), max(values, default=0.0)]


def grow_log(server: Server) -> None:
    """Have the server make log files, and keep them to be used again (`min_wal_size`)."""
    with server.connect("postgres") as connection:
        for _ in range(LOG_FILES):
            connection.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 15728640))")
            connection.execute("SELECT pg_switch_wal()")
        connection.execute("CHECKPOINT")
        connection.execute("CHECKPOINT")


def fill_plainly(server: Server) -> None:
    """Fill as a user would write it: ranges of keys, one after the other."""
    with server.connect() as connection:
        row = connection.execute("SELECT min(id), max(id) FROM tickets_ticket").fetchone()
        assert row is not None
        for first in range(row[0], row[1] + 1, KEYS):
            connection.execute(
                "UPDATE tickets_ticket SET new_token = gen_random_uuid() "  # noqa: S608 - numbers
                f"WHERE id BETWEEN {first} AND {first + KEYS - 1} AND new_token IS NULL"
            )


@contextmanager
def traffic(server: Server, load: Load) -> Iterator[dict[str, list[list[float]]]]:
    """Within this context a site is at work; afterwards what is yielded has its latencies."""
    took: dict[str, list[list[float]]] = {}
    told = json.dumps(asdict(load))
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(load.burners)]
    site = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.traffic", told],
        cwd=PROJECT,
        env=server.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert site.stdout is not None
    try:
        site.stdout.readline()
        yield took
        output, _ = site.communicate()
        took |= json.loads(output)
    finally:
        site.kill()
        for each in spinning:
            each.kill()
            each.wait()


@contextmanager
def watching(server: Server, waits: Counter[str], *, watch: bool) -> Iterator[None]:
    """Within this context, see what statements of the site wait for that take long."""
    stop = threading.Event()

    def look() -> None:
        with server.connect("postgres") as connection:
            while not stop.wait(0.01):
                rows = connection.execute(
                    "SELECT wait_event_type, wait_event FROM pg_stat_activity "
                    "WHERE application_name = 'site' AND state = 'active' "
                    "AND clock_timestamp() - query_start > %s * interval '1 ms'",
                    [LONG],
                )
                waits.update(f"{kind}:{event}" if kind else "CPU" for kind, event in rows)

    thread = threading.Thread(target=look)
    if watch:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if watch:
            thread.join()


def line(each: Measured, alone: Measured, fastest: float) -> str:
    """A row of the table."""
    seconds = each.usual_seconds
    took = "-" if each.pace == "none" else f"{seconds:.1f} ({seconds / fastest:.1f})"
    figures = [
        f"{own[0]:.1f} / {own[1]:.1f} / {own[2]:.0f} | {own[1] - base[1]:+.1f}"
        for own, base in (
            (_summary(each.reads), _summary(alone.reads)),
            (_summary(each.writes), _summary(alone.writes)),
        )
    ]
    waits = " ".join(f"{name} {count}" for name, count in each.waits.most_common(4))
    return f"| {each.load} | {each.pace} | {took} | {' | '.join(figures)} | {waits} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--load", action="append", choices=LOADS, help="default: all")
    parser.add_argument("--pace", action="append", choices=PACES, help="default: all")
    parser.add_argument("--rounds", type=int, default=1, help="of each pace, in turns")
    parser.add_argument("--fresh-log", action="store_true", help="make no log files beforehand")
    parser.add_argument("--watch", action="store_true", help="what long statements waited for")
    parser.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="of the server"
    )
    parser.add_argument("--output", type=Path, help="where to write the results as JSON")
    options = parser.parse_args()
    results = []
    settings = {**SETTINGS, **dict(each.split("=", 1) for each in options.setting)}
    with running(**settings) as server:
        about = server.about("shared_buffers", "max_wal_size")
        server.seed(options.rows)
        if not options.fresh_log:
            grow_log(server)
        sys.stdout.write(
            "| load | backfill | s (of unthrottled) | reads p90 / p99 / max | added "
            "| writes p90 / p99 / max | added | |\n" + "|---" * 8 + "|\n"
        )
        for load in options.load or LOADS:
            runs = play(
                server,
                load,
                options.pace or list(PACES),
                rounds=options.rounds,
                watch=options.watch,
            )
            fastest = next((each.usual_seconds for each in runs if each.pace == "unthrottled"), 1.0)
            for each in runs:
                sys.stdout.write(line(each, runs[0], fastest))
            sys.stdout.flush()
            results += [each.as_json() for each in runs]
    if options.output:
        options.output.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
