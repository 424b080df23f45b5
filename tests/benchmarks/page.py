"""What the admin's page costs the server while it follows a run, beside the run's own batches.

    python -m tests.benchmarks.page --rows 1000000

A backfill of one worker runs to its end, and the page is asked for as often as a browser asks. The
server itself says how long each statement took, BEGIN and COMMIT too (log_min_duration_statement),
for the sessions of both. The goal: less than one batch in a hundred, in time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import django

from tests.benchmarks.server import PROJECT, Server, running

# The page's sessions in the log.
PAGE = "page"
LOGGED = {"PGOPTIONS": "-c log_min_duration_statement=0"}
# A statement's further lines begin with a tab.
LINE = re.compile(
    r"^(?P<who>.*?)\|LOG:  duration: (?P<ms>[\d.]+) ms  statement: (?P<what>.*(?:\n\t.*)*)",
    re.MULTILINE,
)
GOAL = 0.01


@dataclass(frozen=True)
class Cost:
    """What one of the two had the server do.

    Arguments:
        statements: a second.
        ms_each: milliseconds of a statement.
        ms_a_second: milliseconds of the server in a second.
    """

    statements: float
    ms_each: float
    ms_a_second: float

    @classmethod
    def of(cls, times: list[float], seconds: float) -> Cost:
        """Add up the times of statements, in milliseconds."""
        return cls(
            round(len(times) / seconds, 2),
            round(sum(times) / max(1, len(times)), 3),
            round(sum(times) / seconds, 3),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("options", nargs="*", help="More options of the backfill.")
    arguments = parser.parse_args()
    with running(log_line_prefix="%a|") as server:
        server.seed(arguments.rows)
        server.reset()
        seconds, asked = follow_run(server, arguments.options)
        log = Path(server.value("SHOW data_directory", "postgres"), "server.log")
        times = read_times(log.read_text(errors="replace"))
    batches = Cost.of(times["batches"], seconds)
    found = {
        "rows": arguments.rows,
        "seconds": round(seconds, 1),
        "asked": asked,
        "batches": asdict(batches),
        "page": asdict(Cost.of(times["page"], seconds)),
        "of it Django's own (session, user)": asdict(Cost.of(times["django"], seconds)),
        "page / batches": round(sum(times["page"]) / sum(times["batches"]), 5),
    }
    print(json.dumps(found, indent=2))  # noqa: T201 - the result
    sys.exit(found["page / batches"] >= GOAL)


def follow_run(server: Server, options: list[str]) -> tuple[float, int]:
    """Let a backfill run, and look at it as a browser does; the seconds, and how often."""
    os.environ |= server.environment() | LOGGED
    django.setup()
    # Imported late: Django is set up by now.
    from django.contrib.auth.models import User  # noqa: PLC0415
    from django.db import connection  # noqa: PLC0415

    from migrations_playbook.admin.sight import LOOK_EVERY  # noqa: PLC0415
    from tests.fixtures.site import ONE, sign_in  # noqa: PLC0415

    client = sign_in(User.objects.create_superuser("ann"))
    client.get(ONE)
    # What follows is told from the first page by the name of its session.
    connection.close()
    os.environ["PGAPPNAME"] = PAGE
    command = ("manage.py", "backfill_new_token", "--json", "--workers", "1", *options)
    began, asked = time.monotonic(), 0
    with subprocess.Popen([sys.executable, *command], cwd=PROJECT, stdout=sys.stderr) as run:
        while run.poll() is None:
            answer = client.get(f"{ONE}?live")
            assert answer.status_code == 200
            asked += 1
            time.sleep(LOOK_EVERY)  # as the page's script does
    assert run.returncode == 0
    return time.monotonic() - began, asked


def read_times(log: str) -> dict[str, list[float]]:
    """Read how long the server took for each statement, in milliseconds, by whose it was."""
    times: dict[str, list[float]] = defaultdict(list)
    for line in LINE.finditer(log):
        if line["who"] == PAGE:
            times["page"].append(float(line["ms"]))
            if re.search("django_session|auth_user|django_content_type", line["what"]):
                times["django"].append(float(line["ms"]))
        elif "UPDATE" in line["what"]:
            times["batches"].append(float(line["ms"]))
    return times


if __name__ == "__main__":
    main()
