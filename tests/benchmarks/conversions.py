"""What a conversion costs: its backfill beside a rotation's, and the site's writes with the sync.

    python -m tests.benchmarks.conversions --rows 1000000

Tables of one shape stand side by side, and every figure is a ratio of two of them, taken by turns:
the median of the rounds. An `integer` becomes a `bigint`; the rotation draws UUIDs. The writes are
of one client, over a local socket, without a wait for the disk (`synchronous_commit`), which would
hide what the trigger takes.
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
from typing import Any

from app.embedded import programs
from tests.benchmarks.server import running

NO_WAIT = "-c synchronous_commit=off"
# The writes of the site, by pgbench.
SCRIPTS = {
    "the column": "UPDATE {table} SET size = :value WHERE id = :id;",
    "another column": "UPDATE {table} SET note = 'note ' || :value WHERE id = :id;",
}
# Goals, as ratios; None where there is none. The first is of rates, the others of times.
GOALS = {
    "backfill, rate to a rotation's": "at least 0.9",
    "UPDATE of the column": "at most 1.3",
    "UPDATE of another column": "within the noise",
    "save() that changes the column": "at most 1.05",
    "COPY": "",
}
SAVES, COPIED = 2000, 100_000


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


def pgbench(script: str, seconds: float, rows: int) -> float:
    """Run a statement over and over by one client; milliseconds for each."""
    program = programs.packaged(int(os.environ.get("EMBEDDED_POSTGRES_VERSION", "18"))) / "pgbench"
    done = subprocess.run(
        [
            program if program.exists() else shutil.which("pgbench") or "pgbench",
            "--no-vacuum",
            f"--time={seconds:.0f}",
            "--file=-",
            "--dbname",
            os.environ["DATABASE_URL"],
        ],
        input=f"\\set id random(1, {rows})\n\\set value random(1, 1000000)\n{script}\n",
        env={**os.environ, "PGOPTIONS": NO_WAIT},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"latency average = ([\d.]+) ms", done)
    assert found, done
    return float(found[1])


def make(model: Any, rows: int) -> None:
    """Make a table anew, as release N has it, and expand it."""
    from django.db import connection  # noqa: PLC0415 - once Django is set up

    from tests.benchmarks.conversion_models import SHADOWS  # noqa: PLC0415

    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {table}")
    with connection.schema_editor() as editor:
        editor.create_model(model)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (size, token, note) "  # noqa: S608
            "SELECT n, gen_random_uuid(), 'note ' || n FROM generate_series(1, %s) AS n",
            [rows],
        )
        cursor.execute(f"VACUUM (ANALYZE) {table}")
    if (shadow := SHADOWS.get(model)) is not None:
        for trigger in shadow.triggers:
            trigger.install(model)


def fill(model: Any, rows: int) -> float:
    """Make a table, and fill its shadow; rows a second."""
    from migrations_playbook.backfill.play import Options, backfill  # noqa: PLC0415
    from migrations_playbook.replacement import Replacement  # noqa: PLC0415
    from tests.benchmarks.conversion_models import SHADOWS  # noqa: PLC0415

    make(model, rows)
    replacement = Replacement(model, SHADOWS[model])
    began = time.monotonic()
    for _ in backfill(replacement, using="default", options=Options.plain()):
        pass
    return rows / (time.monotonic() - began)


def save(model: Any) -> float:
    """Change the column of some rows by Django's `save()`; seconds."""
    objects = list(model._default_manager.order_by("id")[:SAVES])
    began = time.monotonic()
    for each in objects:
        each.size += 1
        each.save()
    return time.monotonic() - began


def copy(model: Any, data: bytes) -> float:
    """COPY rows into a table; seconds."""
    from django.db import connection  # noqa: PLC0415

    with connection.cursor() as cursor:
        began = time.monotonic()
        statement = f"COPY {model._meta.db_table} (size, token, note) FROM STDIN"
        with cursor.copy(statement) as copying:
            copying.write(data)
    return time.monotonic() - began


def measure(rows: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Measure all; the ratios of the rounds, by the names of the goals."""
    from django.db import connection  # noqa: PLC0415

    from tests.benchmarks.conversion_models import Converted, Plain, Rotated  # noqa: PLC0415

    backfill = in_turn(rounds, lambda: fill(Converted, rows), lambda: fill(Rotated, rows))
    make(Plain, rows)
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        # As many dead rows as the backfill has left, and as wide.
        cursor.execute(f"UPDATE {Plain._meta.db_table} SET size_big = size")  # noqa: S608
        for model in (Plain, Converted):
            cursor.execute(f"VACUUM (ANALYZE) {model._meta.db_table}")

    def written(script: str, model: Any) -> Callable[[], float]:
        statement = script.format(table=model._meta.db_table)
        return lambda: pgbench(statement, seconds, rows)

    updates = [
        in_turn(2 * rounds, written(script, Converted), written(script, Plain))
        for script in SCRIPTS.values()
    ]
    saves = in_turn(2 * rounds, lambda: save(Converted), lambda: save(Plain))
    line = "{0}\t8a8f8a52-0000-4000-8000-{0:012}\tnote {0}\n"
    data = "".join(line.format(each) for each in range(COPIED)).encode()
    copies = in_turn(2 * rounds, lambda: copy(Converted, data), lambda: copy(Plain, data))
    return dict(zip(GOALS, (backfill, *updates, saves, copies), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="twice as many of the writes")
    parser.add_argument("--seconds", type=float, default=3.0, help="of pgbench, each time")
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        import django  # noqa: PLC0415 - the parent process never sets Django up

        django.setup()
        json.dump(measure(options.rows, options.rounds, options.seconds), sys.stdout)
        return
    with running() as server:
        server.empty()
        about = server.about("shared_buffers", "fsync")
        found = json.loads(
            server.python("-m", "tests.benchmarks.conversions", "--within", *sys.argv[1:])
        )
    for name, value in {"rows": options.rows, **about}.items():
        sys.stdout.write(f"{name}: {value}\n")
    sys.stdout.write("| | ratio | lowest to highest | goal |\n|---|---|---|---|\n")
    for name, ratios in found.items():
        sys.stdout.write(
            f"| {name} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} "
            f"| {GOALS[name]} |\n"
        )


if __name__ == "__main__":
    main()
