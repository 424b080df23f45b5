"""Puts the triggers of a shadow back that no model declares any more.

`pgtrigger install` of a later release prunes triggers that its models do not declare. Only the
migrations remember the forgotten triggers, and can put them back.
"""

from __future__ import annotations

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.phase import read_catalog_state
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.query import set_local
from migrations_playbook.replacement import Replacement


def restore_triggers(connection: BaseDatabaseWrapper, replacement: Replacement) -> bool:
    """Install the triggers of a shadow anew where any is missing or disabled.

    Lock: ACCESS EXCLUSIVE on the table, taken boundedly; none when they are at work.

    Returns:
        Whether the triggers needed repair.

    Raises:
        LockNotAvailable: the lock was not granted; nothing was changed.
    """
    if read_catalog_state(connection, replacement).problem is None:
        return False
    with transaction.atomic(using=connection.alias):
        locks.reserve(connection, replacement.identifier)
        locks.seize(connection, replacement.identifier)
        install_triggers(connection, replacement)
    return True


def install_triggers(connection: BaseDatabaseWrapper, replacement: Replacement) -> None:
    """Install the declared triggers, in the place of those that are there.

    Lock: ACCESS EXCLUSIVE on the table, held by the caller.

    Arguments:
        connection: in a transaction.
    """
    if replacement.schema:
        # django-pgtrigger names the table and its functions without a schema.
        schema = sql.Identifier(replacement.schema).as_string(None)
        set_local(connection, "search_path", f"{schema}, public")
    with connection.cursor() as cursor:
        for trigger in replacement.declaration.triggers:
            compiled = trigger.compile(replacement.model)  # type: ignore[arg-type]
            cursor.execute(compiled.install_sql)
