"""How twins and originals change names, and how a twin is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from psycopg import sql

from migrations_playbook.postgres.names import compose_name
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import comment_steps
from migrations_playbook.swap.dependents.definitions.indexes import Family, Index, Part


def exchange_names(part: Part) -> Iterator[Step]:
    """Give the twin, or its constraint, the name of the original, and the original the twin's.

    Lock: ACCESS EXCLUSIVE, on the index or the constraint's table.
    """
    pair, index, twin_name = part.pair, part.index, part.twin_name
    between = compose_name(index.name, "between")
    is_constraint = index.constraint is not None

    def rename(old: str, new: str) -> Step:
        """Build the statement to rename an index or its constraint."""
        if is_constraint:
            return pair.rename_constraint(old, new)
        return Step(
            f"Rename {old} to {new}",
            sql.SQL("ALTER INDEX {} RENAME TO {}").format(
                sql.Identifier(pair.table.schema, old), sql.Identifier(new)
            ),
            Lock.ACCESS_EXCLUSIVE,
        )

    yield rename(index.name, between)
    if (
        is_constraint
        and not pair.partitioned
        and not (part.twin and part.twin.constraint is not None)
    ):
        yield make_constraint(part, index.name, twin_name)
    else:
        yield rename(twin_name, index.name)
    yield rename(between, twin_name)
    yield from _comments(part)
    yield from cluster_on(part, index.name)


def cluster_on(part: Part, name: str) -> Iterator[Step]:
    """Cluster on the twin, if the relation is clustered on the original.

    Arguments:
        name: the twin's name by then.
    """
    if part.index.clustered:
        yield part.pair.alter_table(
            f"Cluster on {name}", sql.SQL("CLUSTER ON {}").format(sql.Identifier(name))
        )


def _comments(part: Part) -> Iterator[Step]:
    """Keep the comments of an index and its constraint. Lock: SHARE UPDATE EXCLUSIVE."""
    index, pair = part.index, part.pair
    identifier = sql.Identifier(pair.table.schema, index.name)
    yield from comment_steps(index.name, sql.SQL("INDEX {}").format(identifier), index.comment)
    yield from comment_steps(
        index.name,
        sql.SQL("CONSTRAINT {} ON {}").format(sql.Identifier(index.name), pair.identifier),
        index.constraint_comment,
    )


def exchange_part_names(part: Part) -> Step:
    """Exchange the names of a partition's two indexes: they mean nothing to a query.

    So a swap does it after its commit, and a revert before its lock. An index's constraint is
    renamed with the index.

    Lock: SHARE UPDATE EXCLUSIVE on the indexes.

    Arguments:
        part: the index with the name that the other one is to have.
    """
    index, twin, schema = part.index, part.twin_name, part.pair.table.schema
    between = compose_name(index.name, "between")
    renames = ((index.name, between), (twin, index.name), (between, twin))
    return Step(
        f"Exchange the names of {index.name} and {twin}",
        # One string is one transaction.
        sql.SQL(";\n").join(
            [
                *(
                    sql.SQL("ALTER INDEX {} RENAME TO {}").format(
                        sql.Identifier(schema, old), sql.Identifier(new)
                    )
                    for old, new in renames
                ),
                *(step.statement for step in _comments(part)),
            ]
        ),
        Lock.NONE,
    )


def exchange_left_names(family: Family) -> Iterator[Step]:
    """Yield the exchanges of names that an interrupted swap has left undone.

    Each twin is the live column's index by then, and has its own name still.
    """
    for part in family[1:]:
        live, retired = part.index, part.twin
        if retired is not None and live.name == part.pair.twin_name(retired.name):
            yield exchange_part_names(replace(part, index=retired, twin=live))


def return_names(family: Family) -> Iterator[Step]:
    """Yield the exchanges of names that a revert needs before its lock; none when they are done."""
    for part in family[1:]:
        if part.twin_name == part.pair.twin_name(part.index.name):
            yield exchange_part_names(part)


def drop_twins(family: Family) -> Iterator[Step]:
    """Drop the swap's twins, at the end of a revert. Lock: ACCESS EXCLUSIVE."""
    # By then the two have changed names, and the twin's kind is the original's.
    root = replace(family[0], twin=None)
    yield drop_twin(root, "Drop {}, which the swap had built", family=family)


def make_constraint(part: Part, name: str, index: str) -> Step:
    """Build the step to make an index a constraint. Lock: ACCESS EXCLUSIVE on the table."""
    return part.pair.alter_table(
        f"Make the new index the constraint {name}",
        sql.SQL("ADD CONSTRAINT {} UNIQUE USING INDEX {}{}").format(
            sql.Identifier(name), sql.Identifier(index), deferrable_clause(part.index)
        ),
    )


def drop_twin(part: Part, what: str, *, family: Family = ()) -> Step:
    """Drop a twin, with its parts. Lock: ACCESS EXCLUSIVE on the table and its partitions."""
    name = part.pair.twin_name(part.index.name)
    if (part.twin or part.index).constraint is not None:
        return part.pair.alter_table(
            what.format(name), sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(name))
        )
    # A part may be a partition's constraint, which DROP INDEX drops only when told to. Nothing else
    # depends on it: a foreign key to the column is refused.
    cascade = any(each.index.constraint is not None for each in family)
    return Step(
        what.format(name),
        sql.SQL("DROP INDEX {}{}").format(
            sql.Identifier(part.pair.table.schema, name), sql.SQL(" CASCADE" if cascade else "")
        ),
        Lock.ACCESS_EXCLUSIVE,
        part.pair.identifier,
    )


def deferrable_clause(index: Index) -> sql.Composed:
    """Build the clause of a constraint that is checked at the end of a transaction."""
    return sql.SQL("{}{}").format(
        sql.SQL(" DEFERRABLE" if index.deferrable else ""),
        sql.SQL(" INITIALLY DEFERRED" if index.deferred else ""),
    )
