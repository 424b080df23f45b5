"""The preparation of the exchange, while reads and writes go on: everything that scans."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from django.db import Error as DatabaseError
from django.db import IntegrityError, InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.errors import (
    LockNotAvailable,
    PlaybookError,
    Refused,
    TryAgain,
    primary_message,
)
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.failures import CHANGED
from migrations_playbook.postgres.holders import read_builders
from migrations_playbook.postgres.locks import PASSING, LockPolicy
from migrations_playbook.postgres.query import (
    engine_transaction,
    execute,
    fetch_value,
    pin_search_path,
    server_version,
)
from migrations_playbook.postgres.site_triggers import name_before, read_firing
from migrations_playbook.postgres.steps import Step, run_concurrently
from migrations_playbook.swap.dependents.base import Dependent
from migrations_playbook.swap.dependents.inventory import Inventory
from migrations_playbook.swap.gate import recheck
from migrations_playbook.swap.pair import Pair, refuse_overtaken
from migrations_playbook.swap.reports import Preparing
from migrations_playbook.swap.rows.kinds import rows_of

# How often to try a step when somebody changes the same rows of the catalog.
ATTEMPTS = 5
# How often to make the rows ready before they are given up.
ROUNDS = 20
# Since this version REFRESH MATERIALIZED VIEW looks names up along no path of the session's.
SAFE_REFRESH = 170000


def prepare(
    connection: BaseDatabaseWrapper,
    inventory: Inventory,
    policy: LockPolicy,
    *,
    refresh: bool = False,
    redraw: bool = False,
) -> Iterator[Preparing]:
    """Build and prove the needs of the exchange, while reads and writes go on.

    A failed concurrent build leaves an invalid index behind, and IF NOT EXISTS would take it for a
    good index. So the index is found, dropped and built anew.

    Lock: SHARE UPDATE EXCLUSIVE on the table for the builds and the proofs; ACCESS EXCLUSIVE,
    boundedly, for the moment in which an unproven constraint is added; likewise on a partitioned
    table while an index without rows is made, and on a partition while its part is attached.

    Arguments:
        inventory: as the gate has just read the columns.
        policy: how long and how often to ask for the lock.
        refresh, redraw: as the gate was asked.

    Raises:
        LockNotAvailable: see `locks`.
        Refused: fresh values do not pass a CHECK that the live values pass; or the gate refuses
            now.
        PlaybookError: the value expression is too narrow for the table's rows to be unique.
    """
    pair = inventory.pair
    rows = rows_of(pair)
    for _ in range(ROUNDS):
        changes = list(rows.make_ready(connection, inventory, redraw=redraw))
        yield from map(Preparing, changes)
        if changes and not pair.swapped:
            continue
        clash = yield from build_twins(connection, inventory, policy)
        if clash is None:
            break
        yield Preparing(rows.resolve_clash(connection, clash))
        inventory = recheck(connection, pair, refresh=refresh)
    else:
        raise _name_meddling(connection, pair, rows.say_hopeless(ROUNDS))
    # Before a constraint of ours could fail a write of the site's.
    for each in inventory.dependents:
        for step in each.steps.trial if each.steps else ():
            yield Preparing(step.what)
            if _try(connection, inventory, step):
                raise _do_not_pass(pair, each)
    for each in inventory.dependents:
        yield from _prove(connection, inventory, each, policy)
    for step in rows.statistics_steps:
        yield Preparing(step.what)
        _run_locked(connection, inventory, step, policy)


def build_twins(
    connection: BaseDatabaseWrapper, inventory: Inventory, policy: LockPolicy
) -> Generator[Preparing, None, Dependent | None]:
    """Build the missing twins; return the unique index that two equal fresh values prevent."""
    for each in inventory.dependents:
        try:
            for step in each.steps.build if each.steps else ():
                yield Preparing(step.what)
                if step.concurrent:
                    yield from _run_concurrent(connection, inventory.pair, step, policy)
                else:
                    _run_locked(connection, inventory, step, policy)
        except IntegrityError as error:
            if not isinstance(error.__cause__, pg_errors.UniqueViolation):
                raise
            return each
    return None


def _run_concurrent(
    connection: BaseDatabaseWrapper, pair: Pair, step: Step, policy: LockPolicy
) -> Iterator[Preparing]:
    """Run a concurrent step, and say for whom the step waits. Lock: as the step says."""
    builders = read_builders(connection, pair.identifier)
    if builders:
        raise LockNotAvailable(
            f"{step.what}: this was not done, because an index is being built on {pair.table} by "
            f"{'; '.join(map(str, builders))}. Run the same command again when that is done."
        )
    application = pair.replacement.object_name("swap")
    for blocker in run_concurrently(
        connection, step, application=application, patience_ms=policy.snapshots_ms
    ):
        yield Preparing(f"{step.what}: waits for {blocker}")


def _prove(
    connection: BaseDatabaseWrapper, inventory: Inventory, each: Dependent, policy: LockPolicy
) -> Iterator[Preparing]:
    """Prove what the exchange takes for granted; take the proof back where the rows do not pass.

    Raises:
        Refused: the rows do not pass, or somebody's code in the proof fails.
    """
    if each.steps is None:
        return
    for step in each.steps.prove:
        yield Preparing(step.what)
        try:
            _run_locked(connection, inventory, step, policy)
        except DatabaseError as error:
            if isinstance(error, OperationalError | InterfaceError):
                raise
            for back in each.steps.undo:
                _run_locked(connection, inventory, back, policy)
            if isinstance(error, IntegrityError):
                raise _do_not_pass(inventory.pair, each) from None
            raise Refused(
                f"{inventory.pair.replacement.label} was not exchanged. {step.what}: PostgreSQL "
                f"says {primary_message(error)}. Mend the {each}, or drop it, then run the same "
                "command again."
            ) from None


def _name_meddling(
    connection: BaseDatabaseWrapper, pair: Pair, hopeless: PlaybookError
) -> PlaybookError:
    """Name the triggers of the site that may have kept new values from their rows."""
    replacement = pair.replacement
    firing = read_firing(connection, pair.table, replacement.shadows, replacement.trigger_names)
    before = name_before(firing)
    if not before:
        return hopeless
    return PlaybookError(
        f"{hopeless} Or a trigger keeps the drawn values from their rows ({before}): let it pass "
        "them, then run the same command again."
    )


def _do_not_pass(pair: Pair, each: Dependent) -> Refused:
    words = pair.replacement.meaning.words
    return Refused(
        f"{words.made} of {pair.replacement} do not pass the {each} that the live ones "
        f"pass. Correct the {words.expression} in Meta.triggers, then run "
        '"manage.py makemigrations" and "manage.py migrate".'
    )


def _try(connection: BaseDatabaseWrapper, inventory: Inventory, step: Step) -> bool:
    """Tell whether a query finds a row.

    The query's own names are found along the pinned path, its functions' names along the session's
    own. For a materialized view they are found as by its REFRESH: since PostgreSQL 17 along no
    path.

    Raises:
        Refused: somebody's code in the query fails.
    """
    version = server_version(connection)
    safely = step.as_session and version >= SAFE_REFRESH
    with engine_transaction(connection):
        own = fetch_value(connection, sql.SQL("SELECT pg_catalog.current_schemas(false)::text[]"))
        pin_search_path(connection, *inventory.schemas, *([] if safely else own))
        try:
            return execute(connection, step.statement) > 0
        except DatabaseError as error:
            if isinstance(error, OperationalError | InterfaceError):
                raise
            raise Refused(
                f"{inventory.pair.replacement.label} was not exchanged; nothing was changed. "
                f"{step.what}: PostgreSQL says {primary_message(error)}. Mend it, or drop it, then "
                "run the same command again."
            ) from None


def _run_locked(
    connection: BaseDatabaseWrapper, inventory: Inventory, step: Step, policy: LockPolicy
) -> None:
    """Run a step in a transaction of its own, under the step's lock, boundedly.

    The whole table is reserved, so no other schema change stands in the way; only the step's own
    relation is seized.
    """
    pair = inventory.pair
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with engine_transaction(connection):
                locks.reserve(connection, pair.identifier, policy)
                refuse_overtaken(pair, pair.reread(connection))
                if step.is_strong:
                    locks.seize(connection, step.on or pair.identifier, policy)
                if not step.as_session:
                    pin_search_path(connection, *inventory.schemas)
                execute(connection, step.statement)
        except DatabaseError as error:
            if isinstance(error.__cause__, CHANGED):
                raise TryAgain(
                    f"{step.what}: this was not done, because another session is at work on the "
                    "same. Run the same command again."
                ) from None
            if not isinstance(error.__cause__, PASSING) or attempt == ATTEMPTS:
                raise
        else:
            return
