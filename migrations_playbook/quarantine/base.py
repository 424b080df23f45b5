"""The quarantine's triggers, the names of its objects, and the objects in the catalogs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.names import MAX_NAME_BYTES, OURS, compose_name, unquoted
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.tables import Table

# PostgreSQL fires the triggers of a row in the order of their names, byte by byte. The triggers of
# django-pgtrigger are between these two, and so are the site's own, unless their names begin beyond
# ASCII. (No name may begin with "pgtrigger_": django-pgtrigger prunes unknown triggers of such
# names.)
FIRST = OURS
LAST = "~" + FIRST
# The common part of a quarantine's names leaves room for the longest beginning.
MAX_STEM = MAX_NAME_BYTES - len(LAST + "remember_delete_")
# How the names of an earlier version's sequences end, which the retired column owns.
OWNED = ("stale_writes", "last_stale_write")
# The beginning of the comment of *ward*, or of a sync trigger's function; names follow, as JSON.
STAYING = "left where they were: "
# The transaction's mark of the row deleted last.
MOVED = "migrations_playbook.moved"
# The columns in the mark of a deleted row, as *remember* has them, and each of them.
MARKED = re.compile(r'ROW\(((?:OLD\."(?:[^"]|"")+"(?:, )?)+)\)')
COLUMN = re.compile(r'OLD\.("(?:[^"]|"")+")')


def mark_row(shadows: str) -> str:
    """Compose the mark of a row: the hash of its shadows, and the statement at work."""
    return (
        f"hash_record_extended(ROW({shadows}), 0)::text "
        "|| extract(epoch FROM statement_timestamp())::text"
    )


def read_marked(text: str) -> tuple[str, ...]:
    """Read from *remember* the shadows that are exchanged together; nothing of another function."""
    marked = MARKED.search(text)
    return tuple(map(unquoted, COLUMN.findall(marked[1]))) if marked else ()


@dataclass(frozen=True)
class Trigger:
    """A trigger of the quarantine.

    Arguments:
        prefix: the beginning of its name.
        event: the event on which the trigger fires.
        function: the function that the trigger calls.
        condition: its WHEN. WHEN binds the trigger to the columns, so a dropped retired column
            takes its triggers along.
    """

    prefix: str
    event: str
    function: str
    condition: str


WARD = Trigger(
    FIRST + "ward_",
    "UPDATE",
    "ward",
    "NEW.{live} IS DISTINCT FROM OLD.{live} OR NEW.{retired} IS DISTINCT FROM OLD.{retired}",
)
COPY_INSERTED = Trigger(
    LAST + "copy_insert_", "INSERT", "copy", "NEW.{live} IS NOT NULL OR NEW.{retired} IS NOT NULL"
)
COPY_UPDATED = Trigger(
    LAST + "copy_update_",
    "UPDATE",
    "copy",
    # A row that was inserted past the triggers has no retired value: its next write mends it.
    "NEW.{live} IS DISTINCT FROM OLD.{live} OR OLD.{retired} IS NULL AND NEW.{live} IS NOT NULL",
)
REMEMBER_DELETED = Trigger(
    LAST + "remember_delete_",
    "DELETE",
    "remember",
    "OLD.{live} IS NOT NULL OR OLD.{retired} IS NOT NULL",
)
REMEMBER_UPDATED = Trigger(
    LAST + "remember_update_",
    "UPDATE",
    "remember",
    "NEW.{leaked} IS DISTINCT FROM OLD.{leaked} AND OLD.{live} IS DISTINCT FROM OLD.{retired}",
)
WHILE_SWAPPED = (WARD, COPY_INSERTED, COPY_UPDATED, REMEMBER_DELETED, REMEMBER_UPDATED)
# After a revert a row written while swapped has its value in both columns. When the site replaces
# the value, the next swap must not make the old value live again.
REMEMBER_REPLACED = Trigger(
    LAST + "remember_update_",
    "UPDATE",
    "remember",
    "NEW.{leaked} IS DISTINCT FROM OLD.{leaked} "
    "AND (OLD.{live} IS NOT NULL OR OLD.{retired} IS NOT NULL)",
)
WHILE_REVERTED = (REMEMBER_DELETED, REMEMBER_REPLACED)


@dataclass(frozen=True)
class Quarantine:
    """A quarantine of a table's two columns: the names of its objects, and the SQL of them.

    Arguments:
        table: the table.
        live: the live column, by its name while the quarantine is at work.
        retired: the retired column, likewise.
        key: the columns that are unique together with the live column; None where nothing is
            unique, and a value is no secret by itself: then nothing is remembered.
        schema: the schema of the functions, the sequences and the memory.
        stem: the common part of all names.
        bound: its objects before; after a revert, the remembering trigger and function.
        drawn: whether the values are drawn, and not made of those of `kin`.
        kin: the quarantines of the values that are written together, itself included; empty for
            itself alone.
        marked: the retired columns of all that are exchanged together, by which a row is known
            that moves to another partition; empty for its own.
    """

    table: Table
    live: str
    retired: str
    key: tuple[str, ...] | None
    schema: str
    stem: str
    bound: Objects
    drawn: bool = True
    kin: tuple[Quarantine, ...] = ()
    marked: tuple[str, ...] = ()

    @property
    def compared(self) -> tuple[str, ...]:
        """The columns whose values are compared."""
        return (self.live, *(self.key or ()))

    @property
    def together(self) -> tuple[Quarantine, ...]:
        """The quarantines of all values that are written together with this one's."""
        return self.kin or (self,)

    def name(self, kind: str) -> str:
        """Build the name of a function (`ward`, `copy`, `remember`), a sequence or the memory."""
        return f"{FIRST}{kind}_{self.stem}"

    def object(self, kind: str) -> sql.Identifier:
        """Build the same name with its schema, to be composed into SQL."""
        return sql.Identifier(self.schema, self.name(kind))


