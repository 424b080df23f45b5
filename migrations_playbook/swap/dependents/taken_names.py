"""Names that the swap needs, and something else has: of constraints, and of the quarantine.

An index's twin says so by itself, since it may be built again (`twins`).
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.names import compose_name
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.quarantine.base import WHILE_SWAPPED, Quarantine, name_quarantine
from migrations_playbook.swap.dependents.base import Dependent, DependentKind
from migrations_playbook.swap.dependents.definitions.constraints import checks_to_restate
from migrations_playbook.swap.dependents.definitions.reading import Reading

REFUSED = "the swap needs its name; rename it"

TAKEN_CONSTRAINTS = sql.SQL("""
    SELECT k.oid, k.conname || ' on ' || k.conrelid::regclass::text
      FROM pg_catalog.pg_constraint k
     WHERE k.conrelid = ANY (%s)
       AND (k.conname = ANY (%s)
            OR k.conname = ANY (%s) AND NOT (k.oid = ANY (%s) OR k.conindid = ANY (%s)))
     ORDER BY 2""")

# The remains of an earlier quarantine are taken over, so the same kind of object may be there.
TAKEN_BY_OTHERS = sql.SQL("""
    SELECT 'relation', 'pg_class', c.oid, c.oid::regclass::text
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %s
       AND (c.relname = ANY (%s) AND c.relkind <> 'S'
            OR c.relname = %s
               AND NOT (c.relkind = 'r'
                        AND EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                     WHERE a.attrelid = c.oid AND a.attname = 'digest'
                                       AND a.atttypid = 'pg_catalog.bytea'::regtype)))
    UNION ALL
    SELECT 'function', 'pg_proc', p.oid, p.oid::regprocedure::text
      FROM pg_catalog.pg_proc p
      JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname = %s AND p.proname = ANY (%s) AND p.pronargs = 0
       AND p.prorettype <> 'pg_catalog.trigger'::regtype
    UNION ALL
    SELECT 'trigger', 'pg_trigger', t.oid, t.tgname
      FROM pg_catalog.pg_trigger t
     WHERE t.tgrelid = ANY (%s) AND t.tgname = ANY (%s) AND t.tgparentid = 0
     ORDER BY 4""")


def read_namesakes(reading: Reading) -> Iterator[Dependent]:
    """Yield what has a name that the exchange gives away; by name."""
    yield from _constraints(reading)
    for member, bound in zip(reading.pair.members, reading.bound, strict=True):
        names = (member.live.name, member.shadow.name)
        if member.replacement.meaning.keeps_out and not bound.triggers:
            yield from _others(reading, name_quarantine(reading.pair.table, *names, None, bound))


def _constraints(reading: Reading) -> Iterator[Dependent]:
    pair = reading.pair
    checks = checks_to_restate(pair, reading.constraints, reading.staying)
    indexes = (part.index for family in reading.families for part in family)
    names = [each.name for each in checks]
    names += [each.name for each in indexes if each.constraint is not None]
    rows = fetch_all(
        reading.connection,
        TAKEN_CONSTRAINTS,
        [
            pair.oids,
            [compose_name(name, "between") for name in names],
            [*map(pair.twin_name, names), *pair.not_null_checks],
            [each.oid for each in reading.constraints],
            [each.oid for each in reading.indexes],
        ],
    )
    for oid, name in rows:
        covers = frozenset({("pg_constraint", oid)})
        yield Dependent("constraint", name, "by its name", covers=covers, refused=REFUSED)


def _others(reading: Reading, quarantine: Quarantine) -> Iterator[Dependent]:
    rows = fetch_all(
        reading.connection,
        TAKEN_BY_OTHERS,
        [
            quarantine.schema,
            [quarantine.name(kind) for kind in ("hits", "last")],
            quarantine.name("leaked"),
            quarantine.schema,
            [quarantine.name(kind) for kind in ("ward", "copy", "remember")],
            reading.pair.oids,
            [each.prefix + quarantine.stem for each in WHILE_SWAPPED],
        ],
    )
    for kind, catalog, oid, name in rows:
        covers = frozenset({(catalog, oid)})
        yield Dependent(kind, name, "by its name", covers=covers, refused=REFUSED)


KIND = DependentKind(read_namesakes)
