"""A look at the two columns, shared by several kinds of dependents and read once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import Row, fetch_all
from migrations_playbook.postgres.roles import find_missing_grants
from migrations_playbook.postgres.server import is_read_only
from migrations_playbook.quarantine.base import Objects
from migrations_playbook.swap.dependents.definitions import restate
from migrations_playbook.swap.dependents.definitions.chains import READERS, Chain
from migrations_playbook.swap.dependents.definitions.constraints import (
    Constraint,
    checks_to_restate,
    read_constraints,
)
from migrations_playbook.swap.dependents.definitions.indexes import (
    Family,
    Index,
    build_families,
    read_indexes,
)
from migrations_playbook.swap.dependents.definitions.restate import Definitions
from migrations_playbook.swap.dependents.definitions.trial import read_chain
from migrations_playbook.swap.pair import COLUMNS, Pair


@dataclass(frozen=True)
class Reading:
    """The source from which the kinds of dependents read.

    Arguments:
        connection: in a transaction with a pinned search_path.
        pair: the columns.
        bound: the objects of each member's quarantine.
    """

    connection: BaseDatabaseWrapper
    pair: Pair
    bound: tuple[Objects, ...]

    @property
    def staying(self) -> frozenset[str]:
        """The indexes and CHECKs that the swap has left where they were, by name.

        They were on shadow columns alone, and go back there by themselves.
        """
        return frozenset(name for each in self.bound for name in each.staying)

    @cached_property
    def missing_grants(self) -> dict[str, str]:
        """What the role would have to be granted: statements, each with its object for a person."""
        return find_missing_grants(self.connection, self.pair.oids)

    @cached_property
    def may_restate(self) -> bool:
        """Whether there may be a scratch table: with every right, and not on a standby.

        Without the table there will be no exchange, and the definitions are left as they are, which
        is good enough for a status.
        """
        return not self.missing_grants and not is_read_only(self.connection)

    @cached_property
    def indexes(self) -> list[Index]:
        """The indexes bound to either column."""
        return read_indexes(self.connection, self.pair)

    @cached_property
    def families(self) -> list[Family]:
        """The live column's indexes, with their twins."""
        return build_families(self.pair, self.indexes, self.staying)

    @cached_property
    def constraints(self) -> list[Constraint]:
        """The constraints bound to either column that stand on no index."""
        return read_constraints(self.connection, self.pair)

    @cached_property
    def chain(self) -> Chain:
        """The views that another type reaches."""
        return read_chain(self.connection, self.pair, may_try=self.may_restate)

    @cached_property
    def definitions(self) -> Definitions:
        """Indexes and constraints restated for the other column, on a scratch table."""
        parts = [part for family in self.families for part in family]
        # Of another type a definition may come back in other words: each twin's is restated too.
        both = self.pair.changes_type
        wanted = {
            index.oid: (index.unique, index.definition)
            for part in parts
            for index in (part.index, part.twin if both else None)
            if index is not None and not (index.primary or index.exclusion)
        }
        demands = {
            each.oid: each.definition
            for each in (
                [each for each in self.constraints if each.type == "c" and not each.inherited]
                if both
                else checks_to_restate(self.pair, self.constraints, self.staying)
            )
        }
        for part in parts:
            if part.pair.partitioned and part.index.constraint and part.index.oid in wanted:
                # A partitioned table's constraint cannot be made of an index.
                demands[part.index.constraint] = str(part.index.constraint_definition)
        if not self.may_restate:
            plain = {oid: definition for oid, (_, definition) in wanted.items()}
            return Definitions(plain, {}, {}, demands, {})
        return restate.restate_definitions(self.connection, self.pair, wanted, demands)


# The schemas of the operators in views above views, which are bound to no column of the table.
READERS_SCHEMAS = sql.SQL("""
    {readers}
    SELECT DISTINCT n.nspname
      FROM reader
      JOIN pg_catalog.pg_rewrite r ON r.ev_class = reader.oid
      JOIN pg_catalog.pg_depend o
        ON o.classid = 'pg_catalog.pg_rewrite'::regclass AND o.objid = r.oid
       AND o.refclassid = 'pg_catalog.pg_operator'::regclass
      JOIN pg_catalog.pg_operator p ON p.oid = o.refobjid
      JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace
     WHERE n.nspname <> 'pg_catalog'""").format(readers=READERS)


def read_operator_schemas(connection: BaseDatabaseWrapper, pair: Pair) -> tuple[str, ...]:
    """Read the schemas of the definitions' operators, beside pg_catalog.

    A definition is read and said again along the same path. USING and IS DISTINCT FROM name no
    operator: each is looked up where the definition is parsed, and a type such as citext has its
    own.

    Lock: none that conflicts with anything.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT n.nspname
              FROM pg_catalog.pg_depend d
              JOIN pg_catalog.pg_depend o
                ON o.classid = d.classid AND o.objid = d.objid
               AND o.refclassid = 'pg_catalog.pg_operator'::regclass
              JOIN pg_catalog.pg_operator p ON p.oid = o.refobjid
              JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace
             WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = ANY (%s)
               AND n.nspname <> 'pg_catalog'"""),
        [pair.oids],
    )
    if pair.changes_type:
        rows += fetch_all(connection, READERS_SCHEMAS, pair.columns)
    found = {*pair.type_schemas, *(row[0] for row in rows)}
    return tuple(sorted(found - {"pg_catalog"}))


# The objects of a catalog that are bound to either column, of the table or of a partition; or to a
# view that is made again, so that they have to let it go first; or to relations beside.
BOUND = """
      JOIN (SELECT d.objid, bool_or(d.refobjid = ANY (%s)) AS lets_go,
                   coalesce(array_agg(DISTINCT col.name) FILTER (WHERE col.name IS NOT NULL),
                            '{{}}') AS names
              FROM pg_catalog.pg_depend d
              LEFT JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
             WHERE d.classid = {catalog}::regclass
               AND d.refclassid = 'pg_catalog.pg_class'::regclass
               AND (col.name IS NOT NULL OR d.refobjid = ANY (%s))
             GROUP BY d.objid) AS bound ON bound.objid = o.oid"""


def read_bound(
    reading: Reading,
    catalog: str,
    query: str,
    beside: Iterable[int] = (),
    **parts: sql.Composable,
) -> list[Row]:
    """Run a query over the objects `o` of a catalog that are bound to either column.

    Arguments:
        catalog: the catalog's name, `pg_policy`, say.
        query: has `{bound}` where the objects are joined to the names of their columns,
            `bound.names`, and to whether they read a view that is made again, `bound.lets_go`.
        beside: relations whose objects are wanted too, with either column or without.
        parts: what else stands in braces there.
    """
    remade = reading.chain.oids
    return fetch_all(
        reading.connection,
        sql.SQL(query).format(
            bound=sql.SQL(BOUND).format(
                catalog=sql.Literal(f"pg_catalog.{catalog}"), columns=COLUMNS
            ),
            **parts,
        ),
        [remade, *reading.pair.columns, [*remade, *beside]],
    )
