"""CHECK constraints, NOT NULL, foreign keys: what the table demands of the column.

A CHECK gets a twin on the shadow column, added NOT VALID and then validated, and the two change
names in the exchange. NOT NULL needs no scan under the lock: a validated CHECK proves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.database import fetch_all, name_of
from migrations_playbook.dependents.base import Dependent, Object, Pair, comment, how_bound
from migrations_playbook.steps import Lock, Step


@dataclass(frozen=True)
class Constraint:
    """A constraint of the table, other than those that stand on an index.

    Arguments:
        type: `contype`: "c" a CHECK, "n" a NOT NULL (PostgreSQL 18), "f" a foreign key.
        numbers: the attribute numbers of the two columns that it is bound to.
        definition: as pg_get_constraintdef writes it.
        where: the table that it belongs to: another one, for a foreign key to the column.
        incoming: whether it is a foreign key that refers to one of the columns.
        older: whether it is older than the swap that is to be reverted.
    """

    oid: int
    name: str
    type: str
    numbers: list[int]
    definition: str
    validated: bool
    comment: str | None
    where: str
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
            SELECT k.oid, k.conname, k.contype::text,
                   ARRAY(SELECT a.number FROM unnest(%s::int2[]) AS a (number)
                          WHERE k.conrelid = %s AND a.number = ANY (k.conkey)
                             OR k.confrelid = %s AND a.number = ANY (k.confkey)),
                   pg_catalog.pg_get_constraintdef(k.oid), k.convalidated,
                   pg_catalog.obj_description(k.oid, 'pg_constraint'), k.conrelid::regclass::text,
                   k.confrelid = %s AND k.confkey && %s::int2[],
                   coalesce(age(k.xmin) > age(%s::xid), false)
              FROM pg_catalog.pg_constraint k
             WHERE k.contype IN ('c', 'n', 'f')
               AND (k.conrelid = %s AND k.conkey && %s::int2[]
                    OR k.confrelid = %s AND k.confkey && %s::int2[])
             ORDER BY k.conname"""),
        [
            pair.numbers,
            pair.found.oid,
            *[pair.found.oid, pair.found.oid, pair.numbers, since, pair.found.oid, pair.numbers],
            *[pair.found.oid, pair.numbers],
        ],
    )
    # One without a definition was dropped by another process while the query ran.
    return [Constraint(*row) for row in rows if row[4] is not None]


def checks(pair: Pair, found: list[Constraint]) -> list[Constraint]:
    """The CHECKs on the live column that are to be restated: no twin, and none of the engine's."""
    on_live = [
        each
        for each in found
        if each.type == "c"
        and pair.live.number in each.numbers
        and each.name != pair.not_null_check
    ]
    twins = {pair.twin_name(each.name) for each in on_live}
    names = {each.name for each in found}
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
    restated = checks(pair, found)
    by_name = {each.name: each for each in found if each.type == "c"}
    done = {pair.not_null_check}
    for each in restated:
        twin = by_name.get(pair.twin_name(each.name))
        done |= {each.name, pair.twin_name(each.name)}
        covers = each.covers | (twin.covers if twin else frozenset())
        how = how_bound(pair, each.numbers)
        if each.oid in failures:
            yield Dependent("check", each.name, how, covers, refused=failures[each.oid])
            continue
        yield Dependent(
            "check",
            each.name,
            how,
            covers,
            prove=tuple(_prove(pair, each, twin, definitions[each.oid])),
            give=tuple(_exchange(pair, each)),
        )
    for each in found:
        how = how_bound(pair, each.numbers)
        if each.type == "f":
            yield Dependent(
                "foreign key", f"{each.name} on {each.where}", how, each.covers,
                refused=_foreign_key(each),
            )  # fmt: skip
        elif each.type == "c" and each.name not in done:
            yield Dependent("check", each.name, how, each.covers, moves=False)


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
            f"Check of {pair.bound.shadow} what {each.name} checks of {pair.bound.live}",
            sql.SQL("ADD CONSTRAINT {} {} NOT VALID").format(name, sql.SQL(plain)),
        )
    if each.validated and not (twin is not None and twin.validated):
        yield pair.alter_table(
            f"Prove that every row passes {pair.twin_name(each.name)}",
            sql.SQL("VALIDATE CONSTRAINT {}").format(name),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def _rename(pair: Pair, old: str, new: str) -> Step:
    return pair.alter_table(
        f"Rename {old} to {new}",
        sql.SQL("RENAME CONSTRAINT {} TO {}").format(sql.Identifier(old), sql.Identifier(new)),
    )


def _exchange(pair: Pair, each: Constraint) -> Iterator[Step]:
    twin, between = pair.twin_name(each.name), name_of(each.name, "between")
    yield _rename(pair, each.name, between)
    yield _rename(pair, twin, each.name)
    yield _rename(pair, between, twin)
    yield from comment(
        each.name,
        sql.SQL("CONSTRAINT {} ON {}").format(sql.Identifier(each.name), pair.table),
        each.comment,
    )
    if pair.revert:
        yield pair.alter_table(
            f"Drop {twin}, which the swap had added",
            sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(twin)),
        )


