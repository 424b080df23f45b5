"""The backfill's options: on the command line, and in the engine."""

from __future__ import annotations

import argparse
import re
from typing import Any

from django.core.management.base import CommandParser

from migrations_playbook.backfill import vacuum
from migrations_playbook.backfill.pacing import pace, steering
from migrations_playbook.backfill.pacing.pace import Pace
from migrations_playbook.backfill.pacing.throttle import Limits
from migrations_playbook.backfill.play import Options
from migrations_playbook.management.base import positive_float, positive_int

DURATIONS = {"s": 1, "min": 60, "h": 3600}
UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def parse_size(text: str) -> float:
    """Parse an option's bytes, such as 500MB or 20GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?b)?", text.strip().lower())
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 20GB")
    return float(match[1]) * UNITS[match[2] or ""]


def parse_duration(text: str) -> float:
    """Parse an option's seconds, such as 240s, 5min or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)?", text.strip().lower())
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 240s, 5min or 2h")
    return float(match[1]) * DURATIONS[match[2] or "s"]


def parse_share(text: str) -> float:
    """Parse an option's share, such as 10% or 0.1, or 0."""
    try:
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 10% or 0.1")
    return number


def parse_duty(text: str) -> float:
    """Parse an option's share above 0."""
    number = parse_share(text)
    if not number:
        raise argparse.ArgumentTypeError("a duty of 0 would never be done; use --pause")
    return number


# What --set takes.
SETTABLE = {
    "max-added-ms": positive_float,
    "target-ms": positive_float,
    "max-rows-per-second": positive_float,
    "duty": parse_duty,
}


def parse_setting(text: str) -> tuple[str, float | None]:
    """Parse an option NAME=VALUE, or NAME= for a worker's own option."""
    name, equals, value = text.partition("=")
    if name not in SETTABLE or not equals:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=VALUE with a name of {', '.join(SETTABLE)}"
        )
    return name.replace("-", "_"), SETTABLE[name](value) if value else None


def add_options(parser: CommandParser) -> None:
    """Declare the options."""
    limits = Limits()
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="Show the plan, what it will cost, and the signals; change nothing.",
    )
    parser.add_argument(
        "--no-progress", action="store_true", help="Draw no progress, only the result."
    )
    fast = parser.add_argument_group("fast")
    fast.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="Threads, each with a connection of its own (default: one for every four cores of "
        "the server and ten free connections, 1 to 4).",
    )
    gentle = parser.add_argument_group("gentle")
    gentle.add_argument(
        "--max-added-ms",
        type=positive_float,
        default=steering.MAX_ADDED_MS,
        metavar="MS",
        help="By how much the 99th percentile of the site's requests may grow, in ms "
        "(default: %(default)s).",
    )
    gentle.add_argument(
        "--target-ms",
        type=positive_float,
        metavar="MS",
        help=f"How long a batch should take, in ms (default: {pace.ALONE_MS:g}, and what "
        "--max-added-ms allows while others are at work on the server).",
    )
    gentle.add_argument(
        "--batch-size",
        type=positive_int,
        metavar="ROWS",
        help="Rows in one transaction (default: as many as --target-ms allows).",
    )
    gentle.add_argument(
        "--max-rows-per-second",
        type=positive_float,
        metavar="ROWS",
        help="The most that this process fills in a second (default: no bound).",
    )
    gentle.add_argument(
        "--duty",
        type=parse_duty,
        metavar="SHARE",
        help="The share of the time that a worker is at work (default: all of it, and what "
        "--max-added-ms allows while others are at work on the server).",
    )
    gentle.add_argument(
        "--no-throttle", action="store_true", help="Step aside for no signal at all."
    )
    gentle.add_argument(
        "--max-lag",
        type=positive_float,
        default=limits.replica_lag,
        metavar="SECONDS",
        help="Wait while a replica is further behind (default: %(default)s).",
    )
    gentle.add_argument(
        "--max-slot-wal",
        type=parse_size,
        metavar="SIZE",
        help="Wait while a slot retains more WAL (default: half of max_slot_wal_keep_size, or "
        "8 times max_wal_size).",
    )
    gentle.add_argument(
        "--max-archive-backlog",
        type=positive_int,
        default=limits.archive_backlog,
        metavar="FILES",
        help="Wait while more WAL files wait to be archived (default: %(default)s).",
    )
    gentle.add_argument(
        "--max-waiting-ms",
        type=positive_float,
        default=limits.waiting_ms,
        metavar="MS",
        help="Wait when a session has stood behind us for longer (default: %(default)s).",
    )
    gentle.add_argument(
        "--max-active",
        type=positive_int,
        metavar="SESSIONS",
        help="Wait while more sessions of others are at work (default: twice the cores, and at "
        "least 4).",
    )
    gentle.add_argument(
        "--max-wal-rate",
        type=parse_size,
        metavar="SIZE",
        help="Wait while the server writes more WAL a second (default: no bound).",
    )
    gentle.add_argument(
        "--throttle-query",
        metavar="SQL",
        help="Wait while this query's one value is anything but 0 or false.",
    )
    small = parser.add_argument_group("small")
    small.add_argument(
        "--vacuum-every",
        type=parse_share,
        default=vacuum.DEFAULT_EVERY,
        metavar="SHARE",
        help="VACUUM after every so much of the rows; 0 for never (default: %(default)s).",
    )
    small.add_argument(
        "--wait-for-snapshots",
        action="store_true",
        help="Wait while an old snapshot makes VACUUM useless (default: say it, and go on).",
    )
    small.add_argument(
        "--max-wal",
        type=parse_size,
        metavar="SIZE",
        help="End when the server has written so much WAL meanwhile (default: no bound).",
    )
    small.add_argument(
        "--for",
        dest="seconds",
        type=parse_duration,
        metavar="TIME",
        help="End after so long, 240s say; exit code 75 when rows are left (default: no bound).",
    )
    control = parser.add_argument_group(
        "from any terminal, for the workers on every host, while they work"
    )
    which = control.add_mutually_exclusive_group()
    which.add_argument("--pause", action="store_true", help="Make them wait.")
    which.add_argument("--resume", action="store_true", help="Let them go on.")
    control.add_argument(
        "--set",
        dest="changes",
        type=parse_setting,
        action="append",
        metavar="NAME=VALUE",
        help=f"Overrule an option of theirs: {', '.join(SETTABLE)}. NAME= gives it back.",
    )


def options_from(given: dict[str, Any]) -> Options:
    """Turn the command's options into the engine's."""
    limits = Limits(
        replica_lag=given["max_lag"],
        slot_wal=given["max_slot_wal"],
        archive_backlog=given["max_archive_backlog"],
        waiting_ms=given["max_waiting_ms"],
        active_sessions=given["max_active"],
        wal_rate=given["max_wal_rate"],
        query=given["throttle_query"],
    )
    return Options(
        workers=given["workers"],
        pace=Pace(
            target_ms=given["target_ms"],
            batch_size=given["batch_size"],
            max_rows_per_second=given["max_rows_per_second"],
            duty=given["duty"],
            max_added_ms=given["max_added_ms"],
        ),
        limits=None if given["no_throttle"] else limits,
        vacuum_every=given["vacuum_every"],
        wait_for_snapshots=given["wait_for_snapshots"],
        max_wal=given["max_wal"],
        seconds=given["seconds"],
    )
