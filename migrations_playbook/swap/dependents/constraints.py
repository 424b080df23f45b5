"""CHECK constraints, NOT NULL, foreign keys: what the table demands of the column.

A CHECK gets a twin on the shadow column, added NOT VALID and then validated, and the two change
names in the exchange. NOT NULL needs no scan under the lock: a validated CHECK proves it.

On a partitioned table all of that is inherited: what is done to the table's own constraint is done
to the partitions' copies. What a partition demands beyond that is carried over there alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.names import compose_name
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import Dependent, Object, comment, how_bound
from migrations_playbook.swap.pair import COLUMNS, Pair


@dataclass(frozen=True)
class Constraint:
    """A constraint of the table, other than those that stand on an index.

    Arguments:
        type: `contype`: "c" a CHECK, "n" a NOT NULL (PostgreSQL 18), "f" a foreign key.
        on: which of the two columns it is bound to.
        definition: as pg_get_constraintdef writes it.
        relation: the table or partition that it belongs to: another table, for a foreign key to the
            column.
        where: the name of that.
        parent: the foreign key that it is a partition's copy of.
        inherited: whether it is a partition's copy of a CHECK or NOT NULL.
        local: whether it was declared where it is.
        incoming: whether it is a foreign key that refers to one of the columns.
        older: whether it is older than the swap that is to be reverted.
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
    older: bool

    @property
    def covers(self) -> frozenset[Object]:
        return frozenset({("pg_constraint", self.oid)})


def read(connection: BaseDatabaseWrapper, pair: Pair, since: str | None) -> list[Constraint]:
    """The constraints that are bound to either column; by name.

    Arguments:
        since: the transaction of the swap, if the columns are exchanged.
    """
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
                   bound.incoming,
                   coalesce(age(k.xmin) > age(%s::xid), false)
              FROM pg_catalog.pg_constraint k JOIN bound ON bound.oid = k.oid
             ORDER BY k.conname, k.conrelid""").format(columns=COLUMNS),
        [*pair.columns, since],
    )
    # One without a definition was dropped by another process while the query ran.
    return [Constraint(*row) for row in rows if row[4] is not None]


def checks(pair: Pair, found: list[Constraint]) -> list[Constraint]:
    """The CHECKs on the live column that are to be restated: no twin, and none of the engine's."""
    return [check for each in pair.relations for check in _checks_of(each, _own(each, found))]


def _own(pair: Pair, found: list[Constraint]) -> list[Constraint]:
    """The CHECKs of one relation, without those that it has inherited."""
    return [
        each
        for each in found
        if each.relation == pair.table.oid and each.type == "c" and not each.inherited
    ]


def _checks_of(pair: Pair, own: list[Constraint]) -> list[Constraint]:
    on_live = [each for each in own if pair.replacement.live in each.on]
    on_live = [each for each in on_live if each.name != pair.not_null_check]
    twins = {pair.twin_name(each.name) for each in on_live}
    names = {each.name for each in own}
    # As with indexes: what is older than the swap and has no twin was the shadow column's.
    return [
        each
        for each in on_live
        if each.name not in twins and (pair.twin_name(each.name) in names or not each.older)
    ]


def dependents(
    pair: Pair, found: list[Constraint], definitions: dict[int, str], failures: dict[int, str]
) -> Iterator[Dependent]:
    """What the swap does about each constraint; NOT NULL apart."""
    for each in pair.relations:
        yield from _of_relation(each, found, definitions, failures)
    foreign = {each.oid: each for each in found if each.type == "f"}
    covers: dict[int, frozenset[Object]] = {}
    for key in foreign.values():
        whole = key
        while whole.parent in foreign:
            whole = foreign[whole.parent]
        covers[whole.oid] = covers.get(whole.oid, frozenset()) | key.covers
    for oid, covered in covers.items():
        key = foreign[oid]
        yield Dependent(
            "foreign key", f"{key.name} on {key.where}", how_bound(pair, key.on), covered,
            refused=_foreign_key(key),
        )  # fmt: skip


