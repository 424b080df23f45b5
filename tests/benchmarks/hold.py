"""How long the swap holds its lock beside views and over partitions, in one run.

    python -m tests.benchmarks.hold --views 1 20 200 --partitions 100 1000

Each shape is swapped and reverted a few times on an embedded server, with nobody else at work; the
medians are told, and what each is to the first one's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from app.embedded.server import Cluster

SHAPES = {
    "views": "CREATE VIEW shown_{n} AS SELECT id, token FROM held WHERE id > {n}",
    "partitions": "CREATE TABLE held_{n} PARTITION OF held FOR VALUES FROM ({n}) TO ({n} + 1)",
}


def make(session: psycopg.Connection[object], shape: str, count: int) -> None:
    """Make a table with so many views or partitions, expanded."""
    session.execute("DROP TABLE IF EXISTS held CASCADE")
    if shape == "partitions":
        session.execute(
            "CREATE TABLE held (id bigint PRIMARY KEY, token uuid NOT NULL) PARTITION BY RANGE (id)"
        )
    else:
        session.execute("CREATE TABLE held (id bigint PRIMARY KEY, token uuid NOT NULL UNIQUE)")
    for n in range(count):
        session.execute(SHAPES[shape].format(n=n).encode())
    if shape == "partitions":
        session.execute("CREATE INDEX held_token ON held (token)")
    session.execute("INSERT INTO held SELECT n, gen_random_uuid() FROM generate_series(0, 99) AS n")
    session.execute("ALTER TABLE held ADD new_token uuid")


def measure(url: str, shape: str, count: int, rounds: int) -> Iterator[tuple[str, float]]:
    """Milliseconds that the lock was held, by play."""
    from django.contrib.postgres.functions import RandomUUID  # noqa: PLC0415 - Django is set up
    from django.db import models  # noqa: PLC0415

    from migrations_playbook import Shadow  # noqa: PLC0415
    from migrations_playbook.backfill.play import Options, backfill  # noqa: PLC0415
    from migrations_playbook.replacement import Replacement  # noqa: PLC0415
    from migrations_playbook.swap.play import swap  # noqa: PLC0415
    from migrations_playbook.swap.reports import Exchanged  # noqa: PLC0415

    class Held(models.Model):
        id = models.BigIntegerField(primary_key=True)
        token = models.UUIDField()
        new_token = models.UUIDField(null=True)

        class Meta:
            app_label = f"{shape}_{count}"
            db_table = "held"

        def __str__(self) -> str:
            return str(self.pk)

    with psycopg.connect(url, autocommit=True) as session:
        make(session, shape, count)
    shadow = Shadow(live="token", shadow="new_token", value=RandomUUID())
    for trigger in shadow.triggers:
        trigger.install(Held, database="default")  # type: ignore[arg-type]
    replacement = Replacement(Held, shadow)
    for _ in backfill(replacement, using="default", options=Options.plain()):
        pass
    for _ in range(rounds):
        for revert in (False, True):
            for event in swap(replacement, using="default", revert=revert):
                if isinstance(event, Exchanged):
                    yield "revert" if revert else "swap", event.lock_hold_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--views", type=int, nargs="*", default=[1, 20, 200])
    parser.add_argument("--partitions", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shapes = [("views", count) for count in options.views]
    shapes += [("partitions", count) for count in options.partitions]
    settings = {"max_locks_per_transaction": "512"}
    with (
        tempfile.TemporaryDirectory(prefix="playbook-hold-") as folder,
        Cluster(Path(folder) / "data", options=settings) as cluster,
    ):
        os.environ |= {"DATABASE_URL": cluster.url(), "DJANGO_SETTINGS_MODULE": "app.settings"}
        import django  # noqa: PLC0415 - its settings are those just made
        from django.db import connections  # noqa: PLC0415

        django.setup()
        first = None
        for shape, count in shapes:
            held: dict[str, list[float]] = {}
            for play, ms in measure(cluster.url(), shape, count, options.rounds):
                held.setdefault(play, []).append(ms)
            for play, each in held.items():
                median = statistics.median(each)
                first = first or median
                sys.stdout.write(
                    f"{count:>5} {shape}, {play}: held {median:.1f} ms ({min(each):.1f} to "
                    f"{max(each):.1f}), {median / first:.2f} times the first\n"
                )
        connections.close_all()


if __name__ == "__main__":
    main()
