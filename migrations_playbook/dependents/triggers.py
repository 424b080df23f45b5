"""Triggers of the table: `UPDATE OF` and `WHEN` are bound by attribute number.

Their text is taken before the exchange and said again after it, when its names mean the other
columns.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.database import fetch_all
from migrations_playbook.dependents.base import Dependent, Pair, comment, how_bound
from migrations_playbook.steps import Lock, Step


def dependents(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """The triggers that are bound to either column; by name.

    Lock: DROP TRIGGER takes ACCESS EXCLUSIVE on the table, CREATE TRIGGER SHARE ROW EXCLUSIVE.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT t.oid, t.tgname, pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled::text,
                   pg_catalog.obj_description(t.oid, 'pg_trigger'),
                   array_agg(DISTINCT d.refobjsubid)
              FROM pg_catalog.pg_trigger t
              JOIN pg_catalog.pg_depend d
                ON d.classid = 'pg_catalog.pg_trigger'::regclass AND d.objid = t.oid
               AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = t.tgrelid
               AND d.refobjsubid = ANY (%s)
             WHERE t.tgrelid = %s AND NOT t.tgisinternal
             GROUP BY t.oid ORDER BY t.tgname"""),
        [pair.numbers, pair.found.oid],
    )
    for oid, name, definition, enabled, note, numbers in rows:
        if definition is None:
            # pg_get_triggerdef() reads the catalog as it is now, the query as it was when it began:
            # another process, such as a second swap, has dropped it in between.
            continue
        covers = frozenset({("pg_trigger", oid)})
        if name in (pair.own.on_insert, pair.own.on_update):
            # Made in the swap for the names after it, and dropped in the revert.
            yield Dependent("trigger", name, "quarantine", covers, moves=False)
            continue
        identifier = sql.Identifier(name)
        yield Dependent(
            "trigger",
            name,
            how_bound(pair, numbers),
            covers,
            take=(
                Step(
                    f"Take the trigger {name} off the old columns",
                    sql.SQL("DROP TRIGGER {} ON {}").format(identifier, pair.table),
                    Lock.ACCESS_EXCLUSIVE,
                ),
            ),
            give=(
                Step(
                    f"Put the trigger {name} on the new columns",
                    sql.SQL(definition),
                    Lock.ACCESS_EXCLUSIVE,
                ),
                *_enabled(pair, name, enabled),
                *comment(name, sql.SQL("TRIGGER {} ON {}").format(identifier, pair.table), note),
            ),
        )


def _enabled(pair: Pair, name: str, enabled: str) -> Iterator[Step]:
    how = {"D": "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}.get(enabled)
    if how:
        yield pair.alter_table(
            f"Keep the trigger {name} as it was set",
            sql.SQL("{} TRIGGER {}").format(sql.SQL(how), sql.Identifier(name)),
        )
