"""A process of a rehearsal: `python -m migrations_playbook.rehearsal`.

Reads a JSON object from standard input: the job, the scratch database, the script, and the job's
arguments. The project's settings are used as they are, but for the databases' names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings
from django.core.management import CommandError, ManagementUtility
from django.db import Error as DatabaseError
from django.db import connections

from migrations_playbook.errors import PlaybookError, primary_message
from migrations_playbook.rehearsal import stage
from migrations_playbook.rehearsal.script import Script
from migrations_playbook.rehearsal.traffic.crew import run_client

JOBS: dict[str, Callable[..., None]] = {
    "client": run_client,
    "contract": stage.drop_shadow,
    "go back": stage.go_back,
    "add rows": stage.add_rows,
    "prepare": stage.prepare_swap,
}


def main() -> None:
    """Do the job that standard input names; end with a sentence where impossible."""
    task: dict[str, Any] = json.loads(sys.stdin.readline())
    point_databases(settings.DATABASES, task["database"])
    django.setup()
    if task["job"] != "client":  # which ends with its requests and its books
        end_with_input()
    alias, arguments = task["alias"], task["arguments"]
    try:
        refuse_other_database(alias, task["database"])
        if task["job"] == "command":
            run_command(**arguments)
        else:
            JOBS[task["job"]](Script(**task["script"]), alias, **arguments)
    except (PlaybookError, CommandError) as error:
        sys.exit(str(error))
    except DatabaseError as error:
        # The traceback would end with the DETAIL, which quotes the offending row.
        sys.exit(f"PostgreSQL says: {primary_message(error)}.")


def point_databases(databases: dict[str, dict[str, Any]], name: str) -> None:
    """Give every database of the settings the scratch database's name, before Django is set up.

    A router or a second alias of the project then leads there too, or nowhere: no process of a
    rehearsal can reach anything real.

    Arguments:
        databases: the setting, which is changed.
        name: the scratch database's name.
    """
    for alias, found in databases.items():
        options = {key: value for key, value in found.get("OPTIONS", {}).items() if key != "dbname"}
        is_file = found.get("ENGINE", "").endswith(("sqlite3", "spatialite"))
        databases[alias] = {
            **found,
            "NAME": ":memory:" if is_file else name,
            "OPTIONS": options,
        }


def refuse_other_database(alias: str, name: str) -> None:
    """Refuse any database but the scratch database: a pooler may lead elsewhere.

    Raises:
        PlaybookError: the connection leads to another database.
    """
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_catalog.current_database()")
        (found,) = cursor.fetchone()
    if found != name:
        raise PlaybookError(
            f'The connection of "{alias}" leads to "{found}" rather than to the scratch database. '
            "Name the server itself in DATABASES, not a pooler."
        )


def run_command(words: list[str]) -> None:
    """Run a management command as `manage.py` does."""
    ManagementUtility(["manage.py", *words]).execute()


def end_with_input() -> None:
    """End by SIGTERM once the rehearsal is gone, so a killed rehearsal leaves nobody behind.

    Whoever reads standard input from here on finds it at its end.
    """
    lifeline = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def wait_for_end() -> None:
        lifeline.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_end, daemon=True).start()


if __name__ == "__main__":
    main()
