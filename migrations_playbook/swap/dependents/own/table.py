"""The table's own kind, and the rights of the role, as a sound exchange needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from django.db.backends.base.base import BaseDatabaseWrapper

from migrations_playbook.expand.soundness import unsound
from migrations_playbook.postgres.roles import current_role, find_missing_grants
from migrations_playbook.postgres.server import lock_room, read_standbys
from migrations_playbook.swap.dependents.base import Dependent, DependentKind
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.pair import Pair

STANDBY = (
    "it replays the exchange's lock: a query there that reads the table for longer than its "
    "max_standby_streaming_delay is cancelled"
)
# What the questions of the exchange's own transaction keep of catalogs and their indexes: 75 were
# seen. PostgreSQL before 18 has all but 16 of them in the shared memory.
CATALOG_LOCKS = 80


def read_table_itself(reading: Reading) -> Iterator[Dependent]:
    """Yield the table's own obstacles to an exchange, and the rights that the role lacks.

    Lock: none that conflicts with anything.
    """
    yield from read_obstacles(reading.connection, reading.pair)
    yield from describe_grants(reading.connection, reading.missing_grants)
    yield from find_lock_shortage(reading)
    for name in read_standbys(reading.connection):
        yield Dependent("standby", name, STANDBY)


def read_obstacles(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """Yield why a table of this kind cannot be exchanged."""
    reasons = (unsound(connection, pair.identifier, each.live.name) for each in pair.members)
    for why in dict.fromkeys(filter(None, reasons)):
        yield Dependent("table", str(pair.table), "by its kind", refused=f"it is {why}")


def find_lock_shortage(reading: Reading) -> Iterator[Dependent]:
    """Yield the setting that is too low for the locks of a table with very many partitions.

    The exchange has a lock for each partition, for each index and its twin, and for each constraint
    and trigger to change there.
    """
    pair = reading.pair
    if not pair.table.partitions:
        return
    parts = sum(len(family) for family in reading.families)
    # The relation, a CHECK and a NOT NULL for each member, and the triggers, the quarantines' too,
    # which a revert drops; an index and its twin.
    triggers = {name for each in reading.bound for name in each.triggers}
    triggers |= {name for each in pair.members for name in each.replacement.trigger_names}
    own = 1 + 2 * len(pair.members) + len(triggers)
    needed = len(pair.oids) * own + 2 * parts + CATALOG_LOCKS
    room, each = lock_room(reading.connection)
    if needed > room:
        yield Dependent(
            "table",
            str(pair.table),
            f"by its {len(pair.table.partitions):,} partitions",
            refused=f"the exchange needs about {needed:,} locks, and the server has room for "
            f"{room:,}: set max_locks_per_transaction to {2 * each * needed // room} or more, and "
            "start the server again",
        )


def read_lacking_rights(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """Yield the rights that the role lacks, each with the GRANT to run."""
    return describe_grants(connection, find_missing_grants(connection, pair.oids))


def describe_grants(
    connection: BaseDatabaseWrapper, missing: Mapping[str, str]
) -> Iterator[Dependent]:
    """Yield the rights that the role lacks.

    Arguments:
        missing: the statements to run, each with its object for a person.
    """
    me = current_role(connection)
    for statement, shown in missing.items():
        yield Dependent("right", me, f"to alter {shown}", refused=f"run {statement}")


KIND = DependentKind(read_table_itself)
