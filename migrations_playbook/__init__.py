"""Online column replacement for Django and PostgreSQL: the shadow-column playbook.

Declare once on the model which column is replaced, and the new value::

    class Meta:
        triggers = Shadow(live="token", shadow="new_token", value=RandomUUID()).triggers

The plays, in the order in which they are played: `expand` (a migration), `backfill`, `swap`,
`contract` (a migration of a later release).
"""

import migrations_playbook.apps  # noqa: F401 - registers the check that it is installed
from migrations_playbook.shadow import Group, Shadow
from migrations_playbook.values import (
    DIGITS,
    HEX,
    UNAMBIGUOUS,
    URL_SAFE,
    AtTimeZone,
    RandomHexUUID,
    RandomText,
    Sha256,
)

__all__ = [
    "DIGITS",
    "HEX",
    "UNAMBIGUOUS",
    "URL_SAFE",
    "AtTimeZone",
    "Group",
    "RandomHexUUID",
    "RandomText",
    "Sha256",
    "Shadow",
]
