"""Play 3: prepare, exchange, verify. Its own inverse.

Everything that scans is done before, while reads and writes go on; the exchange itself is one
transaction of catalog changes that holds its lock for milliseconds whatever the table's size.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from django.db import Error as DatabaseError
from django.db import IntegrityError, OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook import catalog, dependents, locks, quarantine
from migrations_playbook.backfill import backfill
from migrations_playbook.catalog import Phase, Table
from migrations_playbook.database import (
    execute,
    fetch_one,
    fetch_value,
    is_connection_lost,
    name_of,
    postgresql,
    set_local,
)
from migrations_playbook.errors import (
    ConnectionLost,
    LockNotAvailable,
    PlaybookError,
    Refused,
    VerificationFailed,
    WrongPhase,
)
from migrations_playbook.locks import LockPolicy
from migrations_playbook.shadow import BoundShadow
from migrations_playbook.steps import Lock, Step, run

# How often to look for duplicates again before the value expression is called too narrow.
DUPLICATE_ROUNDS = 20


@dataclass(frozen=True)
class Plan:
    """What a swap will do, in order.

    Arguments:
        index: builds and drops that must run outside a transaction; they wait for transactions
            that began before them, and block no read and no write.
        prove: what proves NOT NULL, each in a transaction of its own.
        exchange: the one transaction under the lock.
    """

    index: tuple[Step, ...]
    prove: tuple[Step, ...]
    exchange: tuple[Step, ...]


@dataclass(frozen=True)
class Preparing:
    """A step of the preparation begins.

    Arguments:
        what: what it is for.
    """

    what: str


@dataclass(frozen=True)
class Exchanged:
    """The exchange was committed.

    Arguments:
        phase: the phase that the catalog shows now.
        lock_wait_ms: how long the requests for the lock stood in the queue, in milliseconds.
        lock_hold_ms: from the lock's grant to the commit's return, in milliseconds.
        attempts: how often the lock was asked for.
        waiters: sessions that stood behind the lock just before the commit.
        longest_wait_ms: how long the first of them had waited then, in milliseconds.
    """

    phase: Phase
    lock_wait_ms: float
    lock_hold_ms: float
    attempts: int
    waiters: int
    longest_wait_ms: float


@dataclass(frozen=True)
class Verified:
    """The numbers that prove the exchange.

    Arguments:
        rows: rows in the table.
        nulls: rows without a live value.
        duplicates: live values that more than one row has, where the column is unique.
        unchanged: rows, not written since the swap, whose live value is their retired one.
        leaked: rows whose live value is another row's retired one.
    """

    rows: int
    nulls: int
    duplicates: int
    unchanged: int
    leaked: int

    @property
    def passed(self) -> bool:
        return not (self.nulls or self.duplicates or self.unchanged or self.leaked)


Event = Preparing | Exchanged | Verified


def swap(
    bound: BoundShadow,
    *,
    using: str,
    revert: bool = False,
    policy: LockPolicy = locks.DEFAULT_POLICY,
    max_hold_ms: float | None = None,
    keep_equal: bool = False,
) -> Generator[Event, None, None]:
    """Exchange the two columns, or exchange them back.

    Lock: see each step of `plan`. Reads and writes go on but for the milliseconds of ACCESS
    EXCLUSIVE that the exchange holds, and twice for the moment in which a constraint is added.

    Arguments:
        bound: what to exchange.
        using: the database alias.
        revert: exchange back.
        policy: how long and how often to ask for the lock.
        max_hold_ms: roll back instead of committing when the lock was held longer, milliseconds.
        keep_equal: accept rows with the same value in both columns before the swap.

    Raises:
        WrongPhase: not filled yet, or swapped already; with the right next command.
        Refused: something is bound to the column that cannot be carried over.
        LockNotAvailable: the lock was not to be had, or was held too long; nothing is exchanged.
        ConnectionLost: the server went away; says whether the exchange was committed.
        VerificationFailed: the numbers afterwards are not what they must be.
    """
    connection = postgresql(using)
    found = swappable(connection, bound, revert=revert)
    yield from prepare(connection, bound, found, policy)
    kept = 0 if revert else accept_equal(connection, bound, found, keep_equal=keep_equal)
    yield exchange(connection, bound, found, revert=revert, policy=policy, max_hold_ms=max_hold_ms)
    verified = verify(connection, bound, kept=kept)
    yield verified
    if not verified.passed:
        back = "" if revert else ' Run "manage.py swap_token_columns --revert" to go back.'
        raise VerificationFailed(
            f"{bound.label} was exchanged, but the numbers are not what they must be: "
            f"{verified.nulls} nulls, {verified.duplicates} duplicates, {verified.unchanged} "
            f"unchanged, {verified.leaked} with another row's retired value.{back}"
        )


def swappable(connection: BaseDatabaseWrapper, bound: BoundShadow, *, revert: bool) -> Table:
    """The table, when its columns can be exchanged now.

    Raises:
        WrongPhase: not filled yet, or swapped already.
        Refused: something is bound to a column that cannot be carried over.
    """
    state = catalog.state(connection, bound)
    if state.table is None or state.phase is Phase.NONE:
        raise WrongPhase(
            f'{bound.label} has no column "{bound.shadow}" in the database "{connection.alias}". '
            'Run "manage.py migrate" first.'
        )
    if revert and not state.swapped:
        raise WrongPhase(
            f"{bound.label} is not swapped, so there is nothing to revert. "
            '"manage.py playbook_status" shows what comes next.'
        )
    if not revert and state.swapped:
        raise WrongPhase(
            f'{bound.label} is swapped already: "{bound.live}" has its new values. '
            '"manage.py swap_token_columns --revert" would exchange back.'
        )
    if not revert and state.problem is not None:
        raise WrongPhase(state.problem)
    if not revert and state.phase is Phase.EXPANDED:
        left = catalog.count_nulls(connection, bound, state.table)
        raise WrongPhase(
            f'Column "{bound.shadow}" of {bound.label} still has {left:,} null rows. '
            f'Run "manage.py backfill_{bound.declaration.shadow}" first.'
        )
    named = [
        name
        for column in (bound.live, bound.shadow)
        for name in dependents.refused(connection, state.table, column)
        if name not in _own_objects(bound, state.table)
    ]
    if named:
        raise Refused(
            f"These would stay with the leaked values of {bound.label}: {'; '.join(named)}. "
            "Drop them, and create them again after the swap."
        )
    return state.table


def plan(
    connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table, *, revert: bool
) -> Plan:
    """What is missing for the exchange, and the exchange itself, as the catalog stands now.

    Lock: none; reads the catalog.
    """
    return Plan(
        index=tuple(_index_steps(connection, bound, found)),
        prove=tuple(_prove_steps(connection, bound, found)),
        exchange=tuple(_exchange_steps(connection, bound, found, revert=revert)),
    )


def prepare(
    connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table, policy: LockPolicy
) -> Iterator[Preparing]:
    """Do all that scans, while reads and writes go on.

    A failed concurrent build leaves an invalid index behind, which would be taken for a good one
    by IF NOT EXISTS; it is found, dropped and built anew.

    Lock: SHARE UPDATE EXCLUSIVE on the table for the builds and the proof; ACCESS EXCLUSIVE,
    boundedly, for the moment in which the unproven constraint is added.

    Raises:
        LockNotAvailable: see `locks`.
        PlaybookError: the value expression is too narrow for the table's rows to be unique.
    """
    exchanged = found.columns[bound.live].number > found.columns[bound.shadow].number
    for _ in range(DUPLICATE_ROUNDS):
        try:
            if not exchanged and null_leaked(connection, bound, found):
                yield Preparing("Refill values that have leaked from other rows")
                for _event in backfill(bound, using=connection.alias):
                    pass
                continue
            for step in _index_steps(connection, bound, found):
                yield Preparing(step.what)
                execute(connection, step.statement)
        except IntegrityError as error:
            if not isinstance(error.__cause__, pg_errors.UniqueViolation):
                raise
            yield Preparing("Refill duplicates")
            null_duplicates(connection, bound, found)
            for _event in backfill(bound, using=connection.alias):
                pass
        else:
            break
    else:
        raise PlaybookError(
            f"After {DUPLICATE_ROUNDS} rounds the values of {bound.label}."
            f"{bound.declaration.shadow} still collide: the value expression has too little room "
            "for the table. Widen it in Meta.triggers, then run "
            '"manage.py makemigrations" and "manage.py migrate".'
        )
    for step in _prove_steps(connection, bound, found):
        yield Preparing(step.what)
        with transaction.atomic(using=connection.alias):
            locks.reserve(connection, found.identifier, policy)
            if step.lock is Lock.ACCESS_EXCLUSIVE:
                locks.seize(connection, found.identifier, policy)
            execute(connection, step.statement)


def null_leaked(connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table) -> int:
    """Set shadow values that are another row's live one back to null; return how many.

    That other row's value has leaked, so who knows it would hold this row's after the swap. Random
    UUIDs never meet; an expression with little room does. Only where the live column is unique:
    elsewhere rows share values by nature. A hash join inside the server.

    Lock: ROW EXCLUSIVE on the table; the rows that are nulled, until the commit.
    """
    if not any(index.unique for index in dependents.indexes(connection, found, bound.live)):
        return 0
    with transaction.atomic(using=connection.alias):
        set_local(connection, "pgtrigger.ignore", "{" + ",".join(bound.trigger_names) + "}")
        return execute(
            connection,
            sql.SQL("""
                UPDATE {table} AS mine SET {shadow} = NULL
                 WHERE EXISTS (SELECT FROM {table} AS other
                                WHERE other.{live} = mine.{shadow} AND other.ctid <> mine.ctid)
                """).format(
                table=found.identifier,
                live=sql.Identifier(bound.live),
                shadow=sql.Identifier(bound.shadow),
            ),
        )


def null_duplicates(connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table) -> int:
    """Set all rows but one of each duplicate shadow value back to null; return how many.

    Lock: ROW EXCLUSIVE on the table; the rows that are nulled, until the commit.
    """
    with transaction.atomic(using=connection.alias):
        # Otherwise the fill trigger would put the value back.
        names = "{" + ",".join(bound.trigger_names) + "}"
        set_local(connection, "pgtrigger.ignore", names)
        return execute(
            connection,
            sql.SQL("""
                UPDATE {table} SET {shadow} = NULL
                 WHERE ctid = ANY (ARRAY(
                       SELECT ctid FROM (
                           SELECT ctid, row_number() OVER (PARTITION BY {shadow}) AS nth
                             FROM {table} WHERE {shadow} IS NOT NULL) AS numbered
                        WHERE nth > 1))""").format(
                table=found.identifier, shadow=sql.Identifier(bound.shadow)
            ),
        )


def accept_equal(
    connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table, *, keep_equal: bool
) -> int:
    """The number of rows that have the same value in both columns, if that is right.

    The fill never makes one. A row written between a swap and its revert is one, and keeps its
    value, which has never leaked.

    Raises:
        Refused: there are such rows, and the columns have never been exchanged.
    """
    equal = int(
        fetch_value(
            connection,
            sql.SQL("SELECT count(*) FROM {} WHERE {} = {}").format(
                found.identifier, sql.Identifier(bound.live), sql.Identifier(bound.shadow)
            ),
        )
    )
    if equal and not keep_equal and not catalog.was_exchanged_before(bound, found):
        raise Refused(
            f"{equal:,} rows of {bound.label} have the same value in both columns, so the swap "
            "would not change them. If they were written between a swap and its revert, run it "
            "again with --keep-equal."
        )
    return equal


def exchange(
    connection: BaseDatabaseWrapper,
    bound: BoundShadow,
    found: Table,
    *,
    revert: bool,
    policy: LockPolicy,
    max_hold_ms: float | None = None,
) -> Exchanged:
    """The one transaction.

    Lock: SHARE UPDATE EXCLUSIVE, then ACCESS EXCLUSIVE on the table until the commit; held for
    milliseconds, whatever the table's size.

    Raises:
        LockNotAvailable: the lock was not to be had, or held longer than `max_hold_ms`.
        ConnectionLost: the server went away; says whether the exchange was committed.
    """
    pid = locks.backend_pid(connection)
    try:
        with transaction.atomic(using=connection.alias):
            locks.reserve(connection, found.identifier, policy)
            # Nobody can alter the table from here on, so the plan stays true.
            steps = _exchange_steps(connection, bound, found, revert=revert)
            seized = locks.seize(connection, found.identifier, policy)
            run(connection, steps)
            waiters, longest_wait_ms = locks.waiters(connection, found.identifier)
            held = (time.monotonic() - seized.since) * 1000
            if max_hold_ms is not None and held > max_hold_ms:
                raise LockNotAvailable(
                    f"The exchange of {bound.label} had held its lock for {held:.0f} ms, longer "
                    f"than --max-hold-ms {max_hold_ms:.0f}, and was rolled back; nothing was "
                    "changed. Run the same command again when the server is less busy."
                )
        held = (time.monotonic() - seized.since) * 1000
    except DatabaseError as error:
        if not is_connection_lost(error):
            raise
        raise ConnectionLost(_what_happened(connection, bound, pid, revert=revert)) from None
    return Exchanged(
        phase=catalog.state(connection, bound).phase,
        lock_wait_ms=seized.wait_ms,
        lock_hold_ms=held,
        attempts=seized.attempts,
        waiters=waiters,
        longest_wait_ms=longest_wait_ms,
    )


def verify(connection: BaseDatabaseWrapper, bound: BoundShadow, *, kept: int = 0) -> Verified:
    """Count what must be zero. Sequential scans and a hash join inside the server.

    Lock: ACCESS SHARE on the table, as any SELECT.

    Arguments:
        kept: rows that had the same value in both columns before the swap, rightly.
    """
    found = catalog.table(connection, bound)
    assert found is not None
    live, retired = sql.Identifier(bound.live), sql.Identifier(bound.shadow)
    since = quarantine.swapped_since(connection, found, bound.shadow)
    names = {
        "table": found.identifier,
        "live": live,
        "retired": retired,
        # age() counts transactions: a row that is older than the swap was not written since.
        "older": sql.SQL("age(xmin) > age({}::xid)").format(sql.Literal(since))
        if since is not None
        else sql.SQL("false"),
    }
    row = fetch_one(
        connection,
        sql.SQL("""
            SELECT count(*), count(*) FILTER (WHERE {live} IS NULL),
                   count(*) FILTER (WHERE {live} = {retired} AND {older})
              FROM {table}""").format(**names),
    )
    assert row is not None
    rows, nulls, unchanged = row
    unique = any(index.unique for index in dependents.indexes(connection, found, bound.live))
    duplicates = (
        fetch_value(
            connection,
            sql.SQL("""
                SELECT count(*) FROM (SELECT FROM {table} WHERE {live} IS NOT NULL
                                       GROUP BY {live} HAVING count(*) > 1) AS repeated
                """).format(**names),
        )
        if unique
        else 0
    )
    leaked = (
        fetch_value(
            connection,
            sql.SQL("""
                SELECT count(*) FROM {table} AS a JOIN {table} AS b ON b.{retired} = a.{live}
                 WHERE a.ctid <> b.ctid""").format(**names),
        )
        if since is not None and unique
        else 0
    )
    return Verified(rows, nulls, duplicates, max(0, unchanged - kept), leaked)


def _index_steps(
    connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table
) -> Iterator[Step]:
    """The builds that the shadow column still needs."""
    existing = {index.name: index for index in dependents.indexes(connection, found, bound.shadow)}
    for index in dependents.indexes(connection, found, bound.live):
        name = index.twin_name(bound.shadow)
        twin = existing.get(name)
        if twin is not None and twin.valid:
            continue
        if twin is not None:
            yield Step(
                f"Drop the invalid index {name}, left by a build that failed",
                sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(
                    sql.Identifier(found.schema, name)
                ),
                Lock.SHARE_UPDATE_EXCLUSIVE,
            )
        yield Step(
            f"Build the index {name}",
            sql.SQL("CREATE {unique} INDEX CONCURRENTLY {name} ON {table} ({shadow})").format(
                unique=sql.SQL("UNIQUE") if index.unique else sql.SQL(""),
                name=sql.Identifier(name),
                table=found.identifier,
                shadow=sql.Identifier(bound.shadow),
            ),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def _prove_steps(
    connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table
) -> Iterator[Step]:
    """The proof that the shadow column has no null, as a validated CHECK.

    SET NOT NULL then needs no scan (PostgreSQL 12+ reads the constraint instead).
    """
    if not found.columns[bound.live].not_null or found.columns[bound.shadow].not_null:
        return
    name = _check_name(bound)
    proven = fetch_value(
        connection,
        sql.SQL("""
            SELECT convalidated FROM pg_catalog.pg_constraint
             WHERE conrelid = %s AND conname = %s"""),
        [found.oid, name],
    )
    if proven is None:
        yield Step(
            f"Require {bound.shadow} to be not null from now on",
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({} IS NOT NULL) NOT VALID").format(
                found.identifier, sql.Identifier(name), sql.Identifier(bound.shadow)
            ),
            Lock.ACCESS_EXCLUSIVE,
        )
    if not proven:
        yield Step(
            f"Prove that no row's {bound.shadow} is null",
            sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
                found.identifier, sql.Identifier(name)
            ),
            Lock.SHARE_UPDATE_EXCLUSIVE,
        )


def _exchange_steps(
    connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table, *, revert: bool
) -> list[Step]:
    """The exchange, statement by statement, all under ACCESS EXCLUSIVE."""
    live, shadow = found.columns[bound.live], found.columns[bound.shadow]
    own = quarantine.Names.of(found.name, bound.shadow)
    bound_triggers = [
        trigger
        for trigger in dependents.triggers(connection, found, bound.live, bound.shadow)
        if trigger.name not in (own.on_insert, own.on_update)
    ]
    steps = quarantine.drop(found, bound.shadow) if revert else []
    steps += [trigger.drop(found) for trigger in bound_triggers]
    steps += _rename_columns(bound, found)
    for index in dependents.indexes(connection, found, bound.live):
        steps += _exchange_index(connection, bound, found, index, revert=revert)
    if live.not_null:
        steps += _exchange_not_null(bound, found)
    steps += _exchange_defaults(bound, found, live.default, shadow.default)
    for trigger in bound_triggers:
        steps += trigger.restate(found)
    if not revert:
        steps += quarantine.create(found, bound.live, bound.shadow, live)
    return steps


def _rename_columns(bound: BoundShadow, found: Table) -> list[Step]:
    between = name_of(bound.live, bound.shadow, "between")
    return [
        Step(
            f"Rename {old} to {new}",
            sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
                found.identifier, sql.Identifier(old), sql.Identifier(new)
            ),
            Lock.ACCESS_EXCLUSIVE,
        )
        for old, new in (
            (bound.live, between),
            (bound.shadow, bound.live),
            (between, bound.shadow),
        )
    ]


def _exchange_index(
    connection: BaseDatabaseWrapper,
    bound: BoundShadow,
    found: Table,
    index: dependents.Index,
    *,
    revert: bool,
) -> Iterator[Step]:
    """Give the live column's index, or its constraint, the name that the live column's had."""
    twin_name = index.twin_name(bound.shadow)
    twins = {twin.name: twin for twin in dependents.indexes(connection, found, bound.shadow)}
    twin = twins.get(twin_name)
    between = name_of(index.name, "between")

    def rename(old: str, new: str, *, constraint: bool) -> Step:
        if constraint:
            statement = sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}").format(
                found.identifier, sql.Identifier(old), sql.Identifier(new)
            )
        else:
            statement = sql.SQL("ALTER INDEX {} RENAME TO {}").format(
                sql.Identifier(found.schema, old), sql.Identifier(new)
            )
        return Step(f"Rename {old} to {new}", statement, Lock.ACCESS_EXCLUSIVE)

    yield rename(index.name, between, constraint=index.constraint)
    if index.constraint and not (twin is not None and twin.constraint):
        yield Step(
            f"Make the new index the constraint {index.name}",
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} UNIQUE USING INDEX {}").format(
                found.identifier, sql.Identifier(index.name), sql.Identifier(twin_name)
            ),
            Lock.ACCESS_EXCLUSIVE,
        )
    else:
        yield rename(twin_name, index.name, constraint=index.constraint)
    yield rename(between, twin_name, constraint=index.constraint)
    if revert:
        yield Step(
            f"Drop {twin_name}, which the swap had built",
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                found.identifier, sql.Identifier(twin_name)
            )
            if index.constraint
            else sql.SQL("DROP INDEX {}").format(sql.Identifier(found.schema, twin_name)),
            Lock.ACCESS_EXCLUSIVE,
        )


def _exchange_not_null(bound: BoundShadow, found: Table) -> list[Step]:
    # Off before on: PostgreSQL 18 names the constraint after the column, and the name is taken
    # while the other column's has it.
    return [
        Step(
            f"Let {bound.shadow} be null",
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL").format(
                found.identifier, sql.Identifier(bound.shadow)
            ),
            Lock.ACCESS_EXCLUSIVE,
        ),
        Step(
            f"Require {bound.live} to be not null, which the CHECK has proven",
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET NOT NULL").format(
                found.identifier, sql.Identifier(bound.live)
            ),
            Lock.ACCESS_EXCLUSIVE,
        ),
        Step(
            "Drop the CHECK that has served",
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                found.identifier, sql.Identifier(_check_name(bound))
            ),
            Lock.ACCESS_EXCLUSIVE,
        ),
    ]


def _exchange_defaults(
    bound: BoundShadow, found: Table, live: str | None, shadow: str | None
) -> Iterator[Step]:
    if live == shadow:
        return
    for column, default in ((bound.live, live), (bound.shadow, shadow)):
        action = (
            sql.SQL("DROP DEFAULT")
            if default is None
            else sql.SQL("SET DEFAULT {}").format(sql.SQL(default))
        )
        yield Step(
            f"Keep the default of {column}",
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} {}").format(
                found.identifier, sql.Identifier(column), action
            ),
            Lock.ACCESS_EXCLUSIVE,
        )


def _check_name(bound: BoundShadow) -> str:
    return bound.name_of("not_null")


def _own_objects(bound: BoundShadow, found: Table) -> set[str]:
    """What the engine itself has bound to the shadow, as PostgreSQL describes it."""
    names = quarantine.Names.of(found.name, bound.shadow)
    own = {f"constraint {_check_name(bound)} on table {found.name}"}
    own |= {f"constraint {_check_name(bound)} on table {found}"}
    own |= {f"sequence {name}" for name in (names.hits, names.last)}
    own |= {f"sequence {found.schema}.{name}" for name in (names.hits, names.last)}
    return own


def _what_happened(
    connection: BaseDatabaseWrapper, bound: BoundShadow, pid: int, *, revert: bool
) -> str:
    """After a connection was lost at a commit: ask the catalog, and say it."""
    verb = "revert" if revert else "swap"
    deadline = time.monotonic() + 30
    while True:
        try:
            connection.close()
            # The old session may still be at its commit: the answer is final once it is gone.
            gone = not fetch_value(
                connection,
                sql.SQL("SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE pid = %s"),
                [pid],
            )
            swapped = catalog.state(connection, bound).swapped
        except (OperationalError, DatabaseError):
            gone = False
        else:
            if gone:
                done = swapped is not revert
                outcome = "committed" if done else "not committed"
                then = (
                    'Run "manage.py playbook_status" to see it.'
                    if done
                    else "Nothing was changed; run the same command again."
                )
                return f"The connection was lost; the {verb} was {outcome}. {then}"
        if time.monotonic() > deadline:
            return (
                f"The connection was lost, and the server has not come back to say whether the "
                f'{verb} was committed. Run "manage.py playbook_status" when it has.'
            )
        time.sleep(0.2)
