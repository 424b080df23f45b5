"""Which views another type reaches: those are dropped and made again, and the others replaced.

CREATE OR REPLACE VIEW changes no column's type. Whether a view's columns change with the type, and
whether its query goes with the type at all, PostgreSQL says: over an empty scratch copy of the
table, whose columns are exchanged, each view is made as a temporary view. A temporary relation
comes before any other of its name, so the queries read the copies. All is rolled back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.names import Named
from migrations_playbook.postgres.query import (
    engine_transaction,
    execute,
    fetch_all,
    fetch_value,
    set_local,
)
from migrations_playbook.postgres.tables import READ_BY
from migrations_playbook.swap.dependents.parse_trees import WHOLE_ROW
from migrations_playbook.swap.dependents.restate import find_failure
from migrations_playbook.swap.pair import COLUMNS, Pair

# The views that read either column, themselves or through other views, and the views' operators.
READERS = sql.SQL("""
    WITH RECURSIVE reader (oid) AS (
        SELECT r.ev_class
          FROM pg_catalog.pg_depend d
          JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
          JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN'
          JOIN pg_catalog.pg_class c ON c.oid = r.ev_class AND c.relkind = 'v'
         WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
           AND d.refclassid = 'pg_catalog.pg_class'::regclass
        UNION
        SELECT r.ev_class
          FROM {read_by}
          JOIN pg_catalog.pg_class c ON c.oid = r.ev_class AND c.relkind = 'v')""").format(
    columns=COLUMNS, read_by=READ_BY
)


@dataclass(frozen=True)
class View(Named):
    """A view that reads either column, itself or through other views.

    Arguments:
        reads: the relations that its query reads.
        whole_row: whether the query has a whole row in it, whose type only the table itself has.
    """

    oid: int
    schema: str
    name: str
    reads: list[int]
    whole_row: bool


@dataclass(frozen=True)
class Chain:
    """The views that another type reaches.

    Arguments:
        remade: the views to drop and make again; each after the views that it reads.
        failures: by oid, why a view's query does not go with the other type.
    """

    remade: tuple[View, ...] = ()
    failures: Mapping[int, str] = field(default_factory=dict)

    @property
    def oids(self) -> list[int]:
        """The views to drop and make again."""
        return [each.oid for each in self.remade]


def read_chain(connection: BaseDatabaseWrapper, pair: Pair, *, may_try: bool) -> Chain:
    """Tell which views have to be made again for the other column's type.

    A view above such a view goes with it. Without a trial every reading view counts.

    Lock: ACCESS SHARE on the table (CREATE TABLE LIKE).

    Arguments:
        connection: in a transaction with a pinned search_path.
        may_try: whether there may be scratch tables.
    """
    if not pair.changes_type:
        return Chain()
    views = _in_order(_read_views(connection, pair))
    changed = {each.oid for each in views}
    failures: dict[int, str] = {}
    if may_try and views:
        with engine_transaction(connection):
            if _reads_unqualified(connection, pair, views):
                changed, failures = _try_views(connection, pair, views)
            transaction.set_rollback(True, using=connection.alias)
    for each in views:
        if changed & set(each.reads):
            changed.add(each.oid)
    return Chain(tuple(each for each in views if each.oid in changed), failures)


def _read_views(connection: BaseDatabaseWrapper, pair: Pair) -> list[View]:
    rows = fetch_all(
        connection,
        sql.SQL("""
            {readers}
            SELECT c.oid, n.nspname, c.relname,
                   ARRAY(SELECT DISTINCT d.refobjid FROM pg_catalog.pg_depend d
                          WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
                            AND d.objid = r.oid AND d.refobjid <> c.oid
                            AND d.refclassid = 'pg_catalog.pg_class'::regclass),
                   position(%s IN r.ev_action::text) > 0
              FROM reader
              JOIN pg_catalog.pg_class c ON c.oid = reader.oid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid AND r.rulename = '_RETURN'
             ORDER BY c.oid""").format(readers=READERS),
        [*pair.columns, WHOLE_ROW],
    )
    return [View(*row) for row in rows]


def _in_order(views: list[View]) -> list[View]:
    """Sort the views, each after the views that it reads: a replaced one may read a younger one."""
    by_oid = {each.oid: each for each in views}
    sorter = TopologicalSorter(
        {each.oid: [oid for oid in each.reads if oid in by_oid] for each in views}
    )
    return [by_oid[oid] for oid in sorter.static_order()]


def _read_bases(pair: Pair, views: Iterable[View]) -> list[Pair]:
    """Choose the table and the partitions that a view reads by their names."""
    read = {oid for each in views for oid in each.reads}
    return [each for each in pair.relations if each.table.oid in read]


def _reads_unqualified(connection: BaseDatabaseWrapper, pair: Pair, views: list[View]) -> bool:
    """Look names up so that the queries name table and views without a schema, if that is possible.

    Two relations of one name in two schemas cannot both be told apart so.
    """
    bases = _read_bases(pair, views)
    schemas = dict.fromkeys(
        [*(each.table.schema for each in bases), *(each.schema for each in views)]
    )
    path = fetch_value(connection, sql.SQL("SELECT pg_catalog.current_setting('search_path')"))
    more = [sql.Identifier(each).as_string(None) for each in schemas]
    set_local(connection, "search_path", ", ".join([*more, str(path)]))
    return bool(
        fetch_value(
            connection,
            sql.SQL("""
                SELECT bool_and(pg_catalog.pg_table_is_visible(oid))
                  FROM unnest(%s::oid[]) AS relation (oid)"""),
            [[each.table.oid for each in bases] + [each.oid for each in views]],
        )
    )


def _try_views(
    connection: BaseDatabaseWrapper, pair: Pair, views: list[View]
) -> tuple[set[int], dict[int, str]]:
    """Make the views over scratch tables; tell which have other types, and which fail and why."""
    oids = [each.oid for each in views]
    texts: dict[int, str] = dict(
        fetch_all(
            connection,
            sql.SQL("SELECT oid, pg_catalog.pg_get_viewdef(oid) FROM unnest(%s::oid[]) AS v (oid)"),
            [oids],
        )
    )
    _make_copies(connection, pair, views)
    path = fetch_value(connection, sql.SQL("SELECT pg_catalog.current_setting('search_path')"))
    set_local(connection, "search_path", f"pg_temp, {path}")
    changed: set[int] = set()
    failures: dict[int, str] = {}
    for view in views:
        failure = find_failure(
            connection,
            sql.SQL("CREATE TEMPORARY VIEW {} AS {}").format(
                sql.Identifier(view.name), sql.SQL(texts[view.oid].rstrip().rstrip(";"))
            ),
        )
        if failure is not None and view.whole_row:
            changed.add(view.oid)
        elif failure is not None:
            failures[view.oid] = failure
    return changed | _with_other_types(connection, views), failures


def _make_copies(connection: BaseDatabaseWrapper, pair: Pair, views: list[View]) -> None:
    """Make the scratch tables, whose columns are exchanged."""
    for each in _read_bases(pair, views):
        execute(
            connection,
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {})").format(
                sql.Identifier(each.table.name), each.identifier
            ),
        )
        for step in pair.rename_steps(sql.Identifier("pg_temp", each.table.name)):
            execute(connection, step.statement)


def _with_other_types(connection: BaseDatabaseWrapper, views: list[View]) -> set[int]:
    """Find the views whose temporary counterparts have a column of another type or collation."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT view.oid
              FROM unnest(%s::oid[], %s::text[]) AS view (oid, name)
              JOIN pg_catalog.pg_class c
                ON c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relname = view.name
              JOIN pg_catalog.pg_attribute was ON was.attrelid = view.oid
              JOIN pg_catalog.pg_attribute now
                ON now.attrelid = c.oid AND now.attnum = was.attnum
             WHERE (was.atttypid, was.atttypmod, was.attcollation)
                   IS DISTINCT FROM (now.atttypid, now.atttypmod, now.attcollation)"""),
        [[each.oid for each in views], [each.name for each in views]],
    )
    return {oid for (oid,) in rows}
