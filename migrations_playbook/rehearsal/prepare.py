"""The swap's preparation alone, so that the rehearsal can time it: `python -m ...prepare`."""

from __future__ import annotations

import sys

import django
from django.db import DEFAULT_DB_ALIAS

from migrations_playbook.errors import PlaybookError
from migrations_playbook.postgres import locks
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.replacement import find_replacement
from migrations_playbook.swap.play import swappable
from migrations_playbook.swap.prepare import prepare


def main(model: str, shadow: str) -> None:
    """Do all that scans, and exchange nothing."""
    django.setup()
    replacement = find_replacement(model, shadow)
    connection = postgresql(DEFAULT_DB_ALIAS)
    try:
        pair = swappable(connection, replacement, revert=False)
        for _ in prepare(connection, pair, locks.DEFAULT_POLICY):
            pass
    except PlaybookError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
