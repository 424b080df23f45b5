"""Objects that pg_depend binds to the columns but no kind claims: refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.swap.dependents.base import Dependent
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.pair import COLUMNS, EXPRESSION, Object

GENERATED = "its stored values come from the {}; drop it, and add it again after the swap"
UNKNOWN = "the swap does not know how to carry it over; drop it, and create it again after the swap"


BOUND_OBJECTS = sql.SQL("""
    SELECT CASE WHEN f.oid IS NULL THEN c.relname ELSE 'pg_attrdef' END,
           coalesce(f.oid, d.objid), col.name, a.attname IS NOT NULL,
           coalesce(a.attname || ' of table ' || d.refobjid::regclass::text,
                    i.type || ' ' || i.identity)
      FROM pg_catalog.pg_depend d
      JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
      JOIN pg_catalog.pg_class c ON c.oid = d.classid
      {expression}
      LEFT JOIN pg_catalog.pg_attribute a
             ON a.attrelid = f.adrelid AND a.attnum = f.adnum
     CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) AS i
     WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
     ORDER BY 5""")


def read_unknown(reading: Reading, claimed: Iterable[Object]) -> Iterator[Dependent]:
    """Yield the objects bound to either column that are not claimed.

    Arguments:
        claimed: the objects that the kinds stand for.
    """
    pair = reading.pair
    seen = {*claimed, *(object_ for each in reading.bound for object_ in each.sequences)}
    # pg_identify_object speaks one language; pg_describe_object is translated.
    rows = fetch_all(
        reading.connection,
        BOUND_OBJECTS.format(columns=COLUMNS, expression=EXPRESSION),
        pair.columns,
    )
    for catalog, oid, column, generated, name in rows:
        if (catalog, oid) in seen:
            continue
        seen.add((catalog, oid))
        yield Dependent(
            "generated column" if generated else "object",
            name,
            f"on {column}",
            frozenset({column}),
            frozenset({(catalog, oid)}),
            refused=GENERATED.format(pair.replacement.meaning.words.retired)
            if generated
            else UNKNOWN,
        )
