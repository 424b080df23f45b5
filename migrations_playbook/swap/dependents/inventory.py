"""Everything bound to the columns, and a fingerprint that shows a change.

PostgreSQL binds indexes, constraints, triggers, views and much else to a column's attribute number:
after a rename they stay with the leaked values. Each kind is read by a module of its own (`kinds`).
Of a partitioned table all partitions are read too. An inherited object goes with the table's; a
partition's own is carried over there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import (
    execute,
    fetch_value,
    pin_search_path,
    taken_back,
)
from migrations_playbook.postgres.tables import FOREIGN
from migrations_playbook.quarantine.base import Objects, Quarantine, name_quarantine, read_objects
from migrations_playbook.swap.dependents import kinds
from migrations_playbook.swap.dependents.base import Dependent, Key, Steps
from migrations_playbook.swap.dependents.definitions.reading import Reading, read_operator_schemas
from migrations_playbook.swap.dependents.unknown import read_unknown
from migrations_playbook.swap.pair import Member, Object, Pair

STAYING_KINDS = {"index", "unique index", "check"}


@dataclass(frozen=True)
class Inventory:
    """Everything bound to the columns.

    Arguments:
        pair: the columns, as they stood at the time of reading.
        dependents: each with the swap's treatment.
        schemas: the schemas of the operators in the definitions.
        bound: the objects of each member's quarantine; after a revert, those of its remembering.
        remade: the views to be made again, by their quoted names.
    """

    pair: Pair
    dependents: tuple[Dependent, ...]
    schemas: tuple[str, ...]
    bound: tuple[Objects, ...]
    remade: tuple[str, ...] = ()

    @property
    def refused(self) -> list[Dependent]:
        """The dependents that the swap cannot carry over."""
        return [each for each in self.dependents if each.refused is not None]

    @property
    def prepared(self) -> bool:
        """Tell whether nothing need be built or proven before the exchange."""
        return all(each.prepared for each in self.dependents)

    @property
    def left(self) -> tuple[Dependent, ...]:
        """The dependents with which an interrupted exchange was not done."""
        return tuple(each for each in self.dependents if each.rest)

    @property
    def steps(self) -> Steps:
        """The steps of all dependents together."""
        return Steps.together(each.steps for each in self.dependents if each.steps is not None)

    @property
    def whole_keys(self) -> tuple[Key, ...]:
        """The keys of the whole unique indexes on live columns."""
        found = (each.whole_key for each in self.dependents)
        return tuple(key for key in found if key is not None)

    def unique_keys(self, member: Member) -> tuple[Key, ...]:
        """List the keys that make a member's live value unique: each the columns beside it.

        What a value determines makes it unique, too: no two tokens have the same checksum. A key
        over values that are drawn apart makes none of them unique.
        """
        own = {each.live.name for each in (member, *self.pair.determined_by(member))}
        found = (
            Key(key.table, tuple(name for name in key.columns if name not in own))
            for key in self.whole_keys
            if not own.isdisjoint(key.columns)
        )
        return tuple(key for key in found if self.pair.lives.isdisjoint(key.columns))

    @property
    def quarantines(self) -> tuple[Quarantine, ...]:
        """Each member's quarantine in place, or the quarantine that a swap would make."""
        return tuple(map(self.quarantine, self.pair.members))

    def quarantine(self, member: Member) -> Quarantine:
        """Build a member's quarantine, with those of the values that are written together."""
        kin = self.pair.kin_of(member)
        return replace(
            self._name_quarantine(member),
            kin=tuple(map(self._name_quarantine, kin)) if len(kin) > 1 else (),
            marked=tuple(each.shadow.name for each in self.pair.members),
        )

    def _name_quarantine(self, member: Member) -> Quarantine:
        """Name a quarantine. Of several unique keys the widest counts, with the fewest columns."""
        keys = sorted((key.columns for key in self.unique_keys(member)), key=len)
        bound = self.bound[self.pair.replacement.group.index(member.replacement)]
        names = (member.live.name, member.shadow.name)
        found = name_quarantine(self.pair.table, *names, keys[0] if keys else None, bound)
        return replace(found, drawn=not member.replacement.meaning.sources)

    @property
    def staying(self) -> list[str]:
        """The indexes and CHECKs on shadow columns alone, which a swap leaves where they are."""
        return [
            each.name
            for each in self.dependents
            if each.steps is None
            and each.refused is None
            and each.columns
            and each.columns <= self.pair.shadows
            and each.kind in STAYING_KINDS
        ]

    def renewed(self) -> Inventory:
        """Build the same inventory for a swap that may build copies anew."""
        return replace(self, dependents=tuple(each.renewed() for each in self.dependents))

    @property
    def carried_apart(self) -> list[list[Any]]:
        """The restated objects that pg_depend may bind to no column: their catalogs, and oids."""
        carried = (each.covers for each in self.dependents if each.steps is not None)
        found = [
            object_
            for covers in carried
            for object_ in covers
            if object_[0] in ("pg_proc", "pg_policy", "pg_rewrite")
        ]
        return [[catalog for catalog, _ in found], [oid for _, oid in found]]


