"""The site's own triggers that fire on an update of a single column, such as a backfill's.

PostgreSQL cannot leave a trigger out for one session alone, but all of them:
`session_replication_role = replica`, for superusers, turns off ours too. A function of
django-pgtrigger's asks `pgtrigger.ignore`; any other function may ask `LEAVING_OUT`.

Lock: none that conflicts with anything, in every function of this file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import Refused
from migrations_playbook.postgres.names import OURS
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.tables import TREE, Table

# On in every batch of a backfill: a function of the site, or a WHEN, may ask for it.
LEAVING_OUT = "migrations_playbook.backfill"
# The setting that django-pgtrigger's functions ask, and the function by which they do.
IGNORE = "pgtrigger.ignore"
ASKS_IGNORE = "_pgtrigger_should_ignore"

# `tgtype` has bits: 1 for each row, 2 before, 16 on UPDATE. A batch names a table with rows, so a
# partitioned table's own triggers for each statement do not fire, and its triggers for each row
# have a clone in each partition. (PostgreSQL 14 has clones as internal, and those of foreign keys
# are.)
FIRING = sql.SQL("""
    SELECT DISTINCT
           CASE WHEN t.tgparentid <> 0 OR c.oid = %s THEN t.tgname::text
                ELSE t.tgname || ' on ' || c.oid::regclass END,
           t.tgname::text, t.tgtype & 1 <> 0, t.tgtype & 2 <> 0, t.tginitdeferred,
           t.tgqual IS NOT NULL, pg_catalog.strpos(p.prosrc, %s) > 0,
           pg_catalog.strpos(p.prosrc || pg_catalog.pg_get_triggerdef(t.oid), %s) > 0
      FROM {tree} AS tree
      JOIN pg_catalog.pg_class c ON c.oid = tree.oid AND c.relkind = 'r'
      JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid
      JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
      LEFT JOIN pg_catalog.pg_constraint k ON k.oid = t.tgconstraint
      LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = ANY (%s)
     WHERE (NOT t.tgisinternal OR t.tgparentid <> 0) AND coalesce(k.contype, 't') = 't'
       AND t.tgtype & 16 <> 0 AND t.tgenabled IN ('O', 'A')
       AND (t.tgattr = '' OR a.attnum = ANY (t.tgattr))
       AND t.tgname <> ALL (%s) AND NOT starts_with(ltrim(t.tgname, '~'), %s)
     ORDER BY 1""")


@dataclass(frozen=True)
class SiteTrigger:
    """A trigger that fires on an update of a column.

    Arguments:
        label: its name, with a partition's where the trigger is the partition's own.
        name: its name in the catalog.
        each_row: whether it fires for each row, not once a statement.
        before: whether it fires before the change, and may prevent or alter the change.
        deferred: whether it fires at the commit.
        conditional: whether it has a WHEN.
        ignorable: whether its function is django-pgtrigger's, and asks `IGNORE`.
        asks: whether its function or its WHEN asks `LEAVING_OUT`.
    """

    label: str
    name: str
    each_row: bool
    before: bool
    deferred: bool
    conditional: bool
    ignorable: bool
    asks: bool

    def __str__(self) -> str:
        said = ["before" if self.before else "at the commit, after" if self.deferred else "after"]
        said.append("each row" if self.each_row else "each batch")
        if self.conditional:
            said.append("where its WHEN holds")
        if self.asks:
            said.append(f"asking {LEAVING_OUT}")
        return f"{self.label} ({' '.join(said[:2])}{''.join(f', {each}' for each in said[2:])})"


def read_firing(
    connection: BaseDatabaseWrapper,
    table: Table,
    columns: Collection[str],
    besides: Collection[str] = (),
) -> list[SiteTrigger]:
    """Read the enabled triggers that an update of columns of a table fires, by name.

    Arguments:
        columns: the columns; they may be missing yet.
        besides: the declared triggers' names, to be left out, as the quarantine's are.
    """
    rows = fetch_all(
        connection,
        FIRING.format(tree=TREE),
        [table.oid, ASKS_IGNORE, LEAVING_OUT, table.oid, list(columns), list(besides), OURS],
    )
    return [SiteTrigger(*row) for row in rows]


def name_before(firing: Sequence[SiteTrigger]) -> str:
    """Name the triggers that may keep a new value from its row; "" without any."""
    return "; ".join(str(each) for each in firing if each.before and each.each_row)


def say_firing(firing: Sequence[SiteTrigger]) -> str:
    """Say which triggers fire, and how to leave one out."""
    named = "; ".join(map(str, firing))
    return (
        f"Triggers of the table fire on the update of each row: {named}. What they do, they do "
        "with every fresh value before it is in use: --skip-trigger leaves one out."
    )


def say_remedy() -> str:
    """Say how to let a backfill pass by a trigger."""
    return (
        "Let it pass these rows, or leave it out with --skip-trigger; then run the same command "
        "again."
    )


def refuse_unskippable(table: Table, firing: Sequence[SiteTrigger], skipped: Sequence[str]) -> None:
    """Refuse to leave out a trigger that does not fire, or that cannot be left out.

    Arguments:
        firing: see `read_firing`.
        skipped: the names of the triggers to be left out.

    Raises:
        Refused: names the trigger, the reason and the remedy.
    """
    for name in skipped:
        found = [each for each in firing if each.name == name]
        if not found:
            known = ", ".join(dict.fromkeys(each.name for each in firing)) or "none"
            raise Refused(
                f"No trigger {name!r} of the site fires on the backfill of {table}; nothing was "
                f"changed. Take it out of --skip-trigger. Those that fire: {known}."
            )
        if not all(each.ignorable or each.asks for each in found):
            raise Refused(
                f"The trigger {name!r} on {table} is none of django-pgtrigger's, and PostgreSQL "
                "leaves no trigger out for a single session, but all of them, ours too; nothing "
                f"was changed. Begin its function with IF current_setting('{LEAVING_OUT}', true) "
                "= 'on' THEN RETURN NEW; END IF; and run the same command again."
            )


def skip_settings(skipped: Sequence[str]) -> dict[str, str]:
    """Say the settings by which a transaction leaves triggers out; see `refuse_unskippable`."""
    return {LEAVING_OUT: "on", **({IGNORE: spell_ignored(skipped)} if skipped else {})}


def spell_ignored(names: Iterable[str]) -> str:
    """Spell triggers' names for `IGNORE`: an array of PostgreSQL's."""
    quoted = ",".join(f'"{name}"' for name in names)
    return f"{{{quoted}}}"
