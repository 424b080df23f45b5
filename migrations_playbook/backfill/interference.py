"""A backfill and the site's own triggers: which of them has kept a row from its fresh value."""

from __future__ import annotations

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import PlaybookError
from migrations_playbook.postgres.failures import explain_failure
from migrations_playbook.postgres.query import fetch_value
from migrations_playbook.postgres.sessions import is_connection_lost
from migrations_playbook.postgres.site_triggers import name_before, read_firing, say_remedy
from migrations_playbook.postgres.tables import Table
from migrations_playbook.replacement import Replacement


def say_kept_back(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table, left: int
) -> str:
    """Say which triggers may keep rows back: a BEFORE trigger that returns NULL cancels an update.

    Lock: none that conflicts with anything.

    Arguments:
        left: how many rows.
    """
    return (
        f"{left:,} rows of {table} are left: a trigger that returns NULL keeps the update from "
        f"them ({_name_before(connection, replacement, table)}). {say_remedy()}"
    )


def say_null(connection: BaseDatabaseWrapper, replacement: Replacement, table: Table) -> str:
    """Say why a row is null after it was filled: the value, or a trigger that takes it out again.

    Lock: none that conflicts with anything.
    """
    named = _name_before(connection, replacement, table)
    replacement = _find_lacking(connection, replacement, table)
    made = sql.SQL("SELECT {} IS NOT NULL FROM {} WHERE {} LIMIT 1").format(
        replacement.meaning.assigned, table.identifier, replacement.meaning.lacks
    )
    if named and fetch_value(connection, made, []):
        return (
            f'Rows of {table} have no "{replacement.shadow}" after the backfill has filled it: a '
            f"trigger takes the value out again ({named}). {say_remedy()}"
        )
    return (
        f"The value expression of {replacement.label}.{replacement.declaration.shadow} makes "
        "nulls, so the column can never be filled. Correct it in Meta.triggers, then run "
        '"manage.py makemigrations" and "manage.py migrate".'
    )


def _find_lacking(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
) -> Replacement:
    """Find the first of a group whose value rows lack that have another's; itself without any."""
    shadows = sql.SQL(", ").join(map(sql.Identifier, replacement.shadows))
    for each in replacement.group:
        query = sql.SQL(
            "SELECT EXISTS (SELECT FROM {} WHERE {} AND pg_catalog.num_nonnulls({}) > 0)"
        ).format(table.identifier, each.meaning.lacks, shadows)
        if fetch_value(connection, query, []):
            return each
    return replacement


def refuse_failed(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table, error: DatabaseError
) -> None:
    """Refuse for a batch that has failed beside triggers of the site, which may have raised.

    Lock: none that conflicts with anything.

    Raises:
        PlaybookError: the error is none with a sentence of its own, and triggers fire; names them.
    """
    failure = explain_failure(error)
    if is_connection_lost(error) or type(failure) is not PlaybookError:
        return
    firing = read_firing(connection, table, replacement.shadows, replacement.trigger_names)
    if firing:
        named = "; ".join(map(str, firing))
        raise PlaybookError(
            f"{failure} The batch was rolled back. Triggers of {table} fire in it, and one may "
            f"have raised this: {named}. {say_remedy()}"
        ) from None


def _name_before(connection: BaseDatabaseWrapper, replacement: Replacement, table: Table) -> str:
    firing = read_firing(connection, table, replacement.shadows, replacement.trigger_names)
    return name_before(firing)
