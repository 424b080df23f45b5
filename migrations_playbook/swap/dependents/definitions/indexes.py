"""Indexes, and the unique constraints on them: which there are, and whose twin is whose.

Each gets a twin on the shadow column; `twins` has the statements. On a partitioned table an index
is a family: an index without rows on the table, and a part on each partition, which has a name of
its own there and is known by its parent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.names import compose_name
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.swap.pair import COLUMNS, Object, Pair


@dataclass(frozen=True)
class Index:
    """An index as the catalogs have it.

    Arguments:
        relation: the table or partition of the index.
        parent: the index of the level above, of which this index is a part; None without.
        on: which of the columns the index is bound to.
        columns: its columns' names in order, without INCLUDE; None for an expression.
        definition: from USING on, as pg_get_indexdef writes it.
        predicate: the WHERE of a partial index.
        tablespace: its own tablespace; None for the database's.
        targets: the positions of its expression columns, each with its statistics target.
        options: its storage parameters.
        constraint: the oid of its constraint, or None.
        constraint_type: `contype`.
        constraint_definition: as pg_get_constraintdef writes it.
        valid: False after a failed concurrent build, and for a partitioned index that lacks a part
            on some partition yet.
    """

    oid: int
    relation: int
    parent: int | None
    name: str
    on: list[str]
    columns: list[str | None]
    definition: str
    predicate: str | None
    tablespace: str | None
    targets: list[tuple[int, int]]
    options: list[str]
    constraint: int | None
    constraint_type: str | None
    constraint_definition: str | None
    deferrable: bool
    deferred: bool
    unique: bool
    primary: bool
    exclusion: bool
    replica_identity: bool
    clustered: bool
    valid: bool
    comment: str | None
    constraint_comment: str | None

    @property
    def kind(self) -> str:
        """The index's kind in words, for a person."""
        if self.constraint_type == "u":
            return "unique constraint"
        return "unique index" if self.unique else "index"

    @property
    def covers(self) -> frozenset[Object]:
        """The addresses of the index and of its constraint, as pg_depend has them."""
        objects: set[Object] = {("pg_class", self.oid)}
        if self.constraint is not None:
            objects.add(("pg_constraint", self.constraint))
        return frozenset(objects)


INDEXES = sql.SQL("""
    WITH bound AS (
        SELECT i.indexrelid, col.name
          FROM pg_catalog.pg_index i
          JOIN {columns} ON col.relation = i.indrelid
         WHERE col.number = ANY (i.indkey)
            OR EXISTS (SELECT FROM pg_catalog.pg_depend d
                            WHERE d.classid = 'pg_catalog.pg_class'::regclass
                              AND d.objid = i.indexrelid
                              AND d.refclassid = 'pg_catalog.pg_class'::regclass
                              AND d.refobjid = i.indrelid
                              AND d.refobjsubid = col.number))
    SELECT i.indexrelid, i.indrelid,
           (SELECT h.inhparent FROM pg_catalog.pg_inherits h
             WHERE h.inhrelid = i.indexrelid),
           c.relname,
           ARRAY(SELECT b.name FROM bound b WHERE b.indexrelid = i.indexrelid),
           ARRAY(SELECT t.attname
                   FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, nth)
                   LEFT JOIN pg_catalog.pg_attribute t
                          ON t.attrelid = i.indrelid AND t.attnum = nullif(k.attnum, 0)
                  WHERE k.nth <= i.indnkeyatts ORDER BY k.nth),
           pg_catalog.pg_get_indexdef(i.indexrelid),
           pg_catalog.pg_get_expr(i.indpred, i.indrelid), s.spcname,
           ARRAY(SELECT ARRAY[attnum, attstattarget] FROM pg_catalog.pg_attribute t
                  WHERE t.attrelid = i.indexrelid AND t.attstattarget >= 0),
           coalesce(c.reloptions, '{{}}'),
           k.oid, k.contype::text, pg_catalog.pg_get_constraintdef(k.oid),
           coalesce(k.condeferrable, false),
           coalesce(k.condeferred, false), i.indisunique, i.indisprimary,
           i.indisexclusion, i.indisreplident, i.indisclustered,
           i.indisvalid AND i.indisready,
           pg_catalog.obj_description(i.indexrelid, 'pg_class'),
           pg_catalog.obj_description(k.oid, 'pg_constraint'),
           -- What pg_get_indexdef begins with.
           format('CREATE %%sINDEX %%I ON %%s%%I.%%I ',
                  CASE WHEN i.indisunique THEN 'UNIQUE ' END, c.relname,
                  CASE WHEN r.relkind = 'p' THEN 'ONLY ' END, n.nspname, r.relname)
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
      JOIN pg_catalog.pg_class r ON r.oid = i.indrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
      LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
      LEFT JOIN pg_catalog.pg_constraint k
             ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
            AND k.contype IN ('p', 'u', 'x')
     WHERE i.indexrelid IN (SELECT indexrelid FROM bound)
     ORDER BY c.relname, c.oid""")


