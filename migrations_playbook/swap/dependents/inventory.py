"""What is bound to the columns, and what the swap does about it: all of it, or it refuses.

PostgreSQL binds indexes, constraints, triggers, views and much else to a column's attribute
number: after a rename they stay with the leaked values. `inventory` reads all of it from the
catalogs, each as a `Dependent` with the steps that carry it over, or the reason why not. What no
reader here has claimed of pg_depend is refused by name: an object of a kind that is not known is
never passed over.

Of a partitioned table all partitions are read too. What a partition has by inheritance goes with
the table's; what it has of its own is carried over there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import execute, fetch_all, fetch_value, pin_search_path
from migrations_playbook.postgres.server import is_read_only
from migrations_playbook.postgres.steps import Step
from migrations_playbook.swap import quarantine
from migrations_playbook.swap.dependents import (
    constraints,
    indexes,
    materialized,
    others,
    restate,
    settings,
    tables,
    triggers,
    twins,
    views,
)
from migrations_playbook.swap.dependents.base import Dependent, Key, Object
from migrations_playbook.swap.dependents.materialized import Left
from migrations_playbook.swap.pair import COLUMNS, Pair

# `relkind` of a foreign table, which LOCK TABLE does not lock.
FOREIGN = "f"


@dataclass(frozen=True)
class Inventory:
    """Everything that is bound to the two columns.

    Arguments:
        dependents: each with what the swap does about it.
        unique_keys: for each unique index on the live column, the other columns of its key.
        drop_twins: what a revert ends with.
    """

    dependents: tuple[Dependent, ...]
    unique_keys: tuple[Key, ...]
    drop_twins: tuple[Step, ...]

    @property
    def refused(self) -> list[Dependent]:
        return [each for each in self.dependents if each.refused is not None]

    @property
    def unprepared(self) -> list[Dependent]:
        """Those for which something must be built or proven before the exchange."""
        return [each for each in self.dependents if each.build or each.prove]


def read_inventory(connection: BaseDatabaseWrapper, pair: Pair) -> Inventory:
    """Read everything that is bound to the two columns.

    Lock: ACCESS SHARE on the table, in a transaction (or a savepoint) that is rolled back.
    """
    with transaction.atomic(using=connection.alias):
        pin_search_path(connection)
        if pair.table.kind != FOREIGN:
            # As a reader's: no other session's exchange comes between two of these looks.
            execute(
                connection, sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(pair.identifier)
            )
        # Neither does a partition: what was read before the lock may be out of date.
        found = _read(connection, pair.reread(connection))
        transaction.set_rollback(True, using=connection.alias)
    return found


def read_left(connection: BaseDatabaseWrapper, pair: Pair) -> list[Left]:
    """The materialized views that an interrupted exchange has left to be renewed.

    Lock: none that conflicts with anything.

    Arguments:
        pair: the columns as they stand.
    """
    with transaction.atomic(using=connection.alias):
        pin_search_path(connection)
        found = materialized.left(connection, pair)
        transaction.set_rollback(True, using=connection.alias)
    return found


def of_table(connection: BaseDatabaseWrapper, pair: Pair) -> list[Dependent]:
    """What about the table itself, or the role's rights, stands in the way.

    Lock: none that conflicts with anything.
    """
    return list(tables.dependents(connection, pair))


def _read(connection: BaseDatabaseWrapper, pair: Pair) -> Inventory:
    since = quarantine.swapped_since(connection, pair.table, pair.replacement.shadow)
    found_indexes = indexes.read(connection, pair, since)
    families = indexes.families(pair, found_indexes)
    found_constraints = constraints.read(connection, pair, since)
    table = of_table(connection, pair)
    parts = [part for family in families for part in family]
    wanted = {
        part.index.oid: (part.index.unique, part.index.definition)
        for part in parts
        if not (part.index.primary or part.index.exclusion)
    }
    demands = {each.oid: each.definition for each in constraints.checks(pair, found_constraints)}
    for part in parts:
        if part.pair.partitioned and part.index.constraint and part.index.oid in wanted:
            # A partitioned table's constraint cannot be made of an index.
            demands[part.index.constraint] = str(part.index.constraint_definition)
    if any(each.kind == "right" for each in table) or is_read_only(connection):
        # The scratch table cannot be made, and there will be no exchange from here.
        plain = {oid: definition for oid, (_, definition) in wanted.items()}
        restated = restate.Definitions(plain, {}, demands, {})
    else:
        restated = restate.exchanged(connection, pair, wanted, demands)
    found = [
        *table,
        *twins.dependents(pair, found_indexes, families, restated),
        *constraints.dependents(pair, found_constraints, restated.constraints, restated.failures),
        *constraints.not_null(pair, found_constraints),
        *twins.replica_identities(families),
        *settings.dependents(connection, pair),
        *triggers.dependents(connection, pair),
        *views.dependents(connection, pair),
        *materialized.dependents(connection, pair),
        *others.policies(connection, pair),
        *others.statistics(connection, pair),
        *others.publications(connection, pair),
        *others.functions(connection, pair),
    ]
    claimed = {object_ for each in found for object_ in each.covers}
    found += _unclaimed(connection, pair, claimed)
    return Inventory(
        tuple(found),
        tuple(indexes.unique_keys(pair, families)),
        tuple(twins.drop_twins(families)) if pair.revert else (),
    )


def _unclaimed(
    connection: BaseDatabaseWrapper, pair: Pair, claimed: set[Object]
) -> Iterator[Dependent]:
    """What pg_depend has and no reader knows how to carry over."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT c.relname, d.objid, col.name,
                   pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
              FROM pg_catalog.pg_depend d
              JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
              JOIN pg_catalog.pg_class c ON c.oid = d.classid
             WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
             ORDER BY 4""").format(columns=COLUMNS),
        pair.columns,
    )
    sequences = {
        sql.Identifier(pair.table.schema, name).as_string(None).replace('"', "")
        for name in (pair.own.hits, pair.own.last)
    }
    seen: set[Object] = set()
    for catalog, oid, column, described in rows:
        key = (catalog, oid)
        if key in claimed or key in seen:
            continue
        seen.add(key)
        if described.replace('"', "").removeprefix("sequence ") in sequences:
            continue
        generated = catalog == "pg_attrdef"
        yield Dependent(
            "generated column" if generated else "object",
            described.removeprefix("default value for column ") if generated else described,
            f"on {column}",
            frozenset({key}),
            refused="its stored values come from the leaked ones; drop it, and add it again after "
            "the swap"
            if generated
            else "the swap does not know how to carry it over; drop it, and create it again after "
            "the swap",
        )


def fingerprint(connection: BaseDatabaseWrapper, pair: Pair) -> str:
    """A digest of who wrote what is bound to the table or a partition, compared under the lock.

    SHARE UPDATE EXCLUSIVE keeps ALTER TABLE away, but neither GRANT nor CREATE VIEW. Reads a few
    catalog rows, in about a millisecond.

    Lock: none that conflicts with anything.
    """
    return str(
        fetch_value(
            connection,
            sql.SQL("""
                WITH bound AS (
                    SELECT d.classid, d.objid, d.objsubid, d.refobjsubid, d.deptype, d.xmin::text
                      FROM pg_catalog.pg_depend d
                     WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
                       AND d.refobjid = ANY (%s)),
                written AS (
                    SELECT concat_ws(' ', 'depend', classid, objid, objsubid, refobjsubid,
                                     deptype, xmin) AS line FROM bound
                    UNION ALL
                    SELECT concat_ws(' ', 'column', attrelid, attnum, xmin)
                      FROM pg_catalog.pg_attribute
                     WHERE attrelid = ANY (%s) AND attnum > 0
                    UNION ALL
                    SELECT concat_ws(' ', 'index', indexrelid, xmin) FROM pg_catalog.pg_index
                     WHERE indrelid = ANY (%s)
                    UNION ALL
                    SELECT concat_ws(' ', 'constraint', oid, xmin) FROM pg_catalog.pg_constraint
                     WHERE conrelid = ANY (%s) OR confrelid = ANY (%s)
                    UNION ALL
                    SELECT concat_ws(' ', 'trigger', oid, xmin) FROM pg_catalog.pg_trigger
                     WHERE tgrelid = ANY (%s)
                    UNION ALL
                    SELECT concat_ws(' ', 'policy', oid, xmin) FROM pg_catalog.pg_policy
                     WHERE oid IN (SELECT objid FROM bound)
                    UNION ALL
                    SELECT concat_ws(' ', 'publication', oid, xmin)
                      FROM pg_catalog.pg_publication_rel WHERE prrelid = ANY (%s)
                    UNION ALL
                    SELECT concat_ws(' ', 'function', oid, xmin) FROM pg_catalog.pg_proc
                     WHERE oid IN (SELECT objid FROM bound)
                    UNION ALL
                    SELECT concat_ws(' ', 'view', c.oid, c.xmin, r.xmin)
                      FROM pg_catalog.pg_rewrite r
                      JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
                     WHERE r.oid IN (SELECT objid FROM bound)
                    UNION ALL
                    SELECT concat_ws(' ', 'comment', objoid, objsubid, xmin)
                      FROM pg_catalog.pg_description
                     WHERE classoid = 'pg_catalog.pg_class'::regclass AND objoid = ANY (%s))
                SELECT md5(string_agg(line, ',' ORDER BY line)) FROM written"""),
            [pair.oids] * 8,
        )
    )
