"""The replica identity of a relation, where an index of the column is chosen."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.swap.dependents.base import Dependent, DependentKind, Steps
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.pair import spell_lives


def read_replica_identities(reading: Reading) -> Iterator[Dependent]:
    """Yield the replica identity of each relation that has an index of the column for its identity.

    The columns of such an index must not be null: the identity is let go before NOT NULL changes
    columns, and set again afterwards.

    Lock: ACCESS EXCLUSIVE on the table or the partition.
    """
    for part in (each for family in reading.families for each in family):
        if not part.index.replica_identity:
            continue
        name, pair, members = part.index.name, part.pair, part.pair.members_on(part.index.on)
        # A part takes the original's name after the commit.
        then = name if part.above is None else part.twin_name
        yield Dependent(
            "replica identity",
            pair.labelled(name),
            f"on {spell_lives(members)}",
            frozenset(each.live.name for each in members),
            steps=Steps(
                before_rename=(
                    pair.alter_table(
                        f"Let {name} be the replica identity no longer",
                        sql.SQL("REPLICA IDENTITY DEFAULT"),
                    ),
                ),
                after_rename=(
                    pair.alter_table(
                        f"Let {then} be the replica identity",
                        sql.SQL("REPLICA IDENTITY USING INDEX {}").format(sql.Identifier(then)),
                    ),
                ),
            ),
        )


KIND = DependentKind(read_replica_identities)
