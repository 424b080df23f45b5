"""How long the swap holds its lock, for a small and a large table, in one run.

    python -m tests.benchmarks.swap_lock --rows 100000 5000000

Each table is swapped and reverted a few times, with nobody else at work; the medians are told,
and the ratio of the last table's to the first one's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from app.embedded.server import Cluster

PROJECT = Path(__file__).resolve().parent.parent.parent


def manage(url: str, *arguments: str) -> dict[str, Any]:
    """A command, to its end; the JSON object that it printed."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr.strip().splitlines()[-1])
    result: dict[str, Any] = json.loads(done.stdout) if "--json" in arguments else {}
    return result


def measure(cluster: Cluster, rows: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds that the lock was held in each swap and in each revert, as the client saw it.

    A revert's commit also deletes the files of the index that it drops, after its locks are
    released: the client waits for that, and nobody else does.
    """
    name = f"rows_{rows}"
    cluster.create_database(name)
    url = cluster.url(name)
    manage(url, "migrate", "--verbosity", "0")
    # Seeded as release N would have: the triggers fill as they come, which is as good here.
    manage(url, "seed_tickets", str(rows))
    manage(url, "backfill_new_token", "--json")
    held: dict[str, list[float]] = {"swap": [], "revert": []}
    for _ in range(rounds):
        for play, arguments in (("swap", []), ("revert", ["--revert"])):
            result = manage(url, "swap_token_columns", "--json", *arguments)
            held[play].append(float(result["lock_hold_ms"]))
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 5_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="playbook-swap-") as folder,
        Cluster(Path(folder) / "data") as cluster,
    ):
        medians = []
        for rows in options.rows:
            held = measure(cluster, rows, options.rounds)
            medians.append(statistics.median(held["swap"]))
            for play, each in held.items():
                sys.stdout.write(
                    f"{rows:>10,} rows, {play}: held {statistics.median(each):.1f} ms "
                    f"(median of {len(each)}; {min(each):.1f} to {max(each):.1f})\n"
                )
    sys.stdout.write(f"the last swap is {medians[-1] / medians[0]:.2f} times the first\n")


if __name__ == "__main__":
    main()
