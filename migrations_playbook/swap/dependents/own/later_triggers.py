"""The site's triggers that fire after ours: what they draw, ours have not seen.

PostgreSQL fires the BEFORE triggers of a row in the order of their names, byte by byte. After the
quarantine's copy a drawn token would be no retired value, so a revert would bring another token.
After the fill of a live column that may be null, the row would stay without a shadow.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.quarantine.base import FIRST, LAST
from migrations_playbook.swap.dependents.base import Dependent, DependentKind
from migrations_playbook.swap.dependents.definitions.reading import Reading

# `tgtype` has a bit each for ROW, BEFORE, INSERT and UPDATE. The type `name` compares bytes.
LATER = sql.SQL("""
    SELECT t.tgname, t.tgrelid, t.tgname > %s
      FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
     WHERE t.tgrelid = ANY (%s) AND NOT t.tgisinternal AND t.tgparentid = 0
       AND t.tgenabled IN ('O', 'A') AND t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0
       AND t.tgname <> ALL (%s) AND NOT starts_with(ltrim(t.tgname, '~'), %s)
       AND (t.tgname > %s
            OR t.tgname > %s AND EXISTS (SELECT FROM unnest(%s::text[]) AS nullable (name)
                                         WHERE pg_catalog.strpos(lower(p.prosrc),
                                                                 lower(nullable.name)) > 0))
     ORDER BY t.tgname, t.tgrelid""")


def read_later(reading: Reading) -> Iterator[Dependent]:
    """Yield the site's triggers that may draw a token when ours have fired already; by name."""
    pair = reading.pair
    replacement = pair.replacement
    if not replacement.meaning.keeps_out:
        return  # `phase` asks the meaning, which minds every trigger that writes the columns
    fill = replacement.trigger_names[0]
    rows = fetch_all(
        reading.connection,
        LATER,
        [
            LAST,
            pair.oids,
            list(replacement.trigger_names),
            FIRST,
            LAST,
            fill,
            [each.live.name for each in pair.members if not each.live.not_null],
        ],
    )
    relations = {each.table.oid: each for each in pair.relations}
    for name, relation, last in rows:
        ours = LAST if last else fill
        harm = "has another token after a revert" if last else "stays without a fresh one"
        what = f"fires after {ours}, so a row whose token it draws {harm}"
        yield Dependent(
            "trigger",
            relations[relation].labelled(name),
            what if pair.swapped else "by its name",
            # The way back stays open.
            refused=None if pair.swapped else f"it {what}; rename it to come before by its bytes",
        )


KIND = DependentKind(read_later)
