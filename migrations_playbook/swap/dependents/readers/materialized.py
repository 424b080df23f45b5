"""Materialized views: they hold copies of the leaked values, and are bound by attribute number.

The exchange leaves a twin without data beside each, from the same text: its names mean the new
columns. Afterwards a view that reads the column itself is replaced by its twin, which is filled and
indexed first; a view that reads the column through another view is refreshed, and its twin dropped.
So the twins show the remaining work after any interruption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.names import spell_names
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.roles import may_not_create, not_owned
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.definitions.parse_trees import ALIAS_LIST, of_relations
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.dependents.readers.renewal import (
    Copy,
    drop_twin,
    leave_twin,
    renew,
    try_query,
    twin_address,
    twin_name,
)
from migrations_playbook.swap.dependents.readers.through_functions import SEEN, seen_parameters
from migrations_playbook.swap.dependents.readers.views import BY_POSITION
from migrations_playbook.swap.pair import COLUMNS, Pair

COPIES = (
    "it holds copies of the {}; run the swap with --refresh-materialized-views, which "
    "builds it anew afterwards"
)


def read_materialized_views(reading: Reading) -> Iterator[Dependent]:
    """Yield the materialized views that read either column, or through views and functions.

    Lock: none on the table but ACCESS SHARE; ACCESS EXCLUSIVE on the materialized view for the
    moment of its replacement, or for a refresh without CONCURRENTLY.
    """
    connection, pair = reading.connection, reading.pair
    for copy, twin in _with_twins(pair, _read_copies(connection, pair)):
        how = describe_columns(pair, copy.names if copy.direct else ())
        how = "through a function" if copy.called else how
        rules = [each.rule for each in (copy, twin) if each is not None and each.direct]
        each = Dependent(
            "materialized view",
            str(copy),
            how if twin is None else f"{how}, not renewed yet",
            frozenset(copy.names if copy.direct else ()),
            frozenset(("pg_rewrite", rule) for rule in rules),
            rest=renew(connection, pair, copy) if twin is not None else (),
            holds_copies=True,
        )
        dropped = (drop_twin(pair, copy),) if twin is not None else ()
        if copy.direct and twin is not None:
            # An interrupted exchange the other way: the view was never replaced, and is right
            # again.
            refused = not_owned(connection, "materialized view", str(copy), copy.owner)
            yield replace(each, refused=refused, steps=Steps(before_rename=dropped))
        elif (refused := _refusal(reading, copy)) is not None:
            yield replace(each, refused=refused)
        else:
            each = replace(each, stand_in=twin_address(pair, copy))
            renewal = Steps(
                trial=tuple(try_query(copy)),
                before_rename=dropped,
                after_rename=tuple(leave_twin(pair, copy)),
                follow_up=renew(connection, pair, copy),
            )
            yield replace(
                each, refused=COPIES.format(pair.replacement.meaning.words.retired), renewal=renewal
            )


def _with_twins(pair: Pair, found: list[Copy]) -> Iterator[tuple[Copy, Copy | None]]:
    """Yield each materialized view that is nobody's twin, with its own twin or None."""
    by_name = {(each.schema, each.name): each for each in found}
    twins = {(each.schema, twin_name(pair, each.name)) for each in found}
    for each in found:
        if (each.schema, each.name) not in twins:
            yield each, by_name.get((each.schema, twin_name(pair, each.name)))


def _refusal(reading: Reading, each: Copy) -> str | None:
    connection, pair = reading.connection, reading.pair
    refused = not_owned(connection, "materialized view", str(each), each.owner)
    if refused is None:
        refused = may_not_create(connection, each.schema)
    if refused is not None:
        return refused
    shadows = [name for name in each.names if name in pair.shadows]
    if each.direct and shadows and not pair.swapped:
        return (
            f"it reads {spell_names(shadows)}, which will hold the "
            f"{pair.replacement.meaning.words.retired}; drop it first"
        )
    if each.direct and each.dependants:
        return f"{each.dependants} would have to be created again with it; drop it first"
    if each.by_position:
        return BY_POSITION
    if each.direct and each.settings:
        return "its columns have privileges, comments or statistics of their own; drop it first"
    return reading.chain.refuse(("pg_class", each.oid))


COPIES_OF = sql.SQL("""
    WITH RECURSIVE {seen}
    SELECT c.oid, r.rule, n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner),
           r.direct,
           ARRAY(SELECT DISTINCT col.name FROM pg_catalog.pg_depend d
                   JOIN {columns} ON col.relation = d.refobjid
                                 AND col.number = d.refobjsubid
                  WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
                    AND d.refclassid = 'pg_catalog.pg_class'::regclass
                    AND d.objid = r.rule),
           (SELECT string_agg(DISTINCT coalesce(
                       x.ev_class::regclass::text,
                       (SELECT i.type || ' ' || i.identity
                          FROM pg_catalog.pg_identify_object(
                           d.classid, d.objid, d.objsubid) AS i)), ', ')
              FROM pg_catalog.pg_depend d
              LEFT JOIN pg_catalog.pg_rewrite x
                     ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND x.oid = d.objid
             WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
               AND d.refobjid = c.oid AND d.deptype = 'n'
               AND x.ev_class IS DISTINCT FROM c.oid),
           EXISTS (SELECT FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = c.oid AND a.attnum > 0
                      AND (a.attacl IS NOT NULL
                           -- Some servers keep an option of their own on every column.
                           OR EXISTS (SELECT FROM unnest(a.attoptions) o
                                       WHERE NOT pg_catalog.starts_with(o, 'pg_'))
                           OR a.attstattarget >= 0
                           OR pg_catalog.col_description(c.oid, a.attnum) IS NOT NULL))
               OR EXISTS (SELECT FROM pg_catalog.pg_statistic_ext s
                           WHERE s.stxrelid = c.oid),
           EXISTS (SELECT FROM pg_catalog.pg_index i
                    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
                      AND i.indpred IS NULL AND i.indexprs IS NULL)
               AND c.relispopulated,
           c.relispopulated, pg_catalog.pg_get_viewdef(c.oid), m.amname, s.spcname,
           coalesce(c.reloptions, '{{}}'), pg_catalog.obj_description(c.oid, 'pg_class'),
           EXISTS (SELECT FROM pg_catalog.pg_rewrite w
                    WHERE w.oid = r.rule AND w.ev_action::text ~ {alias_list}),
           r.called
      FROM (SELECT oid, rule, bool_or(direct) AS direct, bool_and(called) AS called FROM seen
             WHERE class = 'pg_catalog.pg_class'::regclass GROUP BY oid, rule) AS r
      JOIN pg_catalog.pg_class c ON c.oid = r.oid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
      LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
     WHERE c.relkind = 'm' ORDER BY c.oid""")


def _read_copies(connection: BaseDatabaseWrapper, pair: Pair) -> list[Copy]:
    rows = fetch_all(
        connection,
        COPIES_OF.format(
            columns=COLUMNS, seen=SEEN, alias_list=of_relations(ALIAS_LIST, pair.oids)
        ),
        [*seen_parameters(pair), *pair.columns],
    )
    # A view without a text was dropped by another process while the query ran.
    return [Copy(*row) for row in rows if row[11] is not None]


# The stamp of the views covers materialized views too.
KIND = DependentKind(read_materialized_views)
