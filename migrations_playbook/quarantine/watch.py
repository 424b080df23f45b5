"""The quarantine at work: the stale writes warded off, and whether a memory exists."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import fetch_all, fetch_value
from migrations_playbook.postgres.tables import Table
from migrations_playbook.quarantine.base import Quarantine, name_quarantine, read_objects


@dataclass(frozen=True)
class StaleWrites:
    """How often an old process has tried to write a leaked value back.

    Arguments:
        hits: how often since the swap.
        last: when last, or None.
    """

    hits: int
    last: datetime | None


def read_stale_writes(
    connection: BaseDatabaseWrapper, table: Table, live: str, shadow: str
) -> StaleWrites | None:
    """Read how often an old process has tried to write a leaked value back.

    Lock: none that conflicts with anything.

    Returns:
        The count, or None without a quarantine.
    """
    bound = read_objects(connection, table, shadow)
    quarantine = name_quarantine(table, live, shadow, None, bound)
    hits, last = quarantine.name("hits"), quarantine.name("last")
    values: dict[str, int | None] = dict(
        fetch_all(
            connection,
            sql.SQL("""
                SELECT sequencename, last_value FROM pg_catalog.pg_sequences
                 WHERE schemaname = %s AND sequencename = ANY (%s)"""),
            [quarantine.schema, [hits, last]],
        )
    )
    if bound.names is None or hits not in values:
        return None
    at = values.get(last)
    return StaleWrites(
        hits=values[hits] or 0, last=None if at is None else datetime.fromtimestamp(at, UTC)
    )


def has_memory(connection: BaseDatabaseWrapper, quarantine: Quarantine) -> bool:
    """Tell whether there is a memory, so that the columns have been exchanged before.

    Lock: none that conflicts with anything.
    """
    return bool(
        fetch_value(
            connection,
            sql.SQL("SELECT pg_catalog.to_regclass(%s) IS NOT NULL"),
            [quarantine.object("leaked").as_string(None)],
        )
    )
