"""Play 2: fill the nulls. Yields events, and knows no terminal.

The null predicate is the only state: stop the backfill anyhow, start it anywhere, run it as often
as you like at once. The backfill never waits for a live transaction: rows locked by others are
skipped, and come back in the next sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.backfill.batch import application_name, batch_statement
from migrations_playbook.backfill.cost import Prediction, predict_cost
from migrations_playbook.backfill.events import Batch, Event, Finished, Started, Waiting
from migrations_playbook.backfill.nulls import count_nulls
from migrations_playbook.backfill.pacing import control
from migrations_playbook.backfill.pacing.control import Control
from migrations_playbook.backfill.pacing.throttle import Throttle
from migrations_playbook.backfill.supervisor import Options, Supervisor
from migrations_playbook.errors import WrongPhase
from migrations_playbook.expand.restore import restore_triggers
from migrations_playbook.history import is_declared
from migrations_playbook.logs import journaled
from migrations_playbook.phase import Phase, read_catalog_state, say_no_column
from migrations_playbook.postgres.query import fetch_value
from migrations_playbook.postgres.roles import refuse_hidden_rows, refuse_without_fill_rights
from migrations_playbook.postgres.server import refuse_read_only, server_cores
from migrations_playbook.postgres.sessions import named_session, postgresql
from migrations_playbook.postgres.site_triggers import (
    SiteTrigger,
    read_firing,
    refuse_unskippable,
)
from migrations_playbook.postgres.tables import Table, read_leaves, read_table, refuse_unfillable
from migrations_playbook.replacement import Replacement

__all__ = ["Batch", "Event", "Finished", "Options", "Started", "Waiting", "backfill"]

# Two cores for the rest of the site for each core that a worker keeps busy; never more than this.
CORES_A_WORKER, MOST_WORKERS = 4, 4
CONNECTIONS_A_WORKER = 10


@journaled
def backfill(
    replacement: Replacement,
    *,
    using: str,
    options: Options | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Fill every null of the shadow column, in batches of a short transaction each.

    A KeyboardInterrupt, raised in here or thrown in, cancels the batches under way; the result is
    told nevertheless, before the interrupt goes on.

    Lock: ROW EXCLUSIVE on the table; FOR NO KEY UPDATE on the rows of a batch, until the commit;
    SHARE UPDATE EXCLUSIVE on the table while a slice is vacuumed. Rows locked by another session
    are skipped. Missing triggers of a shadow that no model declares any more are put back, under
    ACCESS EXCLUSIVE, taken boundedly.

    Arguments:
        replacement: the replacement to fill.
        using: the database alias.
        options: how to work; None for `Options()`, as the command without options does.
        stop: asked ten times a second; when True, the batches under way end the backfill.

    Raises:
        WrongPhase: there is no shadow column, or the columns are exchanged.
        RowsLeft: the remaining rows have been locked by others for too long.
        ConnectionLost: every worker has lost its connection.
        Refused: a trigger that cannot be left out.
        PlaybookError: the value expression makes nulls, a trigger keeps rows back, or the disk is
            too small.
    """
    options, replacement = options or Options(), replacement.lead
    # By its name every session of ours is told from others, here and on other hosts.
    with named_session(postgresql(using), application_name(replacement)) as connection:
        if not is_declared(replacement):
            restore_triggers(connection, replacement)
        table = fillable_table(connection, replacement)
        workers = options.workers or default_workers(connection)
        firing = find_firing(connection, replacement, table, options.skipped)
        supervisor = Supervisor(connection, replacement, table, options, workers, firing)
        try:
            yield from supervisor.watch(stop)
        except KeyboardInterrupt:
            supervisor.team.cancel()
            supervisor.end()
            yield supervisor.conclude_cancelled()
            raise
        except BaseException:
            supervisor.team.cancel()
            raise
        finally:
            supervisor.end()
        yield supervisor.conclude()


