"""NOT NULL: a validated CHECK is the proof, so the exchange needs no scan under the lock."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.postgres.tables import Column
from migrations_playbook.swap.dependents.base import Dependent, DependentKind, Steps, comment_steps
from migrations_playbook.swap.dependents.definitions.constraints import Constraint
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.pair import Member, Object, Pair


def read_not_null(reading: Reading) -> Iterator[Dependent]:
    """Yield NOT NULL: the table's, with which the partitions have theirs, or a partition's own."""
    for member in reading.pair.members:
        yield from _of_member(reading, member)


def _of_member(reading: Reading, member: Member) -> Iterator[Dependent]:
    pair, live, shadow = reading.pair, member.live.name, member.shadow.name
    found = [
        each
        for each in reading.constraints
        if each.name == member.not_null_check
        or (each.type == "n" and not {live, shadow}.isdisjoint(each.on))
    ]
    tables = {each.table.oid: each.table for each in pair.relations}
    covered: set[Object] = set()
    for each in pair.relations:
        columns, above = each.table.columns, tables.get(each.table.parent or 0)
        if not columns[live].not_null or columns[shadow].not_null:
            continue
        if above and above.columns[live].not_null:
            continue
        tree = [each, *_below(each, pair)]
        oids = {one.table.oid for one in tree}
        mine = [one for one in found if one.relation in oids]
        named = [one for one in mine if one.type == "n"]
        checks = [one for one in mine if one.name == member.not_null_check]
        covers = frozenset(object_ for one in (*named, *checks) for object_ in one.covers)
        covered |= covers
        yield Dependent(
            "not null",
            each.labelled(live),
            f"on {live}",
            frozenset({live}),
            covers,
            steps=Steps(
                prove=tuple(_prove(each, member, checks)),
                after_rename=tuple(_exchange(member, tree, named)),
            ),
        )
    left = {object_ for each in found for object_ in each.covers} - covered
    if left:
        yield Dependent(
            "not null", live, "on both columns", frozenset({live, shadow}), frozenset(left)
        )


def _below(each: Pair, pair: Pair) -> list[Pair]:
    """List the partitions of a partition, on all levels; the upper levels first."""
    oids, below = {each.table.oid}, []
    for one in pair.relations:
        if one.table.parent in oids:
            oids.add(one.table.oid)
            below.append(one)
    return below


def _prove(pair: Pair, member: Member, checks: list[Constraint]) -> Iterator[Step]:
    check_name, shadow = sql.Identifier(member.not_null_check), member.shadow
    check = next((each for each in checks if each.relation == pair.table.oid), None)
    if check is None:
        yield pair.alter_table(
            f"Require {shadow.name} to be not null from now on",
            sql.SQL("ADD CONSTRAINT {} CHECK ({} IS NOT NULL) NOT VALID").format(
                check_name, shadow.identifier
            ),
        )
    if check is None or not check.validated:
        yield pair.alter_table(
            f"Prove that no row's {shadow.name} is null",
            sql.SQL("VALIDATE CONSTRAINT {}").format(check_name),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def _exchange(member: Member, tree: list[Pair], named: list[Constraint]) -> Iterator[Step]:
    """Let the retired column be null, and the new live column not; a CHECK is the proof.

    In PostgreSQL 18 the constraints have names, and a partition may have others or more than the
    table. Then each loses its own, and gets the constraint again before inheriting the table's.
    """
    pair, live, shadow = tree[0], member.live, member.shadow
    own = {each.relation: each for each in named if live.name in each.on}
    differ = len({each.name for each in own.values()}) > 1 or any(
        each.local for each in own.values() if each.relation != pair.table.oid
    )
    nullable = sql.SQL("ALTER COLUMN {} DROP NOT NULL").format(shadow.identifier)
    if not differ:
        # One statement goes through the partitions once.
        yield pair.alter_table(
            f"Let {pair.labelled(shadow.name)} be null, and require "
            f"{pair.labelled(live.name)} to be not null, which the CHECK has proven",
            sql.SQL("{}, {}").format(nullable, _require(live, own.get(pair.table.oid))),
        )
    for each in tree if differ else ():
        yield each.alter_table(f"Let {each.labelled(shadow.name)} be null", nullable)
    for each in reversed(tree) if differ else ():
        yield each.alter_table(
            f"Require {each.labelled(live.name)} to be not null, which the CHECK has proven",
            _require(live, own.get(each.table.oid)),
        )
    for each in tree:
        constraint = own.get(each.table.oid)
        if constraint is not None:
            name = sql.Identifier(constraint.name)
            yield from comment_steps(
                constraint.name,
                sql.SQL("CONSTRAINT {} ON {}").format(name, each.identifier),
                constraint.comment,
            )
    yield pair.alter_table(
        "Drop the CHECK that has served",
        sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(member.not_null_check)),
    )


def _require(column: Column, constraint: Constraint | None) -> sql.Composed:
    """Build the action for a NOT NULL, by the constraint's name where there is one."""
    if constraint is None:
        return sql.SQL("ALTER COLUMN {} SET NOT NULL").format(column.identifier)
    return sql.SQL("ADD CONSTRAINT {} NOT NULL {}{}").format(
        sql.Identifier(constraint.name),
        column.identifier,
        sql.SQL(" NO INHERIT" if constraint.definition.endswith(" NO INHERIT") else ""),
    )


KIND = DependentKind(read_not_null)