def _of_relation(
    pair: Pair, found: list[Constraint], definitions: dict[int, str], failures: dict[int, str]
) -> Iterator[Dependent]:
    own = _own(pair, found)
    by_name = {each.name: each for each in own}
    done = {pair.not_null_check}
    for each in _checks_of(pair, own):
        twin = by_name.get(pair.twin_name(each.name))
        done |= {each.name, pair.twin_name(each.name)}
        copies = _copies(each, found)
        covers = each.covers
        for one in (*copies, *([twin, *_copies(twin, found)] if twin else [])):
            covers |= one.covers
        label, how = pair.labelled(each.name), how_bound(pair, each.on)
        if each.oid in failures:
            yield Dependent("check", label, how, covers, refused=failures[each.oid])
            continue
        name = sql.Identifier(pair.twin_name(each.name))
        yield Dependent(
            "check",
            label,
            how,
            covers,
            prove=tuple(_prove(pair, each, twin, definitions[each.oid])),
            undo=(
                pair.alter_table(
                    f"Drop {pair.twin_name(each.name)}, which fresh values do not pass",
                    sql.SQL("DROP CONSTRAINT IF EXISTS {}").format(name),
                ),
            ),
            give=tuple(_exchange(pair, each, copies)),
        )
    for each in own:
        if each.name not in done:
            covers = each.covers
            for one in _copies(each, found):
                covers |= one.covers
            label, how = pair.labelled(each.name), how_bound(pair, each.on)
            yield Dependent("check", label, how, covers, moves=False)


def _copies(check: Constraint, found: list[Constraint]) -> list[Constraint]:
    """What partitions have inherited of a CHECK: always under the same name."""
    return [each for each in found if each.inherited and each.name == check.name]


def _foreign_key(each: Constraint) -> str:
    if each.incoming:
        return (
            "the rows that refer to the column hold leaked values, which a rename cannot change; "
            "let them refer to the primary key first"
        )
    return "fresh values refer to no row of the other table; drop the foreign key first"


def _prove(
    pair: Pair, each: Constraint, twin: Constraint | None, definition: str
) -> Iterator[Step]:
    name = sql.Identifier(pair.twin_name(each.name))
    plain = definition.removesuffix(" NOT VALID")
    if twin is not None and twin.definition.removesuffix(" NOT VALID") != plain:
        yield pair.alter_table(
            f"Drop {twin.name}, which is not like its original",
            sql.SQL("DROP CONSTRAINT {}").format(name),
        )
        twin = None
    if twin is None:
        yield pair.alter_table(
            f"Check of {pair.replacement.shadow} what {each.name} checks of "
            f"{pair.replacement.live}",
            sql.SQL("ADD CONSTRAINT {} {} NOT VALID").format(name, sql.SQL(plain)),
        )
    if each.validated and not (twin is not None and twin.validated):
        yield pair.alter_table(
            f"Prove that every row passes {pair.twin_name(each.name)}",
            sql.SQL("VALIDATE CONSTRAINT {}").format(name),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def _exchange(pair: Pair, each: Constraint, copies: list[Constraint]) -> Iterator[Step]:
    twin, between = pair.twin_name(each.name), compose_name(each.name, "between")
    yield pair.rename_constraint(each.name, between)
    yield pair.rename_constraint(twin, each.name)
    yield pair.rename_constraint(between, twin)
    for one, on in _where(pair, [each, *copies]):
        yield from comment(
            each.name,
            sql.SQL("CONSTRAINT {} ON {}").format(sql.Identifier(each.name), on.identifier),
            one.comment,
        )
    if pair.revert:
        yield pair.alter_table(
            f"Drop {twin}, which the swap had added",
            sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(twin)),
        )


def _where(pair: Pair, found: list[Constraint]) -> Iterator[tuple[Constraint, Pair]]:
    """Constraints, each with the pair of the relation that it belongs to."""
    relations = {each.table.oid: each for each in pair.relations}
    return ((each, relations[each.relation]) for each in found if each.relation in relations)


