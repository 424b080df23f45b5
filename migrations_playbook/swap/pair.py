"""The columns of a replacement, in the table and in each of its partitions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import TryAgain
from migrations_playbook.phase import find_divided
from migrations_playbook.postgres.names import choose_name, compose_name, spell_names
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.postgres.tables import Column, Table, read_table
from migrations_playbook.replacement import Replacement

# A catalog and an oid: how pg_depend names an object.
Object = tuple[str, int]

# The columns of a table and of each of its partitions, to be joined to the objects bound to
# them; the parameters are `Pair.columns`.
COLUMNS = sql.SQL("unnest(%s::oid[], %s::int2[], %s::text[]) AS col (relation, number, name)")

# The tables of publications. PostgreSQL 14 has neither column lists nor row filters: a name that
# is no column of the inner query's table is looked up in the query around it, and is NULL there.
PUBLISHED = sql.SQL("""(SELECT NULL::int2vector AS prattrs, NULL::pg_node_tree AS prqual) AS earlier
     CROSS JOIN LATERAL (SELECT oid, prpubid, prrelid, prattrs, prqual
                           FROM pg_catalog.pg_publication_rel) AS o""")

# To be joined to pg_depend as `d`: the default, or the generated column, that depends. In
# PostgreSQL 14 a generated column depends itself, and since then its row in pg_attrdef.
EXPRESSION = sql.SQL("""LEFT JOIN pg_catalog.pg_attrdef f
        ON f.oid = CASE d.classid
               WHEN 'pg_catalog.pg_attrdef'::regclass THEN d.objid
               WHEN 'pg_catalog.pg_class'::regclass THEN (
                   SELECT g.oid FROM pg_catalog.pg_attrdef g
                    WHERE g.adrelid = d.objid AND g.adnum = d.objsubid) END""")


@dataclass(frozen=True)
class Member:
    """The two columns of one declaration where they stand: in a table, or in a partition.

    Arguments:
        replacement: the declaration.
        table: the table, or a partition of the table.
    """

    replacement: Replacement
    table: Table

    def __str__(self) -> str:
        return f"{self.replacement.live} <- {self.replacement.shadow}"

    @property
    def live(self) -> Column:
        """The column under the live name."""
        return self.table.columns[self.replacement.live]

    @property
    def shadow(self) -> Column:
        """The column under the shadow name."""
        return self.table.columns[self.replacement.shadow]

    @property
    def has_two_types(self) -> bool:
        """Whether the columns differ in type or collation."""
        live, shadow = self.live, self.shadow
        return (live.type, live.collation) != (shadow.type, shadow.collation)

    @property
    def changes_type(self) -> bool:
        """Whether the exchange gives the live name another type or collation, as declared."""
        return self.replacement.declaration.converts and self.has_two_types

    @property
    def not_null_check(self) -> str:
        """Build the name of the CHECK that proves the shadow not null."""
        return self.replacement.object_name("not_null")


@dataclass(frozen=True)
class Pair:
    """The two sides of an exchange where they stand, in a table or a partition: live and shadow.

    A lone shadow has a column on each side; a group has one of each member. A partitioned table has
    such a pair itself and in each of its partitions, with the columns' numbers there: see
    `relations`.

    Arguments:
        replacement: the declaration; of a group the leading one, which stands for all.
        table: the table, or a partition of the table.
        swapped: whether the names are exchanged, so that an exchange now would be a revert. The
            table's own numbers tell; a partition's may be in any order.
    """

    replacement: Replacement
    table: Table
    swapped: bool

    @classmethod
    def of(cls, replacement: Replacement, table: Table) -> Pair:
        """Build the pair of a table with all the columns."""
        lead = replacement.lead
        return cls(lead, table, lead.meaning.is_exchanged(table))

    @classmethod
    def find(
        cls, connection: BaseDatabaseWrapper, replacement: Replacement, identifier: sql.Identifier
    ) -> Pair | None:
        """Read the pair of a table from the catalog; None unless all the columns are there.

        Lock: none that conflicts with anything.

        Arguments:
            identifier: the table's name, qualified where it is known.
        """
        table = read_table(connection, identifier)
        names = {name for each in replacement.group for name in (each.live, each.shadow)}
        if table is None or not names <= table.columns.keys():
            return None
        return cls.of(replacement, table)

    @property
    def members(self) -> tuple[Member, ...]:
        """The columns of each declaration that takes part, in the order of the declarations."""
        return tuple(map(self.member, self.replacement.group))

    def member(self, replacement: Replacement) -> Member:
        """Return the columns of a declaration that takes part."""
        return Member(replacement, self.table)

    def determined_by(self, member: Member) -> tuple[Member, ...]:
        """List the members whose values are made of a member's value and of nothing else.

        Where two of theirs differ, two of its own do.
        """
        found = [member]
        for each in self.members:
            sources = each.replacement.meaning.sources
            if sources and {*sources} <= {one.replacement.meaning for one in found}:
                found.append(each)
        return tuple(found[1:])

    def kin_of(self, member: Member) -> tuple[Member, ...]:
        """List the members that are drawn and made together with a member; itself included."""
        kin = member.replacement.meaning.kin
        return tuple(each for each in self.members if each.replacement.meaning in kin)

    def members_on(self, names: Iterable[str]) -> tuple[Member, ...]:
        """Choose the members whose live columns are among the names."""
        wanted = {*names}
        return tuple(each for each in self.members if each.replacement.live in wanted)

    @property
    def lives(self) -> frozenset[str]:
        """The live names."""
        return frozenset(each.live for each in self.replacement.group)

    @property
    def shadows(self) -> frozenset[str]:
        """The shadow names."""
        return frozenset(self.replacement.shadows)

    @property
    def not_null_checks(self) -> frozenset[str]:
        """The names of the CHECKs that prove the shadows not null."""
        return frozenset(each.not_null_check for each in self.members)

    @property
    def type_schemas(self) -> tuple[str, ...]:
        """The schemas of the columns' types, in which their operators are looked up."""
        both = {column.type_schema for each in self.members for column in (each.live, each.shadow)}
        return tuple(sorted(both))

    @property
    def changes_type(self) -> bool:
        """Whether the exchange gives a live name another type or collation, as declared."""
        return any(each.changes_type for each in self.members)

    @property
    def relations(self) -> tuple[Pair, ...]:
        """The pair of the table, and of each of its partitions; the upper levels first."""
        return (self, *(replace(self, table=each) for each in self.table.partitions))

    @property
    def columns(self) -> list[list[Any]]:
        """The columns of all these: relations, attribute numbers and names, as `COLUMNS` asks."""
        found = [
            (each.table.oid, column)
            for each in self.relations
            for member in each.members
            for column in (member.live, member.shadow)
        ]
        return [
            [oid for oid, _ in found],
            [column.number for _, column in found],
            [column.name for _, column in found],
        ]

    @property
    def oids(self) -> list[int]:
        """The table and its partitions."""
        return [self.table.oid, *(each.oid for each in self.table.partitions)]

    @property
    def column_names(self) -> frozenset[str]:
        """The names of all columns of the table and its partitions."""
        return frozenset(name for each in self.relations for name in each.table.columns)

    def rename_steps(self, relation: sql.Identifier) -> list[Step]:
        """Build the exchange of the columns' names, by way of a third; member after member.

        Lock: ACCESS EXCLUSIVE on the relation.

        Arguments:
            relation: the table, or a copy of it.
        """
        return [
            Step(
                f"Rename {old} to {new}",
                sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
                    relation, sql.Identifier(old), sql.Identifier(new)
                ),
                Lock.ACCESS_EXCLUSIVE,
            )
            for each in self.replacement.group
            for between in [choose_name(self.column_names, each.live, each.shadow, "between")]
            for old, new in (
                (each.live, between),
                (each.shadow, each.live),
                (between, each.shadow),
            )
        ]

    @property
    def identifier(self) -> sql.Identifier:
        """The table's qualified name, to be composed into SQL."""
        return self.table.identifier

    @property
    def partitioned(self) -> bool:
        """Whether the rows are in partitions rather than here."""
        return self.table.kind == "p"

    def labelled(self, name: str) -> str:
        """Build the label of a name that is unique within its table only, for a person."""
        return name if self.table.parent is None else f"{name} on {self.table}"

    def reread(self, connection: BaseDatabaseWrapper) -> Pair:
        """Read the pair as the catalog has the columns now, with today's partitions.

        Raises:
            TryAgain: the table or either column is gone.
        """
        found = Pair.find(connection, self.replacement, self.identifier)
        if found is None:
            raise TryAgain(
                f"Another session has dropped {self.table} or one of its columns meanwhile; "
                f'nothing was changed here. "{self.replacement.command("status")}" shows what '
                "comes next."
            )
        return found

    def twin_name(self, name: str) -> str:
        """Build the name of an object's counterpart on the shadow columns."""
        return compose_name(name, self.replacement.shadow)

    def alter_table(
        self, what: str, action: sql.Composable, lock: Lock = Lock.ACCESS_EXCLUSIVE
    ) -> Step:
        """Build an ALTER TABLE of the table and, where the action is inherited, its partitions."""
        statement = sql.SQL("ALTER TABLE {} {}").format(self.identifier, action)
        return Step(what, statement, lock, self.identifier)

    def alter_only(self, what: str, action: sql.Composable) -> Step:
        """Build an ALTER TABLE of the table and of no partition. Lock: ACCESS EXCLUSIVE."""
        if not self.partitioned:
            return self.alter_table(what, action)
        statement = sql.SQL("ALTER TABLE ONLY {} {}").format(self.identifier, action)
        return Step(what, statement, Lock.ACCESS_EXCLUSIVE, self.identifier)

    def rename_constraint(self, old: str, new: str) -> Step:
        """Build RENAME CONSTRAINT. Lock: ACCESS EXCLUSIVE on the table and its partitions."""
        return self.alter_table(
            f"Rename {old} to {new}",
            sql.SQL("RENAME CONSTRAINT {} TO {}").format(sql.Identifier(old), sql.Identifier(new)),
        )

    def alter_column(self, what: str, column: str, action: sql.Composable) -> Step:
        """Build an ALTER COLUMN of the table and of no partition. Lock: ACCESS EXCLUSIVE."""
        return self.alter_only(
            what, sql.SQL("ALTER COLUMN {} {}").format(sql.Identifier(column), action)
        )


def spell_lives(members: Iterable[Member]) -> str:
    """Spell the names of the members' live columns, for a person."""
    return spell_names(each.replacement.live for each in members)


def spell_shadows(members: Iterable[Member]) -> str:
    """Spell the names of the members' shadow columns, for a person."""
    return spell_names(each.replacement.shadow for each in members)


def have_shadows(members: Iterable[Member]) -> sql.Composable:
    """Compose the condition that a row has a value in each of the members' shadow columns."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} IS NOT NULL").format(each.shadow.identifier) for each in members
    )


def refuse_overtaken(before: Pair, now: Pair) -> None:
    """Refuse to go on where another session has exchanged the columns.

    Raises:
        TryAgain: the columns stand the other way round by now.
    """
    if now.swapped is not before.swapped or find_divided(now.replacement, now.table) is not None:
        replacement = before.replacement
        raise TryAgain(
            f"Another session has exchanged the columns of {replacement.label} meanwhile; nothing "
            f'was exchanged here. "{replacement.command("status")}" shows what comes next.'
        )
