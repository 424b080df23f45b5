"""CHECK constraints: the table's demands on a value.

A CHECK gets a twin on the shadow column, added NOT VALID and then validated, and the two change
names in the exchange. On a partitioned table a CHECK is inherited: a change of the table's own
CHECK reaches the partitions' copies. A CHECK of a partition's own is carried over there alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from psycopg import sql

from migrations_playbook.postgres.names import compose_name
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    comment_steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.definitions.constraints import (
    Constraint,
    own_checks,
    restatable_checks,
)
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.dependents.definitions.restate import Definitions
from migrations_playbook.swap.pair import Object, Pair, have_shadows, spell_lives, spell_shadows


def read_checks(reading: Reading) -> Iterator[Dependent]:
    """Yield the CHECKs of the table and of each partition; NOT NULL is a kind apart."""
    for pair in reading.pair.relations:
        yield from _of_relation(reading, pair)


def _of_relation(reading: Reading, pair: Pair) -> Iterator[Dependent]:
    found, restated = reading.constraints, reading.definitions
    own = own_checks(pair, found)
    by_name = {each.name: each for each in own}
    done = {*pair.not_null_checks}
    for check in restatable_checks(pair, own, reading.staying):
        twin = by_name.get(pair.twin_name(check.name))
        done |= {check.name, pair.twin_name(check.name)}
        copies = _copies(check, found)
        twins = [twin, *_copies(twin, found)] if twin else []
        each = _dependent(pair, check, [*copies, *twins])
        if check.oid in restated.failures:
            yield replace(each, refused=restated.failures[check.oid])
            continue
        yield replace(
            each,
            steps=Steps(
                trial=tuple(_try_values(pair, check, twin, restated.constraints[check.oid])),
                prove=tuple(_prove(pair, check, twin, restated)),
                undo=(_drop_twin(pair, check, "which fresh values do not pass"),),
                after_rename=tuple(_exchange(pair, check, copies)),
            ),
        )
    for check in own:
        if check.name not in done:
            yield _dependent(pair, check, _copies(check, found))


def _dependent(pair: Pair, check: Constraint, others: list[Constraint]) -> Dependent:
    covers: frozenset[Object] = frozenset().union(*(one.covers for one in (check, *others)))
    how = describe_columns(pair, check.on)
    return Dependent("check", pair.labelled(check.name), how, frozenset(check.on), covers)


def _copies(check: Constraint, found: list[Constraint]) -> list[Constraint]:
    """Yield the copies of a CHECK that partitions have inherited: always under the same name."""
    return [each for each in found if each.inherited and each.name == check.name]


def _prove(
    pair: Pair, each: Constraint, twin: Constraint | None, restated: Definitions
) -> Iterator[Step]:
    name, members = sql.Identifier(pair.twin_name(each.name)), pair.members_on(each.on)
    plain = _plain(restated.constraints[each.oid])
    # The other way round: an original that a revert returns to.
    if twin is not None and not (
        _plain(twin.definition) == plain
        or _plain(restated.constraints.get(twin.oid, "")) == _plain(each.definition)
    ):
        yield pair.alter_table(
            f"Drop {twin.name}, which is not like its original",
            sql.SQL("DROP CONSTRAINT {}").format(name),
        )
        twin = None
    if twin is None:
        yield pair.alter_table(
            f"Check of {spell_shadows(members)} what {each.name} checks of {spell_lives(members)}",
            sql.SQL("ADD CONSTRAINT {} {}{}").format(
                name, sql.SQL(plain), sql.SQL(" NOT VALID" if each.enforced else "")
            ),
        )
    if each.validated and not (twin is not None and twin.validated):
        proof = pair.alter_table(
            f"Prove that every row passes {pair.twin_name(each.name)}",
            sql.SQL("VALIDATE CONSTRAINT {}").format(name),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )
        yield replace(proof, as_session=True)


def _plain(definition: str) -> str:
    return definition.removesuffix(" NOT VALID")


def _try_values(
    pair: Pair, each: Constraint, twin: Constraint | None, definition: str
) -> Iterator[Step]:
    """Look for a fresh value that fails, before a twin could make the site's writes fail."""
    if twin is not None or not each.enforced:
        return
    expression = _plain(definition).removesuffix(" NO INHERIT")
    members = pair.members_on(each.on)
    yield Step(
        f"Try the values of {spell_shadows(members)} against {each.name}",
        sql.SQL("SELECT FROM {} WHERE {} AND NOT coalesce({}, true) LIMIT 1").format(
            pair.identifier,
            have_shadows(members),
            sql.SQL(expression.removeprefix("CHECK ")),
        ),
        Lock.NONE,
    )


def _drop_twin(pair: Pair, check: Constraint, why: str) -> Step:
    name = pair.twin_name(check.name)
    return pair.alter_table(
        f"Drop {name}, {why}",
        sql.SQL("DROP CONSTRAINT IF EXISTS {}").format(sql.Identifier(name)),
    )


def _exchange(pair: Pair, each: Constraint, copies: list[Constraint]) -> Iterator[Step]:
    twin, between = pair.twin_name(each.name), compose_name(each.name, "between")
    yield pair.rename_constraint(each.name, between)
    yield pair.rename_constraint(twin, each.name)
    yield pair.rename_constraint(between, twin)
    for one, on in _where(pair, [each, *copies]):
        yield from comment_steps(
            each.name,
            sql.SQL("CONSTRAINT {} ON {}").format(sql.Identifier(each.name), on.identifier),
            one.comment,
        )
    if pair.swapped:
        yield pair.alter_table(
            f"Drop {twin}, which the swap had added",
            sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(twin)),
        )


def _where(pair: Pair, found: list[Constraint]) -> Iterator[tuple[Constraint, Pair]]:
    """Pair each constraint with the columns of its relation."""
    relations = {each.table.oid: each for each in pair.relations}
    return ((each, relations[each.relation]) for each in found if each.relation in relations)


KIND = DependentKind(
    read_checks,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'constraint', oid, xmin) FROM pg_catalog.pg_constraint
         WHERE conrelid IN (SELECT oid FROM relation)
            OR confrelid IN (SELECT oid FROM relation)"""),
)
