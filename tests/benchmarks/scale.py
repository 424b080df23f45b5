"""How the backfill and the swap grow with the table: `python -m tests.benchmarks.scale`.

    python -m tests.benchmarks.scale --rows 100000 1000000 10000000 --output docs/scale.json
    python -m tests.benchmarks.scale --rows 10000000 --setting max_wal_size=8GB

For each size, on one server in one run: one UPDATE of the whole table; the backfill as the command
runs it when nobody else is at work, slices and throttles included; a swap and its proof; and the
backfill once more, killed at nine tenths and begun again. Memory is the command's high-water mark.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.memory import high_water_mark_of
from tests.benchmarks.server import PROJECT, Server, running

KILL_AT = 0.9
SETTINGS = ("shared_buffers", "max_wal_size", "checkpoint_timeout", "wal_compression", "fsync")
SIZES = "SELECT pg_table_size('tickets_ticket') + pg_indexes_size('tickets_ticket')"
NULLS = "SELECT count(*) FROM tickets_ticket WHERE new_token IS NULL"
# From a command's start to its first batch, in seconds.
START = 0.4


@dataclass(frozen=True)
class Scaled:
    """One size of table.

    Arguments:
        rows: rows.
        update_seconds: of one UPDATE of the whole table.
        backfill_seconds: of the backfill, as it says itself.
        rate_over_update: the backfill's rate as a ratio to the UPDATE's.
        left_share: the share of the rows that was left when it was killed.
        first_batch_seconds: after the kill, from the play's beginning to its first commit.
        first_batch_share: the same as a share of `backfill_seconds`.
        peak_bytes: the most memory that the command has had.
        growth: heap and indexes afterwards, as a ratio to before.
        wal_bytes_a_row: of the backfill.
        checkpoints: during the backfill.
        swap_hold_ms: for how long the swap held its lock, in milliseconds.
        verify_seconds: of the proof after it.
    """

    rows: int
    update_seconds: float
    backfill_seconds: float
    rate_over_update: float
    left_share: float
    first_batch_seconds: float
    first_batch_share: float
    peak_bytes: int
    growth: float
    wal_bytes_a_row: float
    checkpoints: int
    swap_hold_ms: float
    verify_seconds: float


def scale(server: Server, rows: int) -> Scaled:
    server.seed(rows)
    server.reset()
    with server.connect() as connection:
        began = time.monotonic()
        connection.execute("UPDATE tickets_ticket SET new_token = gen_random_uuid()")
        update_seconds = time.monotonic() - began
    sys.stderr.write(f"{rows:,} rows: UPDATE {update_seconds:.1f} s\n")
    server.reset()
    size, wal, checkpoints = server.value(SIZES), server.wal_position(), requested(server)
    filled, peak = command(server, "backfill_new_token", "--json")
    sys.stderr.write(f"{rows:,} rows: backfill {filled['seconds']:.1f} s\n")
    growth = server.value(SIZES) / size
    wal, checkpoints = server.wal_position() - wal, requested(server) - checkpoints
    swapped, _ = command(server, "swap_token_columns", "--json")
    began = time.monotonic()
    command(server, "swap_token_columns", "--verify", "--json")
    verify_seconds = time.monotonic() - began
    server.reset()
    run_and_kill(server, START + KILL_AT * filled["seconds"])
    left = server.value(NULLS)
    first = float(server.python("-m", "tests.benchmarks.scale", "--first-batch"))
    return Scaled(
        rows=rows,
        update_seconds=update_seconds,
        backfill_seconds=filled["seconds"],
        rate_over_update=update_seconds / filled["seconds"],
        left_share=left / rows,
        first_batch_seconds=first,
        first_batch_share=first / filled["seconds"],
        peak_bytes=peak,
        growth=growth,
        wal_bytes_a_row=wal / rows,
        checkpoints=checkpoints,
        swap_hold_ms=swapped["lock_hold_ms"],
        verify_seconds=verify_seconds,
    )


def run_and_kill(server: Server, seconds: float) -> None:
    """Run the backfill for so long, and kill it."""
    process = start(server, "backfill_new_token", "--json")
    # To look how far it is would slow it down.
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def command(server: Server, *arguments: str) -> tuple[dict[str, Any], int]:
    """A command to its end: the JSON object that it printed, and its peak memory in bytes."""
    process = start(server, *arguments)
    peak = 0
    while process.poll() is None:
        peak = max(peak, high_water_mark_of(process.pid))
        # Nothing tells when a process grows.
        time.sleep(0.05)
    assert process.stdout is not None
    assert process.returncode == 0
    return json.loads(process.stdout.read()), peak


def start(server: Server, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env=server.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )


def requested(server: Server) -> int:
    """Checkpoints so far, those that WAL has asked for and those of the clock."""
    new = server.value("SELECT to_regclass('pg_catalog.pg_stat_checkpointer') IS NOT NULL")
    return int(
        server.value(
            "SELECT num_timed + num_requested FROM pg_stat_checkpointer"
            if new
            else "SELECT checkpoints_timed + checkpoints_req FROM pg_stat_bgwriter"
        )
    )


def first_batch() -> float:
    """In this process: seconds from the play's beginning to its first committed batch, or NaN."""
    import django  # noqa: PLC0415 - the parent process never sets Django up

    django.setup()
    from migrations_playbook.backfill.events import Batch  # noqa: PLC0415
    from migrations_playbook.backfill.play import Options, backfill  # noqa: PLC0415
    from migrations_playbook.replacement import find_replacement  # noqa: PLC0415

    replacement = find_replacement("tickets.Ticket", "new_token")
    began = time.monotonic()
    events = backfill(replacement, using="default", options=Options.plain())
    # None when the killed run had done it all: it is too fast on a small table.
    first = next((event for event in events if isinstance(event, Batch)), None)
    seconds = time.monotonic() - began
    events.close()
    return seconds if first else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="of the server"
    )
    parser.add_argument("--output", type=Path, help="where to write the results as JSON")
    parser.add_argument("--first-batch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_batch:
        sys.stdout.write(str(first_batch()))
        return
    with running(**dict(each.split("=", 1) for each in options.setting)) as server:
        about = server.about(*SETTINGS)
        results = []
        for rows in options.rows:
            results.append(asdict(scale(server, rows)))
            sys.stdout.write(
                "\n".join(f"{name}: {value:,.3f}" for name, value in results[-1].items()) + "\n\n"
            )
            sys.stdout.flush()
    if options.output:
        options.output.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
