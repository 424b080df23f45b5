"""Between the plays: damage by others to the quarantine, which keeps the leaked values out."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.meaning.expressions import UnknownValue
from migrations_playbook.phase import read_enabled
from migrations_playbook.postgres.query import fetch_all, fetch_value
from migrations_playbook.quarantine.base import WHILE_SWAPPED, Quarantine
from migrations_playbook.swap.dependents.inventory import Inventory
from migrations_playbook.swap.pair import COLUMNS

# `tgenabled` of a trigger that does not fire for an ordinary session.
OFF = {"D", "R"}
# The memory of leaked values and the counts of stale writes: the quarantine's functions write them.
PARTS = ("leaked", "hits", "last")


def find_problems(connection: BaseDatabaseWrapper, inventory: Inventory) -> tuple[str, ...]:
    """Name the missing or disabled objects of the quarantine, and declared triggers.

    None unless swapped: before, the phase says what is missing.

    Lock: none that conflicts with anything.

    Arguments:
        inventory: everything bound to the columns.
    """
    return tuple(_problems(connection, inventory)) if inventory.pair.swapped else ()


def _problems(connection: BaseDatabaseWrapper, inventory: Inventory) -> Iterator[str]:
    for quarantine in inventory.quarantines:
        there = quarantine.bound.triggers
        for trigger in WHILE_SWAPPED:
            name = trigger.prefix + quarantine.stem
            if name not in there:
                yield f'the quarantine trigger "{name}" is missing'
            elif there[name] in OFF:
                yield f'the quarantine trigger "{name}" is disabled'
        yield from _missing_parts(connection, quarantine)
    pair = inventory.pair
    enabled = read_enabled(connection, pair.replacement, pair.table)
    # Nobody can put back a trigger whose value nobody knows any more.
    known = not isinstance(pair.replacement.declaration.value, UnknownValue)
    for name in pair.replacement.trigger_names if known else ():
        if not enabled.get(name):
            what = "disabled" if name in enabled else "missing"
            yield f'the declared trigger "{name}" is {what}, which a revert needs'
    for member in pair.members:
        is_unique = any(member.live.name in key.columns for key in inventory.whole_keys)
        if is_unique and not fetch_value(
            connection,
            sql.SQL("""
                SELECT count(*)
                  FROM pg_catalog.pg_index i
                  JOIN {columns} ON col.relation = i.indrelid AND col.number = ANY (i.indkey)
                 WHERE col.name = %s AND i.indisunique AND i.indisvalid""").format(columns=COLUMNS),
            [*pair.columns, member.shadow.name],
        ):
            yield (
                f'the retired column "{member.shadow.name}" has no unique index any more, so '
                "leaked values can be inserted again"
            )


def _missing_parts(connection: BaseDatabaseWrapper, quarantine: Quarantine) -> Iterator[str]:
    """Yield what the quarantine's functions would look for in vain, or may not touch.

    A function is bound to no table that its text names, so PostgreSQL lets the table go.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT part.name, c.oid IS NULL
              FROM unnest(%s::text[], %s::text[]) AS part (name, identifier)
              LEFT JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(part.identifier)
             WHERE c.oid IS NULL
                OR EXISTS (SELECT FROM unnest(%s::text[], %s::text[]) AS called (schema, name)
                             JOIN pg_catalog.pg_namespace n ON n.nspname = called.schema
                             JOIN pg_catalog.pg_proc p
                               ON p.pronamespace = n.oid AND p.proname = called.name
                            WHERE NOT pg_catalog.has_table_privilege(p.proowner, c.oid, 'SELECT')
                               OR NOT pg_catalog.has_table_privilege(
                                      p.proowner, c.oid,
                                      CASE c.relkind WHEN 'S' THEN 'UPDATE' ELSE 'INSERT' END))
             ORDER BY 1"""),
        [
            [quarantine.name(kind) for kind in PARTS],
            [quarantine.object(kind).as_string(None) for kind in PARTS],
            [schema for schema, _ in quarantine.bound.functions],
            [name for _, name in quarantine.bound.functions],
        ],
    )
    for name, gone in rows:
        what = "missing" if gone else "out of reach of the quarantine's functions"
        yield f'"{name}" is {what}, so that writes of the site fail'
