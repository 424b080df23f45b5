"""How a trigger is installed. FROZEN: applied migrations import this; a change is a new class."""

from __future__ import annotations

from pgtrigger import compiler

# Where the triggers' functions look names up, as PinnedTriggerSql pins the path.
TRIGGER_PATH = "pg_catalog, public, pg_temp"
# The settings of a sync trigger's function beside the path, in the order of its statements.
FUNCTION_SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}
# All of its settings, for a statement that makes the same values.
SYNC_SETTINGS = {"search_path": TRIGGER_PATH, **FUNCTION_SETTINGS}


class PinnedTriggerSql(compiler.UpsertTriggerSql):
    """A trigger whose function looks names up in fixed schemas only.

    A trigger function runs with the search_path of whoever writes the row: without this, a
    schema that comes earlier in a session's path could put its own gen_random_uuid() in front.
    """

    def get_template(self) -> str:
        """Return django-pgtrigger's template with the search_path pinned."""
        return (
            super().get_template() + f"ALTER FUNCTION {{pgid}}() SET search_path = {TRIGGER_PATH};"
        )


class SyncTriggerSql(PinnedTriggerSql):
    """A trigger that makes one column's value from another's.

    What a conversion makes of a value may depend on settings of the session: they are fixed, or two
    clients would make two values. A sequence of the function's name counts the writes of both
    columns that did not agree; whoever writes may count.
    """

    def get_template(self) -> str:
        """Return the pinned template with the settings fixed, and the sequence."""
        return (
            super().get_template()
            + "".join(
                f"ALTER FUNCTION {{pgid}}() SET {name} = '{value}';"
                for name, value in FUNCTION_SETTINGS.items()
            )
            + "CREATE SEQUENCE IF NOT EXISTS {pgid};"
            + "GRANT USAGE ON SEQUENCE {pgid} TO PUBLIC;"
        )