def read_inventory(connection: BaseDatabaseWrapper, pair: Pair) -> Inventory:
    """Read everything bound to the columns.

    Lock: ACCESS SHARE on the table, in a transaction (or a savepoint) that is rolled back.

    Raises:
        WrongPhase: the table or either column is gone.
    """
    with taken_back(connection):
        if pair.table.kind != FOREIGN:
            # The lock that any SELECT takes, so no exchange can commit between two queries.
            execute(
                connection, sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(pair.identifier)
            )
        # No partition can come between either: the pair read before the lock may be out of date.
        pair = pair.reread(connection)
        schemas = read_operator_schemas(connection, pair)
        bound = tuple(
            read_objects(connection, pair.table, each.shadow.name) for each in pair.members
        )
        pin_search_path(connection, *schemas)
        reading = Reading(connection, pair, bound)
        remade = tuple(each.identifier.as_string(None) for each in reading.chain.remade)
        return Inventory(pair, tuple(_read_kinds(reading)), schemas, bound, remade)


def _read_kinds(reading: Reading) -> Iterator[Dependent]:
    claimed: set[Object] = set()
    for kind in kinds.KINDS:
        for each in kind.read(reading):
            claimed |= each.covers
            yield each
    yield from read_unknown(reading, claimed)


def read_fingerprint(connection: BaseDatabaseWrapper, pair: Pair) -> str:
    """Read a digest of the last write of each bound object, to be compared under the lock.

    SHARE UPDATE EXCLUSIVE keeps ALTER TABLE away, but neither GRANT nor CREATE VIEW. Reads a few
    catalog rows, in about a millisecond.

    Lock: none that conflicts with anything.
    """
    stamps = [
        kind.stamp
        for kind in kinds.KINDS
        if kind.stamp is not None and (pair.changes_type or not kind.for_another_type)
    ]
    return str(
        fetch_value(
            connection,
            sql.SQL("""
                WITH relation (oid) AS (SELECT unnest(%s::oid[])),
                bound AS (
                    SELECT d.classid, d.objid, d.ctid, d.xmin::text
                      FROM pg_catalog.pg_depend d
                     WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
                       AND d.refobjid IN (SELECT oid FROM relation)),
                written (line) AS (
                    SELECT concat_ws(' ', 'depend', ctid, xmin) FROM bound
                    UNION ALL
                    SELECT concat_ws(' ', 'column', attrelid, attnum, xmin)
                      FROM pg_catalog.pg_attribute
                     WHERE attrelid IN (SELECT oid FROM relation) AND attnum > 0
                    UNION ALL {stamps})
                -- No order: to sort the lines would take longer than to read them.
                SELECT concat_ws(' ', count(*), sum(pg_catalog.hashtextextended(line, 0)),
                                 sum(pg_catalog.hashtextextended(line, 1)))
                  FROM written""").format(stamps=sql.SQL(" UNION ALL ").join(stamps)),
            [pair.oids],
        )
    )
