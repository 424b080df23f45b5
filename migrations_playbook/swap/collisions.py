"""Fresh values that cannot stay, two rows' or another row's live one: nulled, and drawn anew."""

from __future__ import annotations

from django.db import IntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.backfill.play import backfill
from migrations_playbook.postgres.query import (
    engine_transaction,
    execute,
    fetch_value,
    pin_search_path,
    set_local,
)
from migrations_playbook.swap.dependents.base import Key, Unique
from migrations_playbook.swap.pair import Pair

# How often to look for duplicates again before the value expression is called too narrow.
DUPLICATE_ROUNDS = 20


def null_duplicates(connection: BaseDatabaseWrapper, pair: Pair, unique: Unique) -> int:
    """Set all rows but one of each duplicate back to null; return how many.

    Lock: ROW EXCLUSIVE on the table; the rows that are nulled, until the commit.

    Arguments:
        unique: what must differ, by the index's own expressions: Lower("code") say.
    """
    return _null(
        connection,
        pair,
        sql.SQL("""
            SELECT tableoid, ctid FROM (
                SELECT tableoid, ctid, row_number() OVER (PARTITION BY {key}) AS nth
                  FROM {table} WHERE {shadow} IS NOT NULL AND {predicate}) AS numbered
             WHERE nth > 1""").format(
            key=sql.SQL(", ").join(map(sql.SQL, unique.key)),
            table=unique.table,
            shadow=sql.Identifier(pair.replacement.shadow),
            predicate=sql.SQL(f"({unique.predicate or 'true'})"),
        ),
    )


def null_collisions(
    connection: BaseDatabaseWrapper, pair: Pair, unique_keys: tuple[Key, ...]
) -> int:
    """Set fresh values that are another row's live value back to null; return how many.

    After the exchange such a value would be live and leaked at once. Only where values must be
    unique; with a random UUID there is none. Counts first: a hash join inside the server.

    Lock: ROW EXCLUSIVE on the table; the rows that are nulled, until the commit.
    """
    nulled = 0
    for key in unique_keys:
        same = sql.SQL("").join(
            sql.SQL(" AND b.{column} = a.{column}").format(column=sql.Identifier(column))
            for column in key.columns
        )
        query = sql.SQL("""
            SELECT a.tableoid, a.ctid FROM {table} AS a
              JOIN {table} AS b ON b.{live} = a.{shadow}{same}
             WHERE (a.tableoid, a.ctid) <> (b.tableoid, b.ctid)
               AND b.{live} IS DISTINCT FROM b.{shadow}""").format(
            table=key.table,
            live=sql.Identifier(pair.replacement.live),
            shadow=sql.Identifier(pair.replacement.shadow),
            same=same,
        )
        with engine_transaction(connection):
            pin_search_path(connection, pair.live.type_schema)
            count = sql.SQL("SELECT count(*) FROM ({}) AS clash").format(query)
            if fetch_value(connection, count):
                nulled += _null(connection, pair, query)
    return nulled


def refill(connection: BaseDatabaseWrapper, pair: Pair) -> None:
    """Fill what was nulled. Where an index is unique already, a draw may clash and is repeated.

    Lock: as `backfill`.
    """
    for _ in range(DUPLICATE_ROUNDS):
        try:
            for _event in backfill(pair.replacement, using=connection.alias):
                pass
        except IntegrityError as error:
            if not isinstance(error.__cause__, pg_errors.UniqueViolation):
                raise
        else:
            return


def _null(connection: BaseDatabaseWrapper, pair: Pair, rows: sql.Composable) -> int:
    """Null the shadow of rows. `ctid` is unique within one partition: `tableoid` says which."""
    with engine_transaction(connection):
        pin_search_path(connection, pair.live.type_schema)
        # Otherwise the fill trigger would put the value back.
        names = "{" + ",".join(pair.replacement.trigger_names) + "}"
        set_local(connection, "pgtrigger.ignore", names)
        return execute(
            connection,
            sql.SQL("UPDATE {table} SET {shadow} = NULL WHERE (tableoid, ctid) IN ({rows})").format(
                table=pair.identifier, shadow=sql.Identifier(pair.replacement.shadow), rows=rows
            ),
        )
