"""Values of a rotation that cannot stay: drawn again before a swap, copied before a revert."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django.db import IntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.postgres.query import (
    engine_transaction,
    execute,
    fetch_value,
    set_local,
    set_locals,
)
from migrations_playbook.postgres.site_triggers import IGNORE, spell_ignored
from migrations_playbook.quarantine.digests import is_remembered_sql, unsettled_texts
from migrations_playbook.quarantine.watch import has_memory
from migrations_playbook.swap.dependents.base import Dependent
from migrations_playbook.swap.dependents.inventory import Inventory
from migrations_playbook.swap.pair import Member, Pair, have_shadows, refuse_overtaken
from migrations_playbook.swap.rows.conditions import not_rotated, pin_declared_path, same_beside

# How many values a row may draw to get another than its live value.
DRAWING_ROUNDS = 20


def redraw_duplicates(connection: BaseDatabaseWrapper, pair: Pair, clash: Dependent) -> None:
    """Draw duplicates again: all rows of a value but a single row draw another.

    Lock: ROW EXCLUSIVE on the table; the rows, until the commit.

    Arguments:
        clash: the unique index, whose key is to differ by its own expressions: Lower("code") say.
    """
    unique, members = clash.unique_on, pair.members_on(clash.columns)
    assert unique is not None, f"{clash} is not unique"
    with engine_transaction(connection):
        hold_names(connection, pair)
        pin_declared_path(connection, pair)
        _draw(
            connection,
            pair,
            members,
            sql.SQL("""
                SELECT tableoid, ctid FROM (
                    SELECT tableoid, ctid, row_number() OVER (PARTITION BY {key}) AS nth
                      FROM {table} WHERE {present} AND {predicate}) AS numbered
                 WHERE nth > 1""").format(
                key=sql.SQL(", ").join(map(sql.SQL, unique.key)),
                table=unique.table,
                present=have_shadows(members),
                predicate=sql.SQL(f"({unique.predicate or 'true'})"),
            ),
        )


def redraw_leaked(
    connection: BaseDatabaseWrapper, inventory: Inventory, *, redraw: bool = False
) -> int:
    """Draw fresh values again where they are live too, or remembered as leaked.

    After the exchange such a value would be live and leaked at once. With a random UUID there is
    none, unless a row was written past the triggers. Counts first: hash joins inside the server.

    Lock: ROW EXCLUSIVE on the table; the rows, until the commit.

    Arguments:
        redraw: whether a row that the exchange would not change is to have another value; see
            `not_rotated`.

    Returns:
        How many there were.
    """
    pair, drawn = inventory.pair, 0
    with engine_transaction(connection):
        hold_names(connection, pair)
        pin_declared_path(connection, pair)
        for member in pair.members:
            quarantine = inventory.quarantine(member)
            set_locals(connection, unsettled_texts(quarantine))
            exchanged = has_memory(connection, quarantine)
            for rows in _leaked_rows(inventory, member, exchanged=exchanged, redraw=redraw):
                count = sql.SQL("SELECT count(*) FROM ({}) AS clash").format(rows)
                if found := int(fetch_value(connection, count, [])):
                    _draw(connection, pair, (member,), rows)
                    drawn += found
    return drawn


def copy_untriggered(connection: BaseDatabaseWrapper, pair: Pair) -> int:
    """Copy the live value of rows that were inserted past the triggers while swapped.

    They have no retired value, which a revert would make live.

    Lock: ROW EXCLUSIVE on the table; the rows, until the commit.

    Returns:
        How many there were.
    """
    with engine_transaction(connection):
        hold_names(connection, pair)
        ignore_declared(connection, pair)
        return execute(
            connection,
            sql.SQL("UPDATE {} SET {} WHERE {}").format(
                pair.identifier,
                sql.SQL(", ").join(
                    sql.SQL("{shadow} = coalesce({shadow}, {live})").format(
                        shadow=each.shadow.identifier, live=each.live.identifier
                    )
                    for each in pair.members
                ),
                sql.SQL(" OR ").join(
                    sql.SQL("{} IS NULL AND {} IS NOT NULL").format(
                        each.shadow.identifier, each.live.identifier
                    )
                    for each in pair.members
                ),
            ),
        )


def _leaked_rows(
    inventory: Inventory, member: Member, *, exchanged: bool, redraw: bool
) -> Iterator[sql.Composable]:
    """Compose the queries for the rows; `exchanged`: whether there was an exchange before."""
    live, shadow = member.live.identifier, member.shadow.identifier
    if redraw:
        yield sql.SQL("SELECT tableoid, ctid FROM {} WHERE {}").format(
            member.table.identifier, not_rotated(inventory, member, exchanged=exchanged)
        )
    for key in inventory.unique_keys(member):
        yield sql.SQL("""
            SELECT a.tableoid, a.ctid FROM {table} AS a
              JOIN {table} AS b ON b.{live} = a.{shadow}{same}
             WHERE (a.tableoid, a.ctid) <> (b.tableoid, b.ctid)
               AND b.{live} IS DISTINCT FROM b.{shadow}""").format(
            table=key.table,
            live=live,
            shadow=shadow,
            same=same_beside(key),
        )
    if exchanged:
        yield sql.SQL("SELECT tableoid, ctid FROM {} WHERE {}").format(
            member.table.identifier,
            is_remembered_sql(inventory.quarantine(member), member.shadow.name),
        )


def _draw(
    connection: BaseDatabaseWrapper,
    pair: Pair,
    members: Iterable[Member],
    rows: sql.Composable,
) -> None:
    """Draw the shadows of rows, and make what is made of them.

    `ctid` is unique within one partition: `tableoid` says which. No row draws its own live value,
    unless all draws for the row yield that value. Where an index is unique already, a draw may
    clash: then all rows keep their values this time.

    Arguments:
        members: whose values cannot stay: all values that they are made of are drawn.
    """
    drawn = {
        each.replacement.rotation: _draw_value(each)
        for member in members
        for each in pair.kin_of(member)
        if not each.replacement.meaning.sources
    }
    kept = {
        each.replacement.rotation: sql.SQL("{}.{}").format(pair.identifier, each.shadow.identifier)
        for each in pair.members
        if not each.replacement.meaning.sources
    }
    update = sql.SQL("UPDATE {table} SET {assignment} WHERE (tableoid, ctid) IN ({rows})").format(
        table=pair.identifier,
        assignment=pair.replacement.rotation.assign(kept | drawn),
        rows=rows,
    )
    try:
        with engine_transaction(connection):
            ignore_declared(connection, pair)
            execute(connection, update, [])
    except IntegrityError as error:
        if not isinstance(error.__cause__, pg_errors.UniqueViolation):
            raise


def _draw_value(member: Member) -> sql.Composable:
    """Compose a draw for a row that has a value."""
    # The subquery names the row's column, so PostgreSQL runs the subquery again for each row; and
    # a volatile expression is evaluated for each draw, until a draw is taken.
    return sql.SQL("""
        CASE WHEN {has_lives} THEN coalesce(
            (SELECT drawn.value
               FROM (SELECT {value} AS value
                       FROM pg_catalog.generate_series(1, {rounds})) AS drawn
              WHERE drawn.value IS DISTINCT FROM {table}.{live} LIMIT 1), {value}) END""").format(
        has_lives=member.replacement.rotation.has_lives,
        value=member.replacement.rotation.value,
        rounds=DRAWING_ROUNDS,
        table=member.table.identifier,
        live=member.live.identifier,
    )


def hold_names(connection: BaseDatabaseWrapper, pair: Pair) -> None:
    """Keep another session's exchange away until the commit: the names would mean other columns.

    Raises:
        TryAgain: another session has exchanged the columns meanwhile.
    """
    execute(connection, sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(pair.identifier))
    refuse_overtaken(pair, pair.reread(connection))


def ignore_declared(connection: BaseDatabaseWrapper, pair: Pair) -> None:
    """Keep the declared triggers from putting the old value back, or from drawing another."""
    set_local(connection, IGNORE, spell_ignored(pair.replacement.trigger_names))