@dataclass(frozen=True)
class Objects:
    """The objects of a quarantine bound to a column, as the catalogs have them.

    Arguments:
        triggers: the triggers' names, with `tgenabled`.
        functions: the functions that they call: schema and name.
        sequences: the sequences owned by the column, as in an earlier version: schema and name by
            their addresses in pg_depend.
        staying: the indexes and CHECKs that the swap has left where they were, by name.
        others: the other triggers that are bound to the column, with their functions.
    """

    triggers: dict[str, str]
    functions: tuple[tuple[str, str], ...]
    sequences: dict[tuple[str, int], tuple[str, str]]
    staying: frozenset[str]
    others: dict[str, tuple[str, str]]

    @property
    def names(self) -> tuple[str, str] | None:
        """The schema and the stem of a quarantine of this version."""
        for schema, name in self.functions:
            for kind in ("remember", "ward", "copy"):
                if name.startswith(f"{FIRST}{kind}_"):
                    return schema, name.removeprefix(f"{FIRST}{kind}_")
        return None


def read_objects(connection: BaseDatabaseWrapper, table: Table, shadow: str) -> Objects:
    """Read the objects of a quarantine bound to the shadow column.

    Lock: none that conflicts with anything.
    """
    number = table.columns[shadow].number
    triggers = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT t.tgname, t.tgenabled::text, n.nspname, p.proname,
                   pg_catalog.obj_description(p.oid, 'pg_proc')
              FROM pg_catalog.pg_trigger t
              JOIN pg_catalog.pg_depend d
                ON d.classid = 'pg_catalog.pg_trigger'::regclass AND d.objid = t.oid
               AND d.refclassid = 'pg_catalog.pg_class'::regclass
               AND d.refobjid = t.tgrelid AND d.refobjsubid = %s
              JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
              JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE t.tgrelid = %s
             ORDER BY t.tgname"""),
        [number, table.oid],
    )
    mine = [row for row in triggers if row[0].lstrip("~").startswith(FIRST)]
    return Objects(
        {name: enabled for name, enabled, *_ in mine},
        tuple(dict.fromkeys((schema, function) for _, _, schema, function, _ in mine)),
        _read_owned_sequences(connection, table, shadow),
        frozenset(
            name
            for *_, note in triggers
            if note is not None and note.startswith(STAYING)
            for name in json.loads(note.removeprefix(STAYING))
        ),
        {row[0]: (row[2], row[3]) for row in triggers if row not in mine},
    )


def _read_owned_sequences(
    connection: BaseDatabaseWrapper, table: Table, shadow: str
) -> dict[tuple[str, int], tuple[str, str]]:
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT c.oid, n.nspname, c.relname
              FROM pg_catalog.pg_depend d
              JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = d.classid
               AND d.refobjid = %s AND d.refobjsubid = %s AND d.deptype = 'a'
               AND c.relname = ANY (%s)
             ORDER BY 1, 2"""),
        [
            table.oid,
            table.columns[shadow].number,
            [compose_name(table.name, shadow, each) for each in OWNED],
        ],
    )
    return {("pg_class", oid): (schema, name) for oid, schema, name in rows}


def name_quarantine(
    table: Table, live: str, shadow: str, key: tuple[str, ...] | None, bound: Objects
) -> Quarantine:
    """Name the quarantine in place, or the quarantine to be made."""
    fresh = table.schema, compose_name(table.name, shadow, limit=MAX_STEM)
    return Quarantine(table, live, shadow, key, *(bound.names or fresh), bound)