def not_null(
    pair: Pair, found: list[Constraint], replica_identity: str | None
) -> Iterator[Dependent]:
    """NOT NULL, and the replica identity, whose columns must not be null.

    Arguments:
        replica_identity: the name of the index that is the replica identity, if it is on the live
            column.
    """
    named = {
        number: each for each in found if each.type == "n" for number in each.numbers
    }  # PostgreSQL 18 has NOT NULL in pg_constraint, and a name for each
    covers = frozenset(object_ for each in named.values() for object_ in each.covers)
    check = next((each for each in found if each.name == pair.not_null_check), None)
    if check is not None:
        covers |= check.covers
    if not pair.live.not_null or pair.shadow.not_null:
        give = tuple(_replica_identity(pair, replica_identity))
        if covers or give:
            yield Dependent(
                "not null", pair.bound.live, "on both columns", covers, give=give, moves=bool(give)
            )
        return
    prove: list[Step] = []
    if check is None:
        prove.append(
            pair.alter_table(
                f"Require {pair.bound.shadow} to be not null from now on",
                sql.SQL("ADD CONSTRAINT {} CHECK ({} IS NOT NULL) NOT VALID").format(
                    sql.Identifier(pair.not_null_check), sql.Identifier(pair.bound.shadow)
                ),
            )
        )
    if check is None or not check.validated:
        prove.append(
            pair.alter_table(
                f"Prove that no row's {pair.bound.shadow} is null",
                sql.SQL("VALIDATE CONSTRAINT {}").format(sql.Identifier(pair.not_null_check)),
                Lock.SHARE_UPDATE_EXCLUSIVE,
            )
        )
    yield Dependent(
        "not null",
        pair.bound.live,
        f"on {pair.bound.live}",
        covers,
        prove=tuple(prove),
        give=tuple(_exchange_not_null(pair, named.get(pair.live.number), replica_identity)),
    )


def _exchange_not_null(
    pair: Pair, named: Constraint | None, replica_identity: str | None
) -> Iterator[Step]:
    what = f"Require {pair.bound.live} to be not null, which the CHECK has proven"
    if named is not None:
        # A name is taken while the retired column's constraint has it.
        yield _rename(pair, named.name, name_of(named.name, "between"))
        yield pair.alter_table(
            what,
            sql.SQL("ADD CONSTRAINT {} NOT NULL {}{}").format(
                sql.Identifier(named.name),
                sql.Identifier(pair.bound.live),
                sql.SQL(" NO INHERIT" if named.definition.endswith(" NO INHERIT") else ""),
            ),
        )
        yield from comment(
            named.name,
            sql.SQL("CONSTRAINT {} ON {}").format(sql.Identifier(named.name), pair.table),
            named.comment,
        )
    else:
        yield pair.alter_column(what, pair.bound.live, sql.SQL("SET NOT NULL"))
    yield from _replica_identity(pair, replica_identity)
    yield pair.alter_column(
        f"Let {pair.bound.shadow} be null", pair.bound.shadow, sql.SQL("DROP NOT NULL")
    )
    yield pair.alter_table(
        "Drop the CHECK that has served",
        sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(pair.not_null_check)),
    )


def _replica_identity(pair: Pair, index: str | None) -> Iterator[Step]:
    # Before the retired column loses its NOT NULL, which its index still needs until then.
    if index is not None:
        yield pair.alter_table(
            f"Let {index} be the replica identity",
            sql.SQL("REPLICA IDENTITY USING INDEX {}").format(sql.Identifier(index)),
        )
