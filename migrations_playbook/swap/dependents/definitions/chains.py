"""Which views another type reaches: those are dropped and made again, and the others replaced.

CREATE OR REPLACE VIEW changes no column's type. Whether a view's columns change with the type, and
whether its query goes with the type at all, PostgreSQL says (`trial`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.names import Named
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.tables import READ_BY
from migrations_playbook.swap.dependents.definitions.parse_trees import WHOLE_ROW
from migrations_playbook.swap.dependents.definitions.restate import OTHER_TYPE
from migrations_playbook.swap.pair import COLUMNS, Object, Pair

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
        failures: why a view, or what else reads the columns or a view, does not go with the other
            type.
    """

    remade: tuple[View, ...] = ()
    failures: Mapping[Object, str] = field(default_factory=dict)

    @property
    def oids(self) -> list[int]:
        """The views to drop and make again."""
        return [each.oid for each in self.remade]

    def refuse(self, object_: Object) -> str | None:
        """Say why an object cannot be carried over to the other type; None when it can."""
        failure = self.failures.get(object_)
        return None if failure is None else f"{failure}; {OTHER_TYPE}"


def read_readers(connection: BaseDatabaseWrapper, pair: Pair) -> list[View]:
    """Read the views that read either column, each after the views that it reads.

    Lock: none that conflicts with anything.
    """
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
    return _in_order([View(*row) for row in rows])


def _in_order(views: list[View]) -> list[View]:
    """Sort the views, each after the views that it reads: a replaced one may read a younger one."""
    by_oid = {each.oid: each for each in views}
    sorter = TopologicalSorter(
        {each.oid: [oid for oid in each.reads if oid in by_oid] for each in views}
    )
    return [by_oid[oid] for oid in sorter.static_order()]
