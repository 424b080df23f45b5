"""The backfill's options: on the command line, and in the engine."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from migrations_playbook.backfill.pacing.pace import Pace
from migrations_playbook.backfill.pacing.throttle import Limits
from migrations_playbook.backfill.play import Options
from migrations_playbook.management.base import add_limits, option_type
from migrations_playbook.units import parse_duration, parse_duty, parse_number

# The options of `Pace` and of `Limits`.
PACE = "max-added-ms", "target-ms", "batch-size", "max-rows-per-second", "duty"
LIMITS = (
    "max-lag",
    "max-slot-wal",
    "max-archive-backlog",
    "max-waiting-ms",
    "max-active",
    "max-wal-rate",
    "throttle-query",
)
# What --set takes.
SETTABLE = {
    "max-added-ms": parse_number,
    "target-ms": parse_number,
    "max-rows-per-second": parse_number,
    "duty": parse_duty,
}


def parse_change(text: str) -> tuple[str, float | None]:
    """Parse an option NAME=VALUE, or NAME= for a worker's own option."""
    name, equals, value = text.partition("=")
    if name not in SETTABLE or not equals:
        raise ValueError(f"{text!r} is not NAME=VALUE with a name of {', '.join(SETTABLE)}")
    return name.replace("-", "_"), SETTABLE[name](value) if value else None


def add_options(parser: CommandParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="Show the plan, what it will cost, and the signals; change nothing.",
    )
    parser.add_argument(
        "--no-progress", action="store_true", help="Draw no progress, only the result."
    )
    parser.add_argument(
        "--skip-trigger",
        dest="skipped",
        action="append",
        metavar="NAME",
        help="Leave a trigger of the site out, by its name in the database: one of "
        "django-pgtrigger's, or one that asks for it (may be given more than once).",
    )
    add_limits(parser.add_argument_group("fast"), "workers")
    gentle = parser.add_argument_group("gentle")
    add_limits(gentle, *PACE)
    gentle.add_argument(
        "--no-throttle", action="store_true", help="Step aside for no signal at all."
    )
    add_limits(gentle, *LIMITS)
    small = parser.add_argument_group("small")
    add_limits(small, "vacuum-every", "max-wal")
    small.add_argument(
        "--wait-for-snapshots",
        action="store_true",
        help="Wait while an old snapshot makes VACUUM useless (default: say it, and go on).",
    )
    small.add_argument(
        "--for",
        dest="seconds",
        type=option_type(parse_duration),
        metavar="TIME",
        help="End after so long, 240s say; exit code 75 when rows are left (default: no bound).",
    )
    parser.add_argument(
        "--list-failed",
        action="store_true",
        help="Of a conversion: print the keys of the rows whose value cannot be converted (after "
        "the swap: back), one a line; change nothing.",
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
        type=option_type(parse_change),
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
        pace=Pace(**{name: given[name] for name in (each.replace("-", "_") for each in PACE)}),
        limits=None if given["no_throttle"] else limits,
        vacuum_every=given["vacuum_every"],
        wait_for_snapshots=given["wait_for_snapshots"],
        max_wal=given["max_wal"],
        seconds=given["seconds"],
        skipped=tuple(given["skipped"] or ()),
    )
