"""Indexes, and the unique constraints that stand on them.

Each gets a twin on the shadow column, built concurrently before the exchange; in the exchange the
two change names. A revert drops the twin that the swap has built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.database import fetch_all, name_of
from migrations_playbook.dependents.base import Dependent, Object, Pair, comment, how_bound
from migrations_playbook.steps import Lock, Step


@dataclass(frozen=True)
class Index:
    """An index as the catalogs have it.

    Arguments:
        numbers: the attribute numbers of the two columns that it is bound to.
        columns: its columns' names in order, without INCLUDE; None for an expression.
        definition: from USING on, as pg_get_indexdef writes it.
        predicate: the WHERE of a partial index.
        tablespace: its own tablespace; None for the database's.
        targets: the statistics targets of its expression columns, by their position.
        constraint: the oid of its constraint, or None.
        constraint_type: `contype`.
        valid: False for what a failed concurrent build leaves behind.
        older: whether it is older than the swap that is to be reverted.
    """

    oid: int
    name: str
    numbers: list[int]
    columns: list[str | None]
    definition: str
    predicate: str | None
    tablespace: str | None
    targets: dict[int, int]
    constraint: int | None
    constraint_type: str | None
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
    older: bool

    @property
    def kind(self) -> str:
        if self.constraint_type == "u":
            return "unique constraint"
        return "unique index" if self.unique else "index"

    @property
    def covers(self) -> frozenset[Object]:
        objects: set[Object] = {("pg_class", self.oid)}
        if self.constraint is not None:
            objects.add(("pg_constraint", self.constraint))
        return frozenset(objects)


def read(connection: BaseDatabaseWrapper, pair: Pair, since: str | None) -> list[Index]:
    """The table's indexes that are bound to either column; by name.

    Arguments:
        since: the transaction of the swap, if the columns are exchanged.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            WITH bound AS (
                SELECT i.indexrelid, a.number
                  FROM pg_catalog.pg_index i
                 CROSS JOIN unnest(%s::int2[]) AS a (number)
                 WHERE i.indrelid = %s
                   AND (a.number = ANY (i.indkey)
                        OR EXISTS (SELECT FROM pg_catalog.pg_depend d
                                    WHERE d.classid = 'pg_catalog.pg_class'::regclass
                                      AND d.objid = i.indexrelid
                                      AND d.refclassid = 'pg_catalog.pg_class'::regclass
                                      AND d.refobjid = i.indrelid AND d.refobjsubid = a.number)))
            SELECT i.indexrelid, c.relname,
                   ARRAY(SELECT number FROM bound b WHERE b.indexrelid = i.indexrelid),
                   ARRAY(SELECT t.attname
                           FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, nth)
                           LEFT JOIN pg_catalog.pg_attribute t
                                  ON t.attrelid = i.indrelid AND t.attnum = nullif(k.attnum, 0)
                          WHERE k.nth <= i.indnkeyatts ORDER BY k.nth),
                   pg_catalog.pg_get_indexdef(i.indexrelid),
                   pg_catalog.quote_ident(c.relname), pg_catalog.quote_ident(n.nspname),
                   pg_catalog.quote_ident(r.relname),
                   pg_catalog.pg_get_expr(i.indpred, i.indrelid), s.spcname,
                   ARRAY(SELECT ARRAY[attnum, attstattarget] FROM pg_catalog.pg_attribute t
                          WHERE t.attrelid = i.indexrelid AND t.attstattarget >= 0),
                   k.oid, k.contype::text, coalesce(k.condeferrable, false),
                   coalesce(k.condeferred, false), i.indisunique, i.indisprimary,
                   i.indisexclusion, i.indisreplident, i.indisclustered,
                   i.indisvalid AND i.indisready,
                   pg_catalog.obj_description(i.indexrelid, 'pg_class'),
                   pg_catalog.obj_description(k.oid, 'pg_constraint'),
                   coalesce(age(i.xmin) > age(%s::xid), false)
              FROM pg_catalog.pg_index i
              JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
              JOIN pg_catalog.pg_class r ON r.oid = i.indrelid
              JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
              LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
              LEFT JOIN pg_catalog.pg_constraint k
                     ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
                    AND k.contype IN ('p', 'u', 'x')
             WHERE i.indexrelid IN (SELECT indexrelid FROM bound)
             ORDER BY c.relname"""),
        [pair.numbers, pair.found.oid, since],
    )
    # One without a definition was dropped by another process while the query ran.
    return [_index(row) for row in rows if row[4] is not None]


def _index(row: tuple[Any, ...]) -> Index:
    oid, name, numbers, columns, text, quoted, schema, table, predicate, space, targets, *rest = row
    unique = rest[4]
    prefix = f"CREATE {'UNIQUE ' if unique else ''}INDEX {quoted} ON {schema}.{table} "
    assert text.startswith(prefix), "pg_get_indexdef has changed its form"
    return Index(
        oid, name, numbers, columns, text[len(prefix) :], predicate, space, dict(targets), *rest
    )


def originals(pair: Pair, found: list[Index]) -> dict[str, Index | None]:
    """Which index is whose twin: the live column's indexes by name, each with its twin if any.

    One that is older than the swap and has no twin was on the shadow column alone before it, and
    goes back there by itself.
    """
    by_name = {index.name: index for index in found}
    on_live = [index for index in found if pair.live.number in index.numbers]
    twins = {pair.twin_name(index.name) for index in on_live}
    return {
        index.name: twin
        for index in on_live
        for twin in [by_name.get(pair.twin_name(index.name))]
        if index.name not in twins and (twin is not None or not index.older)
    }


def dependents(
    pair: Pair,
    found: list[Index],
    definitions: dict[int, str],
    predicates: dict[int, str],
    failures: dict[int, str],
) -> Iterator[Dependent]:
    """What the swap does about each index.

    Arguments:
        definitions: by oid, what `restate.exchanged` makes of them.
        predicates: by oid, likewise.
        failures: by oid, why they could not be restated.
    """
    by_name = {index.name: index for index in found}
    matched = originals(pair, found)
    twins = {twin.oid for twin in matched.values() if twin is not None}
    for name, twin in matched.items():
        index = by_name[name]
        how = how_bound(pair, index.numbers)
        covers = index.covers | (twin.covers if twin else frozenset())
        why = _refusal(pair, index) or failures.get(index.oid)
        if why is None:
            statement = _statement(pair, index, definitions[index.oid], predicates.get(index.oid))
            if statement is None:
                why = "its tablespace cannot be restated with its predicate"
        if why is not None:
            yield Dependent(index.kind, name, how, covers, refused=why)
            continue
        assert statement is not None
        ready = twin is not None and twin.valid and twin.definition == definitions[index.oid]
        yield Dependent(
            index.kind,
            name,
            how,
            covers,
            build=() if ready else tuple(_build(pair, index, twin, statement)),
            take=(),
            give=tuple(_exchange(pair, index, twin)),
            unique_on=_unique_on(pair, index) if index.unique else (),
        )
    for index in found:
        if index.name not in matched and index.oid not in twins:
            yield Dependent(
                index.kind,
                index.name,
                how_bound(pair, index.numbers),
                index.covers,
                moves=False,
            )


def _refusal(pair: Pair, index: Index) -> str | None:
    if index.primary:
        return "the column is of the primary key, which other tables and the application go by"
    if index.exclusion:
        return (
            "an exclusion constraint cannot be built without blocking writes; drop it, and add "
            "it again after the swap"
        )
    if not index.valid:
        return (
            "it is invalid, left by a build that failed; REINDEX INDEX CONCURRENTLY it, or drop it"
        )
    return None


def _statement(
    pair: Pair, index: Index, definition: str, predicate: str | None
) -> sql.Composed | None:
    """The statement that builds the twin; None when its tablespace finds no place in it."""
    where = ""
    if index.tablespace is not None and predicate is not None:
        where = f" WHERE {predicate}"
        if not definition.endswith(where):
            return None
        definition = definition[: -len(where)]
    space = (
        sql.SQL(" TABLESPACE {}").format(sql.Identifier(index.tablespace))
        if index.tablespace is not None
        else sql.SQL("")
    )
    return sql.SQL("CREATE {}INDEX CONCURRENTLY {} ON {} {}{}{}").format(
        sql.SQL("UNIQUE " if index.unique else ""),
        sql.Identifier(pair.twin_name(index.name)),
        pair.table,
        sql.SQL(definition),
        space,
        sql.SQL(where),
    )


def _build(pair: Pair, index: Index, twin: Index | None, statement: sql.Composed) -> Iterator[Step]:
    name = pair.twin_name(index.name)
    identifier = sql.Identifier(pair.found.schema, name)
    if twin is not None:
        why = "is not like its original" if twin.valid else "was left invalid by a failed build"
        yield Step(
            f"Drop the index {name}, which {why}",
            sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(identifier),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )
    yield Step(f"Build the index {name}", statement, Lock.SHARE_UPDATE_EXCLUSIVE)
    for number, target in index.targets.items():
        yield Step(
            f"Give the index {name} its statistics target",
            sql.SQL("ALTER INDEX {} ALTER COLUMN {} SET STATISTICS {}").format(
                identifier, sql.Literal(number), sql.Literal(target)
            ),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def _exchange(pair: Pair, index: Index, twin: Index | None) -> Iterator[Step]:
    """Give the twin, or its constraint, the name of the original, and the original the twin's."""
    twin_name = pair.twin_name(index.name)
    between = name_of(index.name, "between")
    is_constraint = index.constraint is not None

    def rename(old: str, new: str) -> Step:
        if is_constraint:
            return pair.alter_table(
                f"Rename {old} to {new}",
                sql.SQL("RENAME CONSTRAINT {} TO {}").format(
                    sql.Identifier(old), sql.Identifier(new)
                ),
            )
        return Step(
            f"Rename {old} to {new}",
            sql.SQL("ALTER INDEX {} RENAME TO {}").format(
                sql.Identifier(pair.found.schema, old), sql.Identifier(new)
            ),
            Lock.ACCESS_EXCLUSIVE,
        )

    yield rename(index.name, between)
    if is_constraint and not (twin is not None and twin.constraint is not None):
        yield pair.alter_table(
            f"Make the new index the constraint {index.name}",
            sql.SQL("ADD CONSTRAINT {} UNIQUE USING INDEX {}{}{}").format(
                sql.Identifier(index.name),
                sql.Identifier(twin_name),
                sql.SQL(" DEFERRABLE" if index.deferrable else ""),
                sql.SQL(" INITIALLY DEFERRED" if index.deferred else ""),
            ),
        )
    else:
        yield rename(twin_name, index.name)
    yield rename(between, twin_name)
    identifier = sql.Identifier(pair.found.schema, index.name)
    yield from comment(index.name, sql.SQL("INDEX {}").format(identifier), index.comment)
    yield from comment(
        index.name,
        sql.SQL("CONSTRAINT {} ON {}").format(sql.Identifier(index.name), pair.table),
        index.constraint_comment,
    )
    if index.clustered:
        yield pair.alter_table(
            f"Cluster on {index.name}",
            sql.SQL("CLUSTER ON {}").format(sql.Identifier(index.name)),
        )


