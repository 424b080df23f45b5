"""Work on the scratch database besides the commands: each in a process of its own.

Release N's table, rows, the swap's preparation alone, and a contract that the project has not
written yet.
"""

from __future__ import annotations

from django.core.management import call_command
from django.db import Error as DatabaseError
from django.db import connections

from migrations_playbook.contract.drop_operations import DropShadow
from migrations_playbook.errors import PlaybookError, primary_message
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.rehearsal.script import Script, import_callable
from migrations_playbook.rehearsal.states import ReleaseStates
from migrations_playbook.rehearsal.traffic.rows import RowFactory
from migrations_playbook.replacement import find_replacement
from migrations_playbook.swap.gate import SwapRequest, pass_gate
from migrations_playbook.swap.prepare import prepare


def read_states(script: Script, alias: str) -> ReleaseStates:
    """Read the migrations of this process's project."""
    return ReleaseStates(connections[alias], find_replacement(script.model, script.shadow))


def go_back(script: Script, alias: str) -> None:
    """Migrate to release N: forwards in an empty database, backwards in a copy that is ahead.

    Lock: ACCESS EXCLUSIVE on whatever the migrations change; nobody else is there.
    """
    for app_label, name in read_states(script, alias).before():
        call_command("migrate", app_label, name, database=alias, verbosity=0, skip_checks=True)


def add_rows(script: Script, alias: str, *, count: int) -> None:
    """Add rows to the table of release N.

    Lock: ROW EXCLUSIVE on the table.

    Raises:
        PlaybookError: PostgreSQL takes no such row.
    """
    replacement = find_replacement(script.model, script.shadow)
    model = read_states(script, alias).read_model("N")
    make = import_callable(script.row) if script.row else None
    try:
        RowFactory(model, replacement, alias, make).insert(count)
    except DatabaseError as error:
        how = f"by {script.row!r}" if script.row else "of its defaults"
        raise PlaybookError(
            f"No row of {script.model} can be made {how}: PostgreSQL says: "
            f"{primary_message(error)}. Name a callable that returns a row's fields with --row."
        ) from None


def prepare_swap(script: Script, alias: str) -> None:
    """Do the scanning part of the swap, and exchange nothing, for the rehearsal to time.

    Lock: SHARE UPDATE EXCLUSIVE on the table, as `swap.prepare` says.
    """
    connection = postgresql(alias)
    replacement = find_replacement(script.model, script.shadow)
    inventory = pass_gate(SwapRequest(connection, replacement, revert=False))
    for _ in prepare(connection, inventory, LockPolicy()):
        pass


def drop_shadow(script: Script, alias: str) -> None:
    """Drop the column that goes by the operation of release N+3's migration.

    Lock: ACCESS EXCLUSIVE on the table, taken boundedly.
    """
    declaration = find_replacement(script.model, script.shadow).declaration
    app_label, _, name = script.model.partition(".")
    operation = DropShadow(name.lower(), live=declaration.kept, shadow=declaration.dropped)
    state = read_states(script, alias).read_state("N+3")
    with connections[alias].schema_editor() as editor:
        operation.database_forwards(app_label, editor, state, state)