def not_null(pair: Pair, found: list[Constraint]) -> Iterator[Dependent]:
    """NOT NULL: the table's, with which the partitions have theirs, or a partition's own."""
    parents = {each.table.oid: each for each in pair.relations}
    covered: set[Object] = set()
    for each in pair.relations:
        above = parents.get(each.table.parent or 0)
        if not each.live.not_null or each.shadow.not_null or (above and above.live.not_null):
            continue
        tree = [each, *_below(each, pair)]
        oids = {one.table.oid for one in tree}
        mine = [one for one in found if one.relation in oids]
        named = [one for one in mine if one.type == "n"]
        checks = [one for one in mine if one.name == each.not_null_check]
        covers = frozenset(object_ for one in (*named, *checks) for object_ in one.covers)
        covered |= covers
        yield Dependent(
            "not null",
            each.labelled(pair.replacement.live),
            f"on {pair.replacement.live}",
            covers,
            prove=tuple(_prove_not_null(each, checks)),
            give=tuple(_exchange_not_null(each, tree, named)),
        )
    left = {
        object_
        for each in found
        if each.type == "n" or each.name == pair.not_null_check
        for object_ in each.covers
    } - covered
    if left:
        yield Dependent(
            "not null", pair.replacement.live, "on both columns", frozenset(left), moves=False
        )


def _below(each: Pair, pair: Pair) -> list[Pair]:
    """The partitions of a partition, on all levels; the upper levels first."""
    oids, below = {each.table.oid}, []
    for one in pair.relations:
        if one.table.parent in oids:
            oids.add(one.table.oid)
            below.append(one)
    return below


def _prove_not_null(pair: Pair, checks: list[Constraint]) -> Iterator[Step]:
    check = next((each for each in checks if each.relation == pair.table.oid), None)
    if check is None:
        yield pair.alter_table(
            f"Require {pair.replacement.shadow} to be not null from now on",
            sql.SQL("ADD CONSTRAINT {} CHECK ({} IS NOT NULL) NOT VALID").format(
                sql.Identifier(pair.not_null_check), sql.Identifier(pair.replacement.shadow)
            ),
        )
    if check is None or not check.validated:
        yield pair.alter_table(
            f"Prove that no row's {pair.replacement.shadow} is null",
            sql.SQL("VALIDATE CONSTRAINT {}").format(sql.Identifier(pair.not_null_check)),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def _exchange_not_null(pair: Pair, tree: list[Pair], named: list[Constraint]) -> Iterator[Step]:
    """Let the retired column be null, and the new live column not; a CHECK has proven that.

    In PostgreSQL 18 the constraints have names, and a partition's may be another than the table's,
    or its own besides: then each loses its own, and is given it again before it would inherit one.
    """
    live, shadow = sql.Identifier(pair.replacement.live), sql.Identifier(pair.replacement.shadow)
    own = {each.relation: each for each in named if pair.replacement.live in each.on}
    differ = len({each.name for each in own.values()}) > 1 or any(
        each.local for each in own.values() if each.relation != pair.table.oid
    )
    for each in tree if differ else [pair]:
        yield each.alter_table(
            f"Let {each.labelled(pair.replacement.shadow)} be null",
            sql.SQL("ALTER COLUMN {} DROP NOT NULL").format(shadow),
        )
    for each in reversed(tree) if differ else [pair]:
        column = each.labelled(pair.replacement.live)
        what = f"Require {column} to be not null, which the CHECK has proven"
        constraint = own.get(each.table.oid)
        if constraint is None:
            action = sql.SQL("ALTER COLUMN {} SET NOT NULL").format(live)
        else:
            action = sql.SQL("ADD CONSTRAINT {} NOT NULL {}{}").format(
                sql.Identifier(constraint.name),
                live,
                sql.SQL(" NO INHERIT" if constraint.definition.endswith(" NO INHERIT") else ""),
            )
        yield each.alter_table(what, action)
    for each in tree:
        constraint = own.get(each.table.oid)
        if constraint is not None:
            name = sql.Identifier(constraint.name)
            yield from comment(
                constraint.name,
                sql.SQL("CONSTRAINT {} ON {}").format(name, each.identifier),
                constraint.comment,
            )
    yield pair.alter_table(
        "Drop the CHECK that has served",
        sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(pair.not_null_check)),
    )