def read_indexes(connection: BaseDatabaseWrapper, pair: Pair) -> list[Index]:
    """Read the indexes bound to either column, of the table and its partitions."""
    rows = fetch_all(
        connection,
        INDEXES.format(columns=COLUMNS),
        pair.columns,
    )
    # An index without a definition was dropped by another process while the query ran.
    return [
        _from_using_on(Index(*fields), prefix) for *fields, prefix in rows if fields[6] is not None
    ]


def _from_using_on(index: Index, prefix: str) -> Index:
    assert index.definition.startswith(prefix), "pg_get_indexdef has changed its form"
    return replace(index, definition=index.definition.removeprefix(prefix))


@dataclass(frozen=True)
class Part:
    """An index on the live column of a relation, and its twin there.

    Arguments:
        pair: the columns in that relation.
        index: the index.
        twin: its counterpart on the shadow column, if any.
        above: the part of the level above.
    """

    pair: Pair
    index: Index
    twin: Index | None
    above: Part | None = None

    @property
    def twin_name(self) -> str:
        """The name of the twin, existing or to be built."""
        return self.twin.name if self.twin is not None else self.pair.twin_name(self.index.name)


# An index with its parts on the partitions, the upper levels first; of a plain table, itself alone.
Family = tuple[Part, ...]
# A schema and a name in it.
Name = tuple[str, str]


def needed_names(part: Part) -> tuple[str, str]:
    """Build the name of a twin, and the name of the index while the two change names."""
    return part.twin_name, compose_name(part.index.name, "between")


def read_taken_names(
    connection: BaseDatabaseWrapper, families: Iterable[Family]
) -> dict[Name, str]:
    """Read which names of missing twins are taken, and by which object."""
    wanted = {
        (part.pair.table.schema, name)
        for family in families
        for part in family
        if part.twin is None and not part.index.primary
        for name in needed_names(part)
    }
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT n.nspname, c.relname, c.oid::regclass::text
              FROM unnest(%s::text[], %s::text[]) AS wanted (schema, name)
              JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.schema
              JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name"""),
        [[schema for schema, _ in wanted], [name for _, name in wanted]],
    )
    return {(schema, name): shown for schema, name, shown in rows}


def build_families(pair: Pair, found: list[Index], staying: frozenset[str]) -> list[Family]:
    """Pair the live column's indexes with their twins, where they have one; by name.

    Arguments:
        staying: the indexes that the swap has left where they were, and a revert leaves too.
    """
    result: list[Family] = []
    here = _grouped(found, lambda index: index.relation)
    below = _grouped(found, lambda index: index.parent)
    relations = {each.table.oid: each for each in pair.relations}

    def parts(part: Part) -> Iterator[Part]:
        """Yield a part and the parts below; a twin is known by its parent, or else by its name."""
        yield part
        attached = {
            each.relation: each for each in (below.get(part.twin.oid, ()) if part.twin else ())
        }
        for index in below.get(part.index.oid, ()):
            each = relations[index.relation]
            twin = attached.get(index.relation) or next(
                (
                    other
                    for other in here[index.relation]
                    if other.name == each.twin_name(index.name) and other.parent is None
                ),
                None,
            )
            yield from parts(Part(each, index, twin, part))

    for each in pair.relations:
        mine = here.get(each.table.oid, [])
        by_name = {index.name: index for index in mine}
        on_live = [index for index in mine if not pair.lives.isdisjoint(index.on)]
        twins = {pair.twin_name(index.name) for index in on_live}
        for index in on_live:
            twin = by_name.get(pair.twin_name(index.name))
            if index.parent is not None or index.name in twins:
                continue
            if twin is not None or index.name not in staying:
                result.append(tuple(parts(Part(each, index, twin))))
    return result


def _grouped(
    found: list[Index], key: Callable[[Index], int | None]
) -> dict[int | None, list[Index]]:
    groups: dict[int | None, list[Index]] = {}
    for index in found:
        groups.setdefault(key(index), []).append(index)
    return groups
