"""The ways to give every ticket a new token, each as a generator that yields the rows it did.

A generator can be left early: what is slow is measured on as many rows as give a stable rate.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from itertools import islice

from django.contrib.postgres.functions import RandomUUID
from django.db import connection, transaction
from psycopg import sql

from migrations_playbook.backfill.events import Batch
from migrations_playbook.backfill.pacing.throttle import Limits
from migrations_playbook.backfill.play import Options, backfill
from migrations_playbook.replacement import find_replacement
from tickets.models import Ticket

CHUNK = 1000
# The chunk and the order of a script that was really used: fifty at a time, the newest first.
SMALL_CHUNK = 50


def all_and_save() -> Iterator[int]:
    """`for ticket in Ticket.objects.all(): ticket.save()`: one query a row, every row in memory."""
    for ticket in Ticket.objects.all():
        ticket.new_token = uuid.uuid4()
        ticket.save()
        yield 1


def chunks_and_save() -> Iterator[int]:
    """Chunks of 50 by descending id, saved row by row; "not yet done" is asked for again each time.

    The script that this stands for kept a flag column for that; here the null serves.
    """
    while chunk := list(Ticket.objects.filter(new_token=None).order_by("-id")[:SMALL_CHUNK]):
        for ticket in chunk:
            ticket.new_token = uuid.uuid4()
            ticket.save()
            yield 1


def iterator_and_save() -> Iterator[int]:
    """`.iterator()` and `save()`: one query a row, one chunk in memory."""
    for ticket in Ticket.objects.filter(new_token=None).iterator(chunk_size=CHUNK):
        ticket.new_token = uuid.uuid4()
        ticket.save(update_fields=["new_token"])
        yield 1


def all_and_bulk_update() -> Iterator[int]:
    """`bulk_update()` of `.all()`, a thousand a query: every row in memory."""
    tickets = list(Ticket.objects.all())
    for start in range(0, len(tickets), CHUNK):
        chunk = tickets[start : start + CHUNK]
        for ticket in chunk:
            ticket.new_token = uuid.uuid4()
        yield Ticket.objects.bulk_update(chunk, ["new_token"])


def iterator_and_bulk_update() -> Iterator[int]:
    """`.iterator()` and `bulk_update()`, a thousand a query: one chunk in memory."""
    tickets = Ticket.objects.filter(new_token=None).iterator(chunk_size=CHUNK)
    while chunk := list(islice(tickets, CHUNK)):
        for ticket in chunk:
            ticket.new_token = uuid.uuid4()
        yield Ticket.objects.bulk_update(chunk, ["new_token"])


def update() -> Iterator[int]:
    """`.update()` of the whole table: one query, and every row locked until it ends."""
    yield Ticket.objects.update(new_token=RandomUUID())


def batched_update() -> Iterator[int]:
    """`.update(pk__in=...)` of a thousand keys at a time."""
    last = 0
    while keys := list(
        Ticket.objects.filter(pk__gt=last, new_token=None)
        .order_by("pk")
        .values_list("pk", flat=True)[:CHUNK]
    ):
        yield Ticket.objects.filter(pk__in=keys).update(new_token=RandomUUID())
        last = keys[-1]


def pgroll() -> Iterator[int]:
    """A batch as pgroll writes it: walks the key, waits for locked rows, lets a trigger fill."""
    statement = sql.SQL("""
        WITH batch AS (
            SELECT id FROM tickets_ticket WHERE id > %s AND new_token IS NULL
             ORDER BY id LIMIT 1000 FOR NO KEY UPDATE),
        touched AS (
            UPDATE tickets_ticket SET id = tickets_ticket.id FROM batch
             WHERE tickets_ticket.id = batch.id RETURNING tickets_ticket.id)
        SELECT max(id), count(*) FROM touched""")
    last = 0
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement, [last])
            row = cursor.fetchone()
        assert row is not None
        if row[0] is None:
            return
        last = row[0]
        yield row[1]


def playbook(workers: int = 1, limits: Limits | None = None, every: float = 0) -> Iterator[int]:
    """This project's backfill: one worker, no slices, no throttle."""
    options = Options(workers=workers, limits=limits, vacuum_every=every)
    for event in backfill(
        find_replacement("tickets.Ticket", "new_token"), using="default", options=options
    ):
        if isinstance(event, Batch):
            yield event.rows


def playbook_slices() -> Iterator[int]:
    """One worker, and VACUUM after every tenth of the rows."""
    yield from playbook(every=0.1)


def playbook_2_workers() -> Iterator[int]:
    """Two workers, no slices, no throttle."""
    yield from playbook(workers=2)


def playbook_2_workers_slices() -> Iterator[int]:
    """Two workers and slices."""
    yield from playbook(workers=2, every=0.1)


def playbook_defaults() -> Iterator[int]:
    """As the command runs it on a small server: one worker, slices, throttles, gently.

    The lookups beside it are others at work.
    """
    yield from playbook(limits=Limits(), every=0.1)


WAYS: dict[str, Callable[[], Iterator[int]]] = {
    way.__name__: way
    for way in (
        all_and_save,
        chunks_and_save,
        iterator_and_save,
        all_and_bulk_update,
        iterator_and_bulk_update,
        update,
        batched_update,
        pgroll,
        playbook,
        playbook_slices,
        playbook_2_workers,
        playbook_2_workers_slices,
        playbook_defaults,
    )
}
