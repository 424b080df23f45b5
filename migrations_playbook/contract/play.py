"""Play 4: drop the shadow column with all its belongings, once only leaked values are left.

The code of the contract's release knows no shadow column any more, so nothing here reads a
declaration: a migration says the names (`operations.DropShadow`), and the catalog says the phase.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Value
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.contract.gate import BOUND, refuse_drop
from migrations_playbook.errors import Refused, WrongPhase
from migrations_playbook.meaning.sync import counts
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.locks import LockPolicy, Seized
from migrations_playbook.postgres.names import plain_name
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.steps import Lock, Step, run_steps
from migrations_playbook.postgres.tables import Table, read_table
from migrations_playbook.quarantine.base import name_quarantine, read_objects
from migrations_playbook.quarantine.setup import drop_steps
from migrations_playbook.shadow import Shadow


def contract(
    connection: BaseDatabaseWrapper,
    identifier: sql.Identifier,
    *,
    live: str,
    shadow: str,
    triggers: Sequence[str],
    together: Collection[str] = (),
    policy: LockPolicy | None = None,
) -> Seized:
    """Drop the shadow column, inside the caller's transaction.

    Its belongings go too: the declared triggers and the quarantine with their functions, the count
    of stale writes, the column's constraint and index. Anything else bound to the column makes
    PostgreSQL refuse, and name the object.

    Lock: SHARE UPDATE EXCLUSIVE, then ACCESS EXCLUSIVE on the table until the transaction ends;
    catalog changes only.

    Arguments:
        connection: in a transaction.
        identifier: the table.
        live: the live column's name.
        shadow: the shadow column's name.
        triggers: the declared triggers' names in the catalog.
        together: the shadow columns of its group, which the same transaction drops.
        policy: how long and how often to ask for the lock; None for what the settings say.

    Raises:
        WrongPhase: there is no such column.
        Refused: the columns are not swapped, and the table has rows; or something else is bound to
            the column, or is of its group.
        LockNotAvailable: the lock was not granted; nothing was changed.
    """
    locks.reserve(connection, identifier, policy)
    table = read_table(connection, identifier)
    if table is None or shadow not in table.columns or live not in table.columns:
        raise WrongPhase(
            f"{plain_name(identifier)} has no columns {live!r} and {shadow!r}, so there is nothing "
            'to contract. "manage.py showmigrations" shows what this database has had.'
        )
    refuse_drop(connection, table, live=live, shadow=shadow, triggers=triggers, together=together)
    # Nobody can alter the table from here on, so facts once read stay true.
    planned = list(steps(connection, table, live=live, shadow=shadow, triggers=triggers))
    seized = locks.seize(connection, identifier, policy)
    try:
        run_steps(connection, planned)
    except DatabaseError as error:
        if not isinstance(error.__cause__, pg_errors.DependentObjectsStillExist):
            raise
        # This DETAIL names objects, never a row's values.
        others = (error.__cause__.diag.message_detail or "").replace("\n", "; ")
        raise Refused(BOUND.format(shadow=shadow, table=table, others=others)) from None
    return seized


def steps(
    connection: BaseDatabaseWrapper,
    table: Table,
    *,
    live: str,
    shadow: str,
    triggers: Sequence[str],
) -> Iterator[Step]:
    """Build the contract, statement by statement.

    Lock: ACCESS EXCLUSIVE on the table, from the first statement on.
    """
    functions = _functions(connection, table, triggers)
    bound = read_objects(connection, table, shadow)
    yield from drop_steps(name_quarantine(table, live, shadow, None, bound))
    for trigger in triggers:
        yield Step(
            f"Drop the trigger {trigger}",
            sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
                sql.Identifier(trigger), table.identifier
            ),
            Lock.ACCESS_EXCLUSIVE,
        )
    for function in functions:
        yield Step(
            f"Drop the function {'.'.join(function)}",
            sql.SQL("DROP FUNCTION {}()").format(sql.Identifier(*function)),
            Lock.NONE,
        )
        if counts(function[1]):
            yield Step(
                f"Drop the count of {'.'.join(function)}",
                sql.SQL("DROP SEQUENCE IF EXISTS {}").format(sql.Identifier(*function)),
                Lock.NONE,
            )
    yield Step(
        f"Drop the column {shadow} with its constraint and index",
        sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table.identifier, sql.Identifier(shadow)),
        Lock.ACCESS_EXCLUSIVE,
    )


def installed_triggers(
    connection: BaseDatabaseWrapper, identifier: sql.Identifier, field: str
) -> list[str]:
    """Read the names of a declared shadow's triggers on a table.

    Lock: none that conflicts with anything.

    Arguments:
        field: the shadow field's name, which is part of the triggers' names.
    """
    # django-pgtrigger writes names in lower case, with five hex digits behind them.
    triggers = (
        trigger
        for each in (Shadow("", field, value=Value(None)), Shadow("", field, up=Value(None)))
        for trigger in each.triggers
    )
    names = [f"pgtrigger_{trigger.name}_".lower() for trigger in triggers]
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT tgname FROM pg_catalog.pg_trigger
             WHERE tgrelid = pg_catalog.to_regclass(%s)
               AND pg_catalog.left(tgname::text, -5) = ANY (%s)
             ORDER BY tgname"""),
        [identifier.as_string(None), names],
    )
    return [name for (name,) in rows]


def _functions(
    connection: BaseDatabaseWrapper, table: Table, triggers: Sequence[str]
) -> list[tuple[str, str]]:
    """Read the functions that these triggers call, and no other table's trigger does."""
    return [
        (schema, name)
        for schema, name in fetch_all(
            connection,
            sql.SQL("""
                SELECT DISTINCT n.nspname, p.proname
                  FROM pg_catalog.pg_trigger t
                  JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
                  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                 WHERE t.tgrelid = %s AND t.tgname = ANY (%s)
                   -- The clones on partitions go with the table's own.
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger o
                                    WHERE o.tgfoid = p.oid AND o.tgrelid <> t.tgrelid
                                      AND o.tgparentid = 0)
                 ORDER BY 1, 2"""),
            [table.oid, list(triggers)],
        )
    ]
