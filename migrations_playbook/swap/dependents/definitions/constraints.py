"""Constraints as the catalog has them, and which CHECKs are to be restated."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.swap.pair import COLUMNS, Object, Pair


@dataclass(frozen=True)
class Constraint:
    """A constraint of the table that stands on no index.

    Arguments:
        type: `contype`: "c" a CHECK, "n" a NOT NULL (PostgreSQL 18), "f" a foreign key.
        on: which of the columns the constraint is bound to.
        definition: as pg_get_constraintdef writes it.
        relation: its table or partition: another table, for a foreign key to the column.
        where: the name of the relation.
        parent: the foreign key of which this constraint is a partition's copy.
        inherited: whether the constraint is a partition's copy of a CHECK or NOT NULL.
        local: whether the constraint was declared on this relation.
        incoming: whether the constraint is a foreign key to either column.
    """

    oid: int
    name: str
    type: str
    on: list[str]
    definition: str
    validated: bool
    comment: str | None
    relation: int
    where: str
    parent: int
    inherited: bool
    local: bool
    incoming: bool

    @property
    def enforced(self) -> bool:
        """Whether PostgreSQL checks it at all (PostgreSQL 18 lets one be written down only)."""
        return not self.definition.endswith(" NOT ENFORCED")

    @property
    def covers(self) -> frozenset[Object]:
        """The constraint's address in the catalog, as pg_depend has it."""
        return frozenset({("pg_constraint", self.oid)})


def read_constraints(connection: BaseDatabaseWrapper, pair: Pair) -> list[Constraint]:
    """Read the constraints bound to either column; by name."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            WITH bound AS (
                SELECT k.oid, array_agg(DISTINCT col.name) AS names,
                       bool_or(k.contype = 'f' AND col.relation = k.confrelid
                               AND col.number = ANY (k.confkey)) AS incoming
                  FROM pg_catalog.pg_constraint k
                  JOIN {columns} ON col.relation = k.conrelid AND col.number = ANY (k.conkey)
                                 OR col.relation = k.confrelid AND col.number = ANY (k.confkey)
                 WHERE k.contype IN ('c', 'n', 'f')
                 GROUP BY k.oid)
            SELECT k.oid, k.conname, k.contype::text, bound.names,
                   pg_catalog.pg_get_constraintdef(k.oid), k.convalidated,
                   pg_catalog.obj_description(k.oid, 'pg_constraint'), k.conrelid,
                   k.conrelid::regclass::text, k.conparentid, k.coninhcount > 0, k.conislocal,
                   bound.incoming
              FROM pg_catalog.pg_constraint k JOIN bound ON bound.oid = k.oid
             ORDER BY k.conname, k.conrelid""").format(columns=COLUMNS),
        pair.columns,
    )
    # A constraint without a definition was dropped by another process while the query ran.
    return [Constraint(*row) for row in rows if row[4] is not None]


def checks_to_restate(
    pair: Pair, found: list[Constraint], staying: frozenset[str]
) -> list[Constraint]:
    """Choose the CHECKs on the live column that get a twin: no twin itself, none of ours.

    Arguments:
        staying: the CHECKs that the swap has left where they were, and a revert leaves too.
    """
    return [
        check
        for each in pair.relations
        for check in restatable_checks(each, own_checks(each, found), staying)
    ]


def own_checks(pair: Pair, found: list[Constraint]) -> list[Constraint]:
    """Choose the CHECKs of a relation, without inherited CHECKs."""
    return [
        each
        for each in found
        if each.relation == pair.table.oid and each.type == "c" and not each.inherited
    ]


def restatable_checks(
    pair: Pair, own: list[Constraint], staying: frozenset[str]
) -> list[Constraint]:
    """Choose the CHECKs of a relation that get a twin there."""
    on_live = [each for each in own if not pair.lives.isdisjoint(each.on)]
    on_live = [each for each in on_live if each.name not in pair.not_null_checks]
    twins = {pair.twin_name(each.name) for each in on_live}
    names = {each.name for each in own}
    return [
        each
        for each in on_live
        if each.name not in twins
        and (pair.twin_name(each.name) in names or pair.labelled(each.name) not in staying)
    ]
