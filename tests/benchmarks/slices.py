"""What it costs to fill in slices of time, as jobs of a queue do, rather than in one run.

    python -m tests.benchmarks.slices --rows 2000000 --seconds 5

Both work on fresh copies of the same table, by turns, in a process of their own that has begun
already (as a queue's worker has). A slice's own cost does not depend on its length, so that of a
longer slice follows: it is told for slices of 240 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from tests.benchmarks.server import running

LONG = 240.0


def fill(seconds: float | None) -> tuple[float, int]:
    """In this process: fill all, in slices of time; seconds in all, and how many slices."""
    import django  # noqa: PLC0415 - the parent process never sets Django up

    django.setup()
    from migrations_playbook.backfill.events import Finished  # noqa: PLC0415
    from migrations_playbook.backfill.play import Options, backfill  # noqa: PLC0415
    from migrations_playbook.replacement import find_replacement  # noqa: PLC0415

    replacement = find_replacement("tickets.Ticket", "new_token")
    began, slices = time.monotonic(), 0
    while True:
        slices += 1
        options = Options(seconds=seconds)
        *_, last = backfill(replacement, using="default", options=options)
        assert isinstance(last, Finished)
        if last.complete:
            return time.monotonic() - began, slices


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a slice")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        json.dump(fill(options.only or None), sys.stdout)
        return
    whole: list[float] = []
    sliced: list[float] = []
    slices: list[int] = []
    with running() as server:
        server.seed(options.rows)
        about = server.about("shared_buffers", "fsync")
        for _ in range(options.rounds):
            for length, results in ((0.0, whole), (options.seconds, sliced)):
                server.reset()
                shown = server.python("-m", "tests.benchmarks.slices", "--only", str(length))
                seconds, number = json.loads(shown)
                results.append(seconds)
                if length:
                    slices.append(number)
    one, many = statistics.median(whole), statistics.median(sliced)
    each = (many - one) / max(1, statistics.median(slices) - 1)
    result = {
        "about": about,
        "rows": options.rows,
        "one_run_seconds": [round(value, 2) for value in whole],
        "sliced_seconds": [round(value, 2) for value in sliced],
        "slices": slices,
        "overhead": round(many / one - 1, 4),
        "seconds_a_slice": round(each, 3),
        f"overhead_of_{LONG:.0f}_s": round(each / LONG, 5),
    }
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
