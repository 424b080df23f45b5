"""One process of a rehearsal: `python -m migrations_playbook.rehearsal`.

Reads one JSON object from standard input: the job, the scratch database, the script, and the job's
arguments. The project's settings are used as they are, but for the databases' names.
"""

from __future__ import annotations

import json
import os
import sys
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
    """Do the job that standard input names; end with one sentence if it cannot be done."""
    task: dict[str, Any] = json.loads(sys.stdin.readline())
    point_databases(task["database"])
    django.setup()
    alias, arguments = task["alias"], task["arguments"]
    try:
        refuse_other_database(alias, task["database"])
        if task["job"] == "command":
            run_command(arguments["words"])
        else:
            JOBS[task["job"]](Script(**task["script"]), alias, **arguments)
    except (PlaybookError, CommandError) as error:
        sys.exit(str(error))
    except DatabaseError as error:
        # The traceback would end with the DETAIL, which quotes the offending row.
        sys.exit(f"PostgreSQL says: {primary_message(error)}.")


def point_databases(name: str) -> None:
    """Give every database of the settings the name of the scratch one, before Django is set up.

    A router or a second alias of the project then leads there too, or nowhere: no process of a
    rehearsal can reach anything that is real.

    Arguments:
        name: the scratch database's name.
    """
    for alias, found in settings.DATABASES.items():
        options = {key: value for key, value in found.get("OPTIONS", {}).items() if key != "dbname"}
        is_file = found.get("ENGINE", "").endswith(("sqlite3", "spatialite"))
        settings.DATABASES[alias] = {
            **found,
            "NAME": ":memory:" if is_file else name,
            "OPTIONS": options,
        }


def refuse_other_database(alias: str, name: str) -> None:
    """Make sure that this process is where it should be: a pooler may lead elsewhere.

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


def run_command(arguments: list[str]) -> None:
    """Run a management command as `manage.py` does."""
    # A command reads no standard input here, and none is left open behind it.
    sys.stdin.close()
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115 - until the process ends
    ManagementUtility(["manage.py", *arguments]).execute()


if __name__ == "__main__":
    main()
