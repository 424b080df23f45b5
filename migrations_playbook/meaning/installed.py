"""The declarations that a database has: the triggers of each are bound to its columns.

The declared triggers' functions say the declaration. Where `pgtrigger install` of a later release
has pruned them, the quarantine's triggers are left, once a rotation's columns have been exchanged.

Lock: none that conflicts with anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.meaning.base import Ends, read_declared
from migrations_playbook.meaning.rotation import FillTrigger, KeepTrigger, read_drawn
from migrations_playbook.meaning.sync import SyncUpdateTrigger
from migrations_playbook.postgres.names import Named, unquoted
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.tables import Table
from migrations_playbook.quarantine.base import FIRST, WARD, read_marked

# How the names of the declared triggers begin that may be bound to both columns.
BEGINNINGS = [
    f"pgtrigger_{each.purpose}_" for each in (FillTrigger, KeepTrigger, SyncUpdateTrigger)
]

# The triggers by what they are bound to: the table, their names and texts, its bound columns, all.
BOUND = sql.SQL("""
    SELECT n.nspname, c.relname, pg_catalog.pg_table_is_visible(c.oid),
           pg_catalog.array_agg(DISTINCT t.tgname::text),
           pg_catalog.array_agg(DISTINCT p.prosrc), bound.names, bound.others
      FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
      CROSS JOIN LATERAL (
           SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum)
                      FILTER (WHERE d.refobjsubid IS NOT NULL) AS names,
                  pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) AS others
             FROM pg_catalog.pg_attribute a
             LEFT JOIN (SELECT DISTINCT refobjsubid, refobjid
                          FROM pg_catalog.pg_depend
                         WHERE classid = 'pg_catalog.pg_trigger'::regclass
                           AND objid = t.oid
                           AND refclassid = 'pg_catalog.pg_class'::regclass) AS d
               ON d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
            WHERE a.attrelid = t.tgrelid AND a.attnum > 0 AND NOT a.attisdropped) AS bound
     WHERE NOT t.tgisinternal AND t.tgparentid = 0
       AND t.tgrelid = coalesce(%s::oid, t.tgrelid)
       AND pg_catalog.array_length(bound.names, 1) > 1
       AND (EXISTS (SELECT FROM pg_catalog.unnest(%s::text[]) AS beginning
                     WHERE starts_with(t.tgname, beginning))
            OR starts_with(pg_catalog.ltrim(t.tgname, '~'), %s))
     GROUP BY 1, 2, 3, 6, 7
     ORDER BY 1, 2""")


@dataclass(frozen=True)
class Installed(Ends, Named):
    """A live column and its shadow, as the triggers of their table have them.

    Arguments:
        schema: the table's schema.
        name: the table's name.
        visible: whether the name is enough along the session's search_path.
        live: the live column's name.
        shadow: the shadow column's name.
        swapped: whether the columns are exchanged.
        text: the text of a function that says the declaration; None where no trigger has it.
        converts: whether the shadow is made from the live column.
        moves: whether nothing is exchanged, and the contract drops the live column.
        together: where no trigger has the declaration, the shadows that are exchanged together, in
            the order of their group, itself included; empty where a trigger has it.
    """

    schema: str
    name: str
    visible: bool
    live: str
    shadow: str
    swapped: bool
    text: str | None = None
    converts: bool = False
    moves: bool = False
    together: tuple[str, ...] = ()

    @property
    def filled(self) -> frozenset[str]:
        """The shadow columns that are filled together, as the text says; none without a text."""
        return frozenset(each["shadow"] for each in read_descriptions(self.text or ""))


def read_installed(connection: BaseDatabaseWrapper, table: Table | None = None) -> list[Installed]:
    """Read the pairs of columns that our triggers are bound to.

    Arguments:
        table: the table; without, all of the database.
    """
    rows = fetch_all(
        connection,
        BOUND,
        [None if table is None else table.oid, BEGINNINGS, FIRST],
    )
    found: dict[tuple[str, str, str, str], Installed] = {}
    for row in rows:
        for each in _read_pairs(*row):
            key = each.schema, each.name, each.live, each.shadow
            # The triggers of a group, and its quarantines', are bound to more columns and fewer.
            if key not in found or each.text is not None:
                found[key] = each
    return list(found.values())


def read_descriptions(text: str) -> list[dict[str, Any]]:
    """Read what a declared trigger's function says: a declaration, or those of a group.

    Returns:
        Of each the columns' names, and its expressions as SQL; nothing of another function.
    """
    drawn = read_drawn(text)
    if drawn is not None:
        return [drawn | {role: unquoted(drawn[role]) for role in ("live", "shadow")}]
    declared = read_declared(text)
    group: list[dict[str, Any]] = declared.get("group", [declared] if declared else [])
    return group


def _read_pairs(
    schema: str,
    table: str,
    visible: bool,  # noqa: FBT001 - a row of the catalog
    triggers: list[str],
    texts: list[str],
    columns: list[str],
    every: list[str],
) -> Iterator[Installed]:
    """Read which columns that the triggers are bound to are the live ones, and which the shadows.

    Arguments:
        columns: the columns' names, the older ones first.
        every: those of all columns of the table. The triggers of a group are bound to its shadows,
            and not to every live column.
    """
    said = [(text, each) for text in texts for each in read_descriptions(text)]
    for text, each in said:
        live, shadow = each["live"], each["shadow"]
        if shadow in columns and live in every:
            moves = each.get("moves", False)
            swapped = not moves and every.index(live) > every.index(shadow)
            yield Installed(
                schema, table, visible, live, shadow, swapped, text, "up" in each, moves=moves
            )
    if said or len(columns) != 2:  # noqa: PLR2004 - a pair
        return
    older, newer = columns
    together = next(filter(None, map(read_marked, texts)), ())
    if any(each.startswith(WARD.prefix) for each in triggers):
        yield Installed(schema, table, visible, newer, older, swapped=True, together=together)
    elif any(each.lstrip("~").startswith(FIRST) for each in triggers):
        # Exchanged back: the remembering triggers stay.
        yield Installed(schema, table, visible, older, newer, swapped=False, together=together)
