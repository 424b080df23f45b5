"""What a contract refuses: to lose values that have no copy, and to leave behind what needs them.

All is asked under SHARE UPDATE EXCLUSIVE, which the caller holds: facts once read stay true.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.commands import STATUS, spell_command
from migrations_playbook.errors import Refused
from migrations_playbook.meaning.base import read_declared
from migrations_playbook.meaning.conversion import drop_safe, make_explanation
from migrations_playbook.meaning.installed import read_installed
from migrations_playbook.postgres.query import fetch_all, fetch_value, local_settings
from migrations_playbook.postgres.roles import refuse_hidden_rows
from migrations_playbook.postgres.tables import TREE, Table, is_empty
from migrations_playbook.quarantine.base import FIRST
from migrations_playbook.trigger_sql import SYNC_SETTINGS

BOUND = (
    "Something else of yours is bound to {shadow!r} of {table}: {others}. Drop it, or let it read "
    'the live column, then run "manage.py migrate" again.'
)


def refuse_drop(
    connection: BaseDatabaseWrapper,
    table: Table,
    *,
    live: str,
    shadow: str,
    triggers: Sequence[str],
    together: Collection[str],
) -> None:
    """Refuse a drop that would lose values, leave columns behind or let writes fail.

    Lock: ACCESS SHARE on the table; sequential scans where the column moves.

    Arguments:
        connection: in a transaction.
        table: with both columns.
        live: the live column's name.
        shadow: the shadow column's name.
        triggers: the declared triggers' names in the catalog.
        together: the shadow columns of its group, which the same transaction drops.

    Raises:
        Refused: says why, and the remedy.
    """
    refuse_hidden_rows(connection, table)
    _refuse_part(connection, table, shadow=shadow, together=together)
    made = _read_ways(connection, table, triggers)
    if made.get("moves"):
        _refuse_unconverted(connection, table, live=live, shadow=shadow)
        _refuse_out_of_step(connection, table, live=live, shadow=shadow, made=made)
    else:
        _refuse_loss(connection, table, live=live, shadow=shadow, converts="up" in made)
    _refuse_code_by_name(connection, table, shadow=shadow, triggers=triggers)
    _refuse_generated(connection, table, shadow=shadow)


def _refuse_part(
    connection: BaseDatabaseWrapper, table: Table, *, shadow: str, together: Collection[str]
) -> None:
    """Refuse to drop a shadow column of a group alone: its triggers fill the others too.

    Lock: none that conflicts with anything.

    Raises:
        Refused: names the others.
    """
    for each in read_installed(connection, table):
        others = ", ".join(sorted(each.filled - {shadow, *together}))
        if shadow in each.filled and others:
            raise Refused(
                f"{shadow!r} of {table} is filled and exchanged together with {others}, and would "
                "leave them behind; nothing was changed. Delete this migration, and let "
                f'"{spell_command("contract")}" write the one that drops them all.'
            )


def _refuse_loss(
    connection: BaseDatabaseWrapper, table: Table, *, live: str, shadow: str, converts: bool
) -> None:
    """Refuse to drop a shadow column with the fresh values.

    Lock: ACCESS SHARE on the table; reads a single row at most.

    Arguments:
        converts: whether the values are made from the live column's.

    Raises:
        Refused: the columns are not swapped, and the table has rows.
    """
    if table.has_exchanged(live, shadow):
        return
    if is_empty(connection, table):
        return
    leaked, fresh = ("old", "converted") if converts else ("leaked", "fresh")
    raise Refused(
        f"{table} is not swapped: dropping {shadow!r} now would keep the {leaked} values in "
        f'{live!r} and lose the {fresh} ones. Run "{spell_command(STATUS)}" for the next command, '
        'swap, then run "manage.py migrate" again.'
    )


def _read_ways(
    connection: BaseDatabaseWrapper, table: Table, triggers: Sequence[str]
) -> dict[str, Any]:
    """Read what sync triggers are made of, as their functions say; nothing of other triggers."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT p.prosrc FROM pg_catalog.pg_trigger t
              JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
             WHERE t.tgrelid = %s AND t.tgname = ANY (%s)"""),
        [table.oid, list(triggers)],
    )
    return next(filter(None, (read_declared(text) for (text,) in rows)), {})


def _refuse_unconverted(
    connection: BaseDatabaseWrapper, table: Table, *, live: str, shadow: str
) -> None:
    """Refuse to drop a column while it has values of which nothing was made.

    Lock: ACCESS SHARE on the table; a sequential scan.

    Raises:
        Refused: with their number.
    """
    left = fetch_value(
        connection,
        sql.SQL("SELECT count(*) FROM {} WHERE {} IS NULL AND {} IS NOT NULL").format(
            table.identifier, sql.Identifier(live), sql.Identifier(shadow)
        ),
    )
    if left:
        raise Refused(
            f"{left:,} rows of {table} have a {shadow!r} of which no {live!r} was made, and the "
            f'value would be lost; nothing was changed. Run "{spell_command(STATUS)}" for the next '
            'command, then "manage.py migrate" again.'
        )


def _refuse_out_of_step(
    connection: BaseDatabaseWrapper, table: Table, *, live: str, shadow: str, made: dict[str, Any]
) -> None:
    """Refuse to drop a column while it has values of which another one was made.

    Such rows came past the triggers: from a replica's apply worker, or while one was disabled.

    Lock: ACCESS SHARE on the table; a sequential scan.

    Arguments:
        connection: in a transaction.
        made: see `_read_ways`.

    Raises:
        Refused: with their number.
    """
    kept, dropped = table.columns[live], table.columns[shadow]
    with local_settings(connection, SYNC_SETTINGS):
        explained = [
            make_explanation(connection, way, made[way], source, target)
            for way, source, target in (("up", dropped, kept), ("down", kept, dropped))
        ]
        left = fetch_value(
            connection,
            sql.SQL("SELECT count(*) FROM {} WHERE NOT ({})").format(
                table.identifier, sql.SQL(" OR ").join(explained)
            ),
        )
        drop_safe(connection)
    if left:
        raise Refused(
            f"{left:,} rows of {table} have a {shadow!r} that is out of step with {live!r}: one of "
            "the two would be lost; nothing was changed. "
            f'Run "{spell_command("swap", "", "", "--mend")}", which keeps {shadow!r}, then '
            '"manage.py migrate" again.'
        )


def _refuse_generated(connection: BaseDatabaseWrapper, table: Table, *, shadow: str) -> None:
    """Refuse to drop generated columns with the column, as PostgreSQL 14 would without a word.

    Since PostgreSQL 15 they stand in the way of DROP COLUMN by themselves.

    Lock: none that conflicts with anything.

    Raises:
        Refused: names the columns.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT a.attname || ' of table ' || a.attrelid::regclass::text
              FROM pg_catalog.pg_depend d
              JOIN pg_catalog.pg_attribute a ON a.attrelid = d.objid AND a.attnum = d.objsubid
             WHERE d.classid = 'pg_catalog.pg_class'::regclass AND a.attgenerated = 's'
               AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = %s
               AND d.refobjsubid = %s AND d.objsubid <> d.refobjsubid
             ORDER BY 1"""),
        [table.oid, table.columns[shadow].number],
    )
    if rows:
        others = ", ".join(f"generated column {row[0]}" for row in rows)
        raise Refused(BOUND.format(shadow=shadow, table=table, others=others))


def _refuse_code_by_name(
    connection: BaseDatabaseWrapper, table: Table, *, shadow: str, triggers: Sequence[str]
) -> None:
    """Refuse while a trigger's function names the column: without, every write would fail.

    A function's body is text, which DROP COLUMN neither finds nor changes.

    Lock: none that conflicts with anything.

    Raises:
        Refused: names the triggers.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT t.tgname || ' (' || p.oid::regprocedure::text || ')'
              FROM pg_catalog.pg_trigger t
              JOIN {tree} AS tree ON tree.oid = t.tgrelid
              JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
             WHERE NOT t.tgisinternal AND t.tgname <> ALL (%s)
               AND NOT starts_with(ltrim(t.tgname, '~'), %s)
               -- PL/pgSQL folds the case of a name that is not quoted.
               AND p.prosrc ~* ('\\m' || pg_catalog.regexp_replace(
                       %s, '([^[:alnum:]_])', '\\\\\\1', 'g') || '\\M')
             ORDER BY 1""").format(tree=TREE),
        [table.oid, list(triggers), FIRST, shadow],
    )
    if rows:
        named = ", ".join(row[0] for row in rows)
        raise Refused(
            f"Without {shadow!r} every write to {table} would fail, because the function of a "
            f"trigger names the column: {named}. Let the function do without, then run "
            '"manage.py migrate" again.'
        )
