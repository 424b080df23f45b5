"""Pause, resume and retune every worker on every host, through the catalog.

The settings are the comment of the fill trigger's function, as a small JSON object: there is no
table of ours, COMMENT ON FUNCTION takes no lock on the table (a comment on the column would wait
for a VACUUM), the comment survives restarts of workers and server, and goes with the function at
the contract. A backfill that has filled the last row takes the comment away, so none is left at the
swap. (The comment of the trigger itself is django-pgtrigger's.)
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.backfill.pacing.pace import Pace
from migrations_playbook.errors import PlaybookError
from migrations_playbook.postgres.query import engine_transaction, execute, fetch_one
from migrations_playbook.postgres.tables import Table
from migrations_playbook.replacement import Replacement


@dataclass(frozen=True)
class Control:
    """The settings for every worker everywhere; None leaves a worker's own option in force.

    Arguments:
        paused: whether to wait.
        target_ms: how long a batch should take, in milliseconds.
        max_rows_per_second: the most that each process may fill.
        duty: the share of the time at work for a worker, above 0 and up to 1.
        max_added_ms: by how much the 99th percentile of the site's requests may grow, in ms.
    """

    paused: bool = False
    target_ms: float | None = None
    max_rows_per_second: float | None = None
    duty: float | None = None
    max_added_ms: float | None = None

    def over(self, pace: Pace) -> Pace:
        """Overrule a worker's own pace by the settings."""
        changes: dict[str, Any] = {
            name: value
            for name in ("target_ms", "max_rows_per_second", "duty", "max_added_ms")
            if (value := getattr(self, name)) is not None
        }
        return replace(pace, **changes)

    def as_json(self) -> dict[str, Any]:
        """Give only the settings in force."""
        return {name: value for name, value in vars(self).items() if value not in (None, False)}

    def __str__(self) -> str:
        said = [
            name.replace("_", "-") if value is True else f"{name.replace('_', '-')}={value:g}"
            for name, value in self.as_json().items()
        ]
        return ", ".join(said) or "nothing"


def read_control(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
) -> Control:
    """Read the settings now.

    Lock: none on the table; reads the catalog.
    """
    return _parse_comment(_find_function(connection, replacement, table)[2])


def change_control(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table, **changes: Any
) -> Control:
    """Set some of the settings, and leave the rest as they are.

    Lock: SHARE UPDATE EXCLUSIVE on the trigger's function, none on the table.

    Arguments:
        changes: attributes of `Control`.

    Returns:
        The settings now.

    Raises:
        PlaybookError: somebody else's comment is there, or there is no trigger.
    """
    with engine_transaction(connection):
        # Two who change the comment at a time must not undo each other.
        execute(
            connection,
            sql.SQL("SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext(%s), %s)"),
            ["playbook control", table.oid % 2**31],
        )
        schema, name, comment = _find_function(connection, replacement, table)
        control = replace(_parse_comment(comment), **changes)
        text = json.dumps({"backfill": control.as_json()}) if control.as_json() else None
        if text != comment:
            execute(
                connection,
                sql.SQL("COMMENT ON FUNCTION {}() IS {}").format(
                    sql.Identifier(schema, name), sql.Literal(text)
                ),
            )
    return control


def clear_control(connection: BaseDatabaseWrapper, replacement: Replacement, table: Table) -> None:
    """Take all settings away.

    Lock: as `change_control`, if there is any.
    """
    if read_control(connection, replacement, table) != Control():
        change_control(connection, replacement, table, **vars(Control()))


def _find_function(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
) -> tuple[str, str, str | None]:
    row = fetch_one(
        connection,
        sql.SQL("""
            SELECT n.nspname, p.proname, pg_catalog.obj_description(p.oid, 'pg_proc')
              FROM pg_catalog.pg_trigger t
              JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
              JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE t.tgrelid = %s AND t.tgname = %s"""),
        [table.oid, replacement.trigger_names[0]],
    )
    if row is None:
        raise PlaybookError(
            f'The trigger "{replacement.trigger_names[0]}" is missing on {table}. '
            'Run "manage.py pgtrigger install" first.'
        )
    return row[0], row[1], row[2]


def _parse_comment(comment: str | None) -> Control:
    if comment is None:
        return Control()
    try:
        return Control(**json.loads(comment)["backfill"])
    except (ValueError, KeyError, TypeError):
        raise PlaybookError(
            "The fill trigger's function has a comment that is not the backfill's, where its "
            "pace is kept. Remove it with COMMENT ON FUNCTION ... IS NULL."
        ) from None
