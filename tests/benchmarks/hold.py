"""How long the swap holds its lock beside views and over partitions, in one run.

    python -m tests.benchmarks.hold --views 1 20 200 --partitions 100 1000 --retyped 10

Each shape is swapped and reverted a few times on an embedded server, with nobody else at work; the
medians are told, with what the comparison of meanings takes of them, and beside each what a bare
exchange of the two names takes on the same table. Retyped is a conversion from integer to bigint
under so many views, which are made again. Members are a group of so many unique columns, the first
of which draws; of one, a lone shadow.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from app.embedded.server import Cluster

SHAPES = {
    "views": "CREATE VIEW shown_{n} AS SELECT id, token FROM held WHERE id > {n}",
    "partitions": "CREATE TABLE held_{n} PARTITION OF held FOR VALUES FROM ({n}) TO ({n} + 1)",
    # Each with an owner, a privilege and a comment, and every second one above another.
    "retyped": (
        "CREATE VIEW shown_{n} AS SELECT id, token FROM {below} WHERE id > {n};"
        "GRANT SELECT ON shown_{n} TO pg_monitor; COMMENT ON VIEW shown_{n} IS 'shown'"
    ),
}
DRAWN = "INSERT INTO held SELECT n, {values} FROM generate_series(0, 99) AS n"
COUNTED = "INSERT INTO held SELECT n, n FROM generate_series(0, 99) AS n"
TYPES = {"retyped": ("integer", "bigint", COUNTED)}


def name_columns(shape: str, count: int) -> list[str]:
    """The live columns of a shape."""
    others = [f"token_{n}" for n in range(1, count)] if shape == "members" else []
    return ["token", *others]


def make(session: psycopg.Connection[object], shape: str, count: int) -> None:
    """Make a table with so many views, partitions or columns, expanded."""
    columns = name_columns(shape, count)
    old, new, rows = TYPES.get(shape, ("uuid", "uuid", DRAWN))
    session.execute("DROP TABLE IF EXISTS held CASCADE")
    if shape == "partitions":
        session.execute(
            "CREATE TABLE held (id bigint PRIMARY KEY, token uuid NOT NULL) PARTITION BY RANGE (id)"
        )
    else:
        unique = ", ".join(f"{each} {old} NOT NULL UNIQUE" for each in columns)
        session.execute(f"CREATE TABLE held (id bigint PRIMARY KEY, {unique})".encode())
    for n in range(count if shape in SHAPES else 0):
        below = f"shown_{n - 1}" if n % 2 else "held"
        session.execute(SHAPES[shape].format(n=n, below=below).encode())
    if shape == "partitions":
        session.execute("CREATE INDEX held_token ON held (token)")
    values = ", ".join("gen_random_uuid()" for _ in columns)
    session.execute(rows.format(values=values).encode())
    for each in columns:
        session.execute(f"ALTER TABLE held ADD new_{each} {new}".encode())


def rename(session: psycopg.Connection[object]) -> float:
    """Exchange the two names and nothing else, and back; milliseconds under the lock."""
    statements = [
        f"ALTER TABLE held RENAME COLUMN {old} TO {new}"
        for old, new in (("token", "between"), ("new_token", "token"), ("between", "new_token"))
    ]
    held = []
    for _ in range(2):
        with session.transaction():
            session.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            session.execute("; ".join(statements).encode())
        held.append((time.monotonic() - began) * 1000)
    return min(held)


class Comparison:
    """The last comparison of meanings, which is the one under the lock, as Django's cursor sees it.

    Arguments:
        ms: how long its query took, in milliseconds.
    """

    ms = 0.0

    def __call__(self, execute: Callable[..., Any], query: str, *arguments: Any) -> Any:
        began = time.monotonic()
        result = execute(query, *arguments)
        if "pg_identify_object(object.classid" in query:
            self.ms = (time.monotonic() - began) * 1000
        return result


def measure(url: str, shape: str, count: int, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Milliseconds that the lock was held, and those of the comparison, by play."""
    from django.contrib.postgres.functions import RandomUUID  # noqa: PLC0415 - Django is set up
    from django.db import connection, models  # noqa: PLC0415

    from migrations_playbook import Group, Shadow  # noqa: PLC0415
    from migrations_playbook.backfill.play import Options, backfill  # noqa: PLC0415
    from migrations_playbook.replacement import Replacement  # noqa: PLC0415
    from migrations_playbook.swap.play import swap  # noqa: PLC0415
    from migrations_playbook.swap.reports import Exchanged  # noqa: PLC0415

    fields: tuple[type[Any], type[Any]] = (models.UUIDField, models.UUIDField)
    shadow = Shadow(live="token", shadow="new_token", value=RandomUUID())
    if shape in TYPES:
        fields = models.IntegerField, models.BigIntegerField
        up, down = models.F("token"), models.F("new_token")
        shadow = Shadow(live="token", shadow="new_token", up=up, down=down)

    columns = name_columns(shape, count)
    if len(columns) > 1:
        made = (Shadow(each, f"new_{each}", models.F("new_token")) for each in columns[1:])
        shadow, *_ = Group(shadow, *made).members

    class Held(models.Model):
        id = models.BigIntegerField(primary_key=True)

        class Meta:
            app_label = f"{shape}_{count}"
            db_table = "held"

        def __str__(self) -> str:
            return str(self.pk)

    for each in columns:
        Held.add_to_class(each, fields[0]())
        Held.add_to_class(f"new_{each}", fields[1](null=True))

    with psycopg.connect(url, autocommit=True) as session:
        make(session, shape, count)
        for _ in range(rounds):
            yield "bare rename", rename(session), 0.0
    for trigger in shadow.triggers:
        trigger.install(Held, database="default")  # type: ignore[arg-type]
    replacement = Replacement(Held, shadow)
    for _ in backfill(replacement, using="default", options=Options.plain()):
        pass
    comparison = Comparison()
    with connection.execute_wrapper(comparison):
        for revert in (False, True) * rounds:
            for event in swap(replacement, using="default", revert=revert):
                if isinstance(event, Exchanged):
                    yield "revert" if revert else "swap", event.lock_hold_ms, comparison.ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--views", type=int, nargs="*", default=[1, 20, 200])
    parser.add_argument("--partitions", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--retyped", type=int, nargs="*", default=[10])
    parser.add_argument("--members", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shapes = [("views", count) for count in options.views]
    shapes += [("partitions", count) for count in options.partitions]
    shapes += [("retyped", count) for count in options.retyped]
    shapes += [("members", count) for count in options.members]
    settings = {"max_locks_per_transaction": "512"}
    with (
        tempfile.TemporaryDirectory(prefix="playbook-hold-") as folder,
        Cluster(Path(folder) / "data", options=settings) as cluster,
    ):
        os.environ |= {"DATABASE_URL": cluster.url(), "DJANGO_SETTINGS_MODULE": "app.settings"}
        import django  # noqa: PLC0415 - its settings are those just made
        from django.db import connections  # noqa: PLC0415

        django.setup()
        for shape, count in shapes:
            held: dict[str, list[tuple[float, float]]] = {}
            for play, *ms in measure(cluster.url(), shape, count, options.rounds):
                held.setdefault(play, []).append((ms[0], ms[1]))
            for play, each in held.items():
                wholes, parts = zip(*each, strict=True)
                sys.stdout.write(
                    f"{count:>5} {shape}, {play}: held {statistics.median(wholes):.1f} ms "
                    f"({min(wholes):.1f} to {max(wholes):.1f}), of it to compare meanings "
                    f"{statistics.median(parts):.1f}\n"
                )
        connections.close_all()


if __name__ == "__main__":
    main()
