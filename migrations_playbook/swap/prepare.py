"""What the swap does before its exchange, while reads and writes go on: all that scans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.backfill.play import backfill
from migrations_playbook.errors import PlaybookError, Refused
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.postgres.query import execute, fetch_value, pin_search_path, set_local
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import Dependent, Key
from migrations_playbook.swap.dependents.inventory import read_inventory
from migrations_playbook.swap.exchange import refuse
from migrations_playbook.swap.pair import Pair

# How often to look for duplicates again before the value expression is called too narrow.
DUPLICATE_ROUNDS = 20


@dataclass(frozen=True)
class Preparing:
    """A step of the preparation begins.

    Arguments:
        what: what it is for.
    """

    what: str


def prepare(connection: BaseDatabaseWrapper, pair: Pair, policy: LockPolicy) -> Iterator[Preparing]:
    """Build and prove what the exchange needs, while reads and writes go on.

    A failed concurrent build leaves an invalid index behind, which would be taken for a good one
    by IF NOT EXISTS; it is found, dropped and built anew.

    Lock: SHARE UPDATE EXCLUSIVE on the table for the builds and the proofs; ACCESS EXCLUSIVE,
    boundedly, for the moment in which an unproven constraint is added; on a partitioned table also
    for those in which an index without rows is made for it, and on a partition for that in which
    its part is attached to it.

    Raises:
        LockNotAvailable: see `locks`.
        Refused: fresh values do not pass a CHECK that the live ones pass.
        PlaybookError: the value expression is too narrow for the table's rows to be unique.
    """
    for _ in range(DUPLICATE_ROUNDS):
        found = read_inventory(connection, pair)
        refuse(pair, found)
        # Before an index stands in the way of the refill.
        if not pair.revert and null_collisions(connection, pair, found.unique_keys):
            yield Preparing("Refill values that another row's live value equals")
            refill(connection, pair)
            continue
        clash = None
        for each in found.dependents:
            try:
                for step in each.build:
                    yield Preparing(step.what)
                    if step.lock is Lock.ACCESS_EXCLUSIVE:
                        _run_locked(connection, pair, step, policy)
                    else:
                        execute(connection, step.statement)
            except IntegrityError as error:
                if not isinstance(error.__cause__, pg_errors.UniqueViolation):
                    raise
                clash = each
                break
        if clash is None:
            break
        yield Preparing("Refill duplicates")
        assert clash.unique_on is not None, f"{clash} is not unique"
        null_duplicates(connection, pair, clash.unique_on)
        refill(connection, pair)
    else:
        raise PlaybookError(
            f"After {DUPLICATE_ROUNDS} rounds the values of {pair.replacement.label}."
            f"{pair.replacement.declaration.shadow} still collide: the value expression has too "
            "little room for the table. Widen it in Meta.triggers, then run "
            '"manage.py makemigrations" and "manage.py migrate".'
        )
    for each in found.dependents:
        yield from _prove(connection, pair, each, policy)


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


def _prove(
    connection: BaseDatabaseWrapper, pair: Pair, each: Dependent, policy: LockPolicy
) -> Iterator[Preparing]:
    for step in each.prove:
        yield Preparing(step.what)
        try:
            _run_locked(connection, pair, step, policy)
        except IntegrityError:
            # The application's inserts would fail.
            for back in each.undo:
                _run_locked(connection, pair, back, policy)
            raise Refused(
                f"Fresh values of {pair.replacement.label}."
                f"{pair.replacement.declaration.shadow} do not pass the {each} that the live ones "
                "pass. Correct the value expression in Meta.triggers, then run "
                '"manage.py makemigrations" and "manage.py migrate".'
            ) from None


def _run_locked(
    connection: BaseDatabaseWrapper, pair: Pair, step: Step, policy: LockPolicy
) -> None:
    """A step in a transaction of its own, under the lock that it says, boundedly.

    The whole table is reserved, so that no other schema change stands in the way; only what the
    step is on is seized.
    """
    with transaction.atomic(using=connection.alias):
        locks.reserve(connection, pair.identifier, policy)
        if step.lock is Lock.ACCESS_EXCLUSIVE:
            locks.seize(connection, step.on or pair.identifier, policy)
        pin_search_path(connection)
        execute(connection, step.statement)


def null_duplicates(connection: BaseDatabaseWrapper, pair: Pair, key: Key) -> int:
    """Set all rows but one of each duplicate back to null; return how many.

    Lock: ROW EXCLUSIVE on the table; the rows that are nulled, until the commit.

    Arguments:
        key: what must differ, the shadow column with it.
    """
    return _null(
        connection,
        pair,
        sql.SQL("""
            SELECT tableoid, ctid FROM (
                SELECT tableoid, ctid, row_number() OVER (PARTITION BY {columns}) AS nth
                  FROM {table} WHERE {shadow} IS NOT NULL) AS numbered
             WHERE nth > 1""").format(
            columns=sql.SQL(", ").join(map(sql.Identifier, key.columns)),
            table=key.table,
            shadow=sql.Identifier(pair.replacement.shadow),
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
        with transaction.atomic(using=connection.alias):
            pin_search_path(connection, pair.live.type_schema)
            count = sql.SQL("SELECT count(*) FROM ({}) AS clash").format(query)
            if fetch_value(connection, count):
                nulled += _null(connection, pair, query)
    return nulled


def _null(connection: BaseDatabaseWrapper, pair: Pair, rows: sql.Composable) -> int:
    """Null the shadow of rows. `ctid` is unique within one partition: `tableoid` says which."""
    with transaction.atomic(using=connection.alias):
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