@dataclass(frozen=True)
class Plan:
    """The work of a backfill, its predicted cost, and the signals now.

    Arguments:
        table: the table to fill.
        workers: how many threads would.
        vacuum_every: the share of the rows after which a slice is vacuumed.
        statements: of a batch, for each table with rows.
        predicted: its cost.
        control: the settings for every worker everywhere.
        firing: the triggers of the site that would fire.
        skipped: the triggers of the site that would be left out.
        notes: signals that the role may not read.
        signals: their values, beside their limits; None without any.
        reasons: why the backfill would wait now.
    """

    table: Table
    workers: int
    vacuum_every: float
    statements: tuple[sql.Composed, ...]
    predicted: Prediction
    control: Control
    firing: tuple[SiteTrigger, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    signals: str | None = None
    reasons: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Build the form of the plan in the JSON result."""
        return {
            "table": str(self.table),
            "workers": self.workers,
            "vacuum_every": self.vacuum_every,
            "statements": [each.as_string(None) for each in self.statements],
            "predicted": self.predicted.as_json(),
            "control": self.control.as_json(),
            "firing": [str(each) for each in self.firing],
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "signals": self.signals,
            "reasons": list(self.reasons),
        }


def plan_backfill(replacement: Replacement, *, using: str, options: Options) -> Plan:
    """Plan a backfill, and change nothing.

    Lock: ACCESS SHARE on the table, while its rows are counted.

    Arguments:
        replacement: the replacement to fill.
        using: the database alias.
        options: how.

    Raises:
        WrongPhase, Refused: as `backfill`.
    """
    connection, replacement = postgresql(using), replacement.lead
    table = fillable_table(connection, replacement)
    rows = count_nulls(connection, replacement, table)
    every = options.vacuum_every
    throttle = None
    reasons = []
    if options.limits is not None:
        throttle = Throttle(connection, application_name(replacement), options.limits)
        reasons = throttle.look()
    return Plan(
        table=table,
        workers=options.workers or default_workers(connection),
        vacuum_every=every,
        statements=tuple(
            batch_statement(replacement, leaf) for leaf in read_leaves(connection, table)
        ),
        predicted=predict_cost(connection, table, rows, vacuum_every=every),
        control=control.read_control(connection, replacement, table),
        firing=tuple(find_firing(connection, replacement, table, options.skipped)),
        skipped=options.skipped,
        notes=() if throttle is None else tuple(throttle.said),
        signals=None if throttle is None else str(throttle),
        reasons=tuple(reason.text for reason in reasons),
    )


def find_firing(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    table: Table,
    skipped: Sequence[str],
) -> list[SiteTrigger]:
    """Find the triggers of the site that fire in a backfill, without those left out.

    Lock: none that conflicts with anything.

    Raises:
        Refused: a trigger that cannot be left out, or does not fire.
    """
    firing = read_firing(connection, table, replacement.shadows, replacement.trigger_names)
    refuse_unskippable(table, firing, skipped)
    return [each for each in firing if each.name not in skipped]


def default_workers(connection: BaseDatabaseWrapper) -> int:
    """Choose a worker for every four cores and ten free connections of the server, 1 to 4.

    Lock: none.
    """
    free = fetch_value(
        connection,
        sql.SQL("""
            SELECT pg_catalog.current_setting('max_connections')::int
                   - (SELECT count(*) FROM pg_catalog.pg_stat_activity
                       WHERE backend_type = 'client backend')"""),
    )
    cores = server_cores(connection)
    return max(1, min(cores // CORES_A_WORKER, int(free) // CONNECTIONS_A_WORKER, MOST_WORKERS))


def fillable_table(connection: BaseDatabaseWrapper, replacement: Replacement) -> Table:
    """Read the table, when its shadow column can be filled now.

    Lock: ACCESS SHARE on the table.

    Raises:
        WrongPhase: there is no shadow column, its triggers are not at work, or the columns are
            exchanged.
        Refused: the role lacks a right; says the GRANT to run.
    """
    table = read_table(connection, replacement.identifier)
    if table is not None:
        refuse_without_fill_rights(connection, table)
        refuse_hidden_rows(connection, table)
        refuse_unfillable(connection, table)
    refuse_read_only(connection)
    state = read_catalog_state(connection, replacement)
    if state.table is None or state.phase is Phase.NONE:
        raise WrongPhase(say_no_column(replacement, connection.alias))
    if state.swapped:
        raise WrongPhase(
            f'{replacement.label} is swapped: "{replacement.live}" has its new values, and '
            f'"{replacement.shadow}" holds the retired ones. There is nothing to '
            'fill; "'
            f'{replacement.command("status")}" shows what comes next.'
        )
    if state.problem is not None:
        raise WrongPhase(state.problem)
    return state.table