def drop_twins(pair: Pair, found: list[Index]) -> Iterator[Step]:
    """What a revert ends with: drop what the swap had built. Lock: ACCESS EXCLUSIVE."""
    for name in originals(pair, found):
        index = next(each for each in found if each.name == name)
        twin = pair.twin_name(name)
        if index.constraint is not None:
            yield pair.alter_table(
                f"Drop {twin}, which the swap had built",
                sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(twin)),
            )
        else:
            yield Step(
                f"Drop {twin}, which the swap had built",
                sql.SQL("DROP INDEX {}").format(sql.Identifier(pair.found.schema, twin)),
                Lock.ACCESS_EXCLUSIVE,
            )


def unique_columns(pair: Pair, found: list[Index]) -> list[tuple[str, ...]]:
    """For each whole unique index on the live column: the other columns of its key."""
    names = originals(pair, found)
    keys = []
    for index in found:
        columns = [column for column in index.columns if column is not None]
        if (
            index.name in names
            and index.unique
            and index.predicate is None
            and len(columns) == len(index.columns)
            and pair.bound.live in columns
            and pair.bound.shadow not in columns
        ):
            keys.append(tuple(column for column in columns if column != pair.bound.live))
    return keys


def _unique_on(pair: Pair, index: Index) -> tuple[str, ...]:
    """The columns of the twin's key; the shadow alone when an expression hides them."""
    exchange = {pair.bound.live: pair.bound.shadow, pair.bound.shadow: pair.bound.live}
    names = [exchange.get(column, column) for column in index.columns if column is not None]
    return tuple(names) if pair.bound.shadow in names else (pair.bound.shadow,)
