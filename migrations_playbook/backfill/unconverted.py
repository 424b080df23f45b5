"""The rows whose live value cannot be converted, by their keys: a value is never told."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import WrongPhase
from migrations_playbook.phase import Phase, read_catalog_state
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.replacement import Replacement


def list_unconverted(connection: BaseDatabaseWrapper, replacement: Replacement) -> list[str]:
    """List the keys of the rows that have no way: up before the exchange, down after it.

    Lock: ACCESS SHARE on the table; a sequential scan.

    Returns:
        The keys in their order; the parts of a composite key with a slash between.

    Raises:
        WrongPhase: the model's shadow is drawn, or there is no such column.
    """
    state = read_catalog_state(connection, replacement)
    if not replacement.declaration.converts or state.table is None or state.phase is Phase.NONE:
        raise WrongPhase(
            f"{replacement} converts no values in this database, so there are none to list. "
            f'"{replacement.command("status")}" shows what comes next.'
        )
    conversion = replacement.conversion
    key = sql.SQL(", ").join(map(sql.Identifier, replacement.key))
    query = "SELECT concat_ws('/', {key}) FROM {table} WHERE {no_way} ORDER BY {key}"
    with conversion.safely(connection, state.table):
        rows = fetch_all(
            connection,
            sql.SQL(query).format(
                key=key,
                table=state.table.identifier,
                no_way=conversion.has_no_way(state.table),
            ),
        )
    return [str(found) for (found,) in rows]
