"""Puts the triggers of a shadow back that no model declares any more.

`pgtrigger install` of a later release prunes what its models do not declare. It cannot put back
what they have forgotten; the migrations remember it.
"""

from __future__ import annotations

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from migrations_playbook.phase import read_state
from migrations_playbook.postgres import locks
from migrations_playbook.replacement import Replacement


def restore_triggers(connection: BaseDatabaseWrapper, replacement: Replacement) -> bool:
    """Install the triggers of a shadow anew where one is missing or disabled.

    Lock: ACCESS EXCLUSIVE on the table, taken boundedly; none when they are at work.

    Returns:
        Whether it was needed.

    Raises:
        LockNotAvailable: the lock was not to be had; nothing was changed.
    """
    if read_state(connection, replacement).problem is None:
        return False
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        locks.reserve(connection, replacement.identifier)
        locks.seize(connection, replacement.identifier)
        for trigger in replacement.declaration.triggers:
            compiled = trigger.compile(replacement.model)  # type: ignore[arg-type]
            cursor.execute(compiled.install_sql)
    return True
