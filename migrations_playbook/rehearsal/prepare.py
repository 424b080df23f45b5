"""The swap's preparation alone, so that the rehearsal can time it: `python -m ...prepare`."""

from __future__ import annotations

import sys

import django
from django.db import DEFAULT_DB_ALIAS

from migrations_playbook import locks, swap
from migrations_playbook.database import postgresql
from migrations_playbook.errors import PlaybookError
from migrations_playbook.prepare import prepare
from migrations_playbook.shadow import find


def main(model: str, shadow: str) -> None:
    """Do all that scans, and exchange nothing."""
    django.setup()
    bound = find(model, shadow)
    connection = postgresql(DEFAULT_DB_ALIAS)
    try:
        pair = swap.swappable(connection, bound, revert=False)
        for _ in prepare(connection, pair, locks.DEFAULT_POLICY):
            pass
    except PlaybookError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
