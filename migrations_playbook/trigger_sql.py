"""How a trigger is installed. FROZEN: applied migrations import this; a change is a new class."""

from __future__ import annotations

from pgtrigger import compiler

# Where the triggers' functions look names up, as PinnedTriggerSql pins the path.
TRIGGER_PATH = "pg_catalog, public, pg_temp"


class PinnedTriggerSql(compiler.UpsertTriggerSql):
    """A trigger whose function looks names up in fixed schemas only.

    A trigger function runs with the search_path of whoever writes the row: without this, a
    schema that comes earlier in a session's path could put its own gen_random_uuid() in front.
    """

    def get_template(self) -> str:
        """Return django-pgtrigger's template with the search_path pinned."""
        return (
            super().get_template()
            + "ALTER FUNCTION {pgid}() SET search_path = pg_catalog, public, pg_temp;"
        )
