"""Write docs/locks.md again: every statement of the playbook, its lock, and how long it took.

    python docs/locks.py [ROWS]

The script starts a server of its own with ROWS tickets (1000000) and plays a rotation statement by
statement, with the steps that the commands themselves are made of. The locks are read from
pg_locks while each statement's transaction is open.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
# The lock that keeps everybody out.
HELD = "ACCESS EXCLUSIVE"
PAGE = PROJECT / "docs" / "locks.md"

INTRODUCTION = """\
# Locks: every statement of the playbook, its lock, and how long it is held

Written by `python docs/locks.py` from the steps that the commands run, and read from `pg_locks`
while they did; a test sees to it that it stays true. The times are of one run on {rows} rows with
nobody else at work: what matters is which of them grow with the table.

ACCESS EXCLUSIVE keeps everybody out, readers too. SHARE UPDATE EXCLUSIVE keeps out other schema
changes and vacuum, and neither reads nor writes. ROW EXCLUSIVE is what any write takes.

A strong lock is always taken in two stages (`migrations_playbook/postgres/locks.py`). SHARE UPDATE
EXCLUSIVE first, for up to 5 s: an autovacuum gives way after one, and nobody waits meanwhile. Then
ACCESS EXCLUSIVE in up to 30 attempts of 100 ms with pauses between them, and not while a
transaction older than 500 ms holds the table, because everybody would queue behind the request.
"""


@dataclass(frozen=True)
class Row:
    """One statement as the page shows it; `ms` is how long it took."""

    what: str
    lock: str
    ms: float


@dataclass(frozen=True)
class Section:
    """A play, or a part of one."""

    title: str
    says: str
    rows: list[Row]


def measure(rows: int) -> Iterator[Section]:
    """Play a rotation on an expanded, empty database; yields its parts with their times."""
    from django.core.management import call_command
    from django.db import connection, transaction
    from psycopg import sql

    from migrations_playbook.contract import play as contract
    from migrations_playbook.postgres import locks
    from migrations_playbook.postgres.holders import STRONGEST_FIRST
    from migrations_playbook.postgres.query import pin_search_path
    from migrations_playbook.postgres.steps import Step
    from migrations_playbook.replacement import find_replacement
    from migrations_playbook.swap import play as swap
    from migrations_playbook.swap.dependents.inventory import read_inventory
    from migrations_playbook.swap.gate import SwapRequest, pass_gate

    replacement = find_replacement("tickets.Ticket", "new_token")
    table = sql.Identifier("public", "tickets_ticket")

    def lock_held() -> str:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT mode FROM pg_locks WHERE relation = 'public.tickets_ticket'::regclass "
                "AND pid = pg_backend_pid() AND granted "
                "ORDER BY array_position(%s, mode) LIMIT 1",
                [STRONGEST_FIRST],
            )
            row = cursor.fetchone()
        words = "".join(f" {letter}" if letter.isupper() else letter for letter in row[0])
        return words.strip().removesuffix(" Lock").upper()

    def timed(step: Step) -> float:
        began = time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute(step.statement)
        return (time.monotonic() - began) * 1000

    def watched(step: Step) -> tuple[float, str]:
        return timed(step), lock_held()

    def alone(step: Step) -> Row:
        with transaction.atomic():
            ms, lock = watched(step)
        return Row(step.what, lock, ms)

    def together(steps: Iterable[Step], ready: Iterable[Step] = ()) -> list[Row]:
        locks.reserve(connection, table)
        before = [Row(step.what, lock, ms) for step in ready for ms, lock in [watched(step)]]
        locks.seize(connection, table)
        held = [Row(step.what, lock, ms) for step in steps for ms, lock in [watched(step)]]
        return before + held

    def prepare(*, revert: bool) -> list[Row]:
        inventory = pass_gate(SwapRequest(connection, replacement, revert))
        rows = [Row(step.what, str(step.lock), timed(step)) for step in inventory.steps.build]
        while prove := read_inventory(connection, inventory.pair).steps.prove:
            rows.append(alone(prove[0]))
        return rows

    def exchange(*, revert: bool) -> list[Row]:
        inventory = pass_gate(SwapRequest(connection, replacement, revert))
        planned = swap.plan_swap(inventory)
        with transaction.atomic():
            pin_search_path(connection)
            return together(planned.exchange, planned.ready)

    call_command("migrate", "tickets", "0001", verbosity=0)
    call_command("seed_tickets", str(rows))
    began = time.monotonic()
    call_command("migrate", "tickets", "0002", verbosity=0)
    yield Section(
        "Expand",
        "The migration of release N+1, in one transaction. Its triggers are tried on a temporary "
        "table first, under SHARE UPDATE EXCLUSIVE.",
        [
            Row(
                "Add the column, create the triggers",
                "ACCESS EXCLUSIVE",
                (time.monotonic() - began) * 1000,
            )
        ],
    )
    with transaction.atomic(), connection.cursor() as cursor:
        began = time.monotonic()
        cursor.execute(
            "UPDATE tickets_ticket SET new_token = gen_random_uuid() WHERE id IN ("
            "SELECT id FROM tickets_ticket ORDER BY id LIMIT 2000 FOR NO KEY UPDATE SKIP LOCKED)"
        )
        ms = (time.monotonic() - began) * 1000
        batch = Row("Fill a batch of 2,000 rows; locks those rows alone", lock_held(), ms)
    call_command("backfill_new_token", no_progress=True)
    yield Section("Backfill", "Batch after batch, each in a transaction of its own.", [batch])
    yield Section(
        "Prepare",
        "Before the swap, while reads and writes go on. What takes longer for a larger table is "
        "all here.",
        prepare(revert=False),
    )
    yield Section(
        "Swap",
        "One transaction. ACCESS EXCLUSIVE is held from its first statement to the commit: the sum "
        "of those, whatever the table's size.",
        exchange(revert=False),
    )
    with transaction.atomic():
        began = time.monotonic()
        list(swap.verify(replacement, using="default"))
        verified = Row("Count what must be zero", lock_held(), (time.monotonic() - began) * 1000)
    yield Section("Verify", "Reads, as any query does.", [verified])
    yield Section(
        "Prepare the revert",
        "The retired column is proven to have no null.",
        prepare(revert=True),
    )
    yield Section("Revert", "The same transaction backwards.", exchange(revert=True))
    call_command("swap_token_columns", verbosity=0)
    with transaction.atomic():
        found = pass_gate(SwapRequest(connection, replacement, revert=True)).pair.table
        planned = list(
            contract.steps(
                connection,
                found,
                live="token",
                shadow="new_token",
                triggers=replacement.trigger_names,
            )
        )
        contracted = together(planned)
    yield Section("Contract", "The migration of release N+3, in one transaction.", contracted)


def _sum(rows: list[Row]) -> str:
    """Write the last line of a play: the sum, or the strong lock's where it begins without."""
    held = [row for row in rows if row.lock == HELD]
    what = f"together under {HELD}" if rows[-1] in held and held != rows else "together"
    together = held if rows[-1] in held else rows
    return f"| {what} | | {sum(row.ms for row in together):.1f} |"


def page(sections: list[Section], rows: int) -> str:
    """Build the page."""
    parts = [INTRODUCTION.format(rows=f"{rows:,}")]
    for section in sections:
        parts.append(f"## {section.title}\n\n{section.says}\n")
        lines = ["| statement | lock | ms |", "|---|---|---|"]
        lines += [f"| {row.what} | {row.lock} | {row.ms:.1f} |" for row in section.rows]
        if len(section.rows) > 1:
            lines.append(_sum(section.rows))
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def main(rows: int) -> None:
    sys.path.insert(0, str(PROJECT))
    os.environ["DJANGO_SETTINGS_MODULE"] = "app.settings"
    from app.embedded.server import Cluster

    with (
        tempfile.TemporaryDirectory(prefix="playbook-locks-") as folder,
        Cluster(Path(folder) / "data") as cluster,
    ):
        os.environ["DATABASE_URL"] = cluster.url()
        import django
        from django.core.management import call_command
        from django.db import connections

        django.setup()
        call_command("migrate", verbosity=0)
        PAGE.write_text(page(list(measure(rows)), rows))
        connections.close_all()


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1_000_000)
