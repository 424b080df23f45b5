"""Restated means the same: PostgreSQL says so, under the lock, before the commit.

An object carried over by its text may come back with another meaning: an alias list names columns
by their position, an operator may be another operator along another search_path. So the references
of each object (columns, operators, functions, types) are read before and after the exchange, and
must be the same with the columns exchanged. The target columns of a MERGE in a parsed function
are unknown to pg_depend: there the function's text must be the same.

Another type has other operators and functions by nature. There the tables, views and columns are
compared, a view by its name: it may have been made again.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import Refused
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.swap.dependents.inventory import Inventory
from migrations_playbook.swap.pair import COLUMNS, Object, Pair

# A catalog, an oid, and a column's attribute number or 0, as PostgreSQL writes the three as a row.
Reference = str


@dataclass(frozen=True)
class Meaning:
    """The meaning of an object, whatever its own oid.

    Arguments:
        object: the catalog and the oid.
        references: the objects on which this object depends, its own table's constraints apart.
        text: a digest of a function's text; empty for anything else.
    """

    object: Object
    references: frozenset[Reference]
    text: str


# By the address that pg_identify_object gives, without quotes: an address outlives a DROP and a
# CREATE, and is never translated.
Meanings = dict[str, Meaning]


MEANINGS = sql.SQL("""
    WITH object AS (
        SELECT DISTINCT d.classid, d.objid
          FROM pg_catalog.pg_depend d
          JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
         WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
           -- A part belongs to its whole, and is as the whole is.
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend whole
                            WHERE whole.classid = d.classid AND whole.objid = d.objid
                              AND whole.deptype IN ('P', 'S'))
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
                             LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid = k.conindid
                            WHERE d.classid = 'pg_catalog.pg_constraint'::regclass
                              AND k.oid = d.objid
                              AND (h.inhrelid IS NOT NULL
                                   OR k.coninhcount > 0 AND NOT k.conislocal))
        UNION
        SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid
          FROM pg_catalog.pg_index i
          JOIN {columns} ON col.relation = i.indrelid AND col.number = ANY (i.indkey)
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h
                            WHERE h.inhrelid = i.indexrelid)
        UNION
        SELECT ('pg_catalog.' || catalog)::regclass, oid
          FROM unnest(%s::text[], %s::oid[]) AS carried (catalog, oid)
        UNION
        SELECT 'pg_catalog.pg_rewrite'::regclass, r.oid
          FROM unnest(%s::text[]) AS remade (name)
          JOIN pg_catalog.pg_rewrite r ON r.ev_class = pg_catalog.to_regclass(remade.name))
    SELECT c.relname, object.objid,
           replace(address.type || ' ' || address.identity, '"', ''),
           ARRAY(SELECT {reference}
                   FROM pg_catalog.pg_depend d
                  WHERE {compared} AND d.classid = object.classid AND d.objid = object.objid
                    AND d.refclassid <> 'pg_catalog.pg_constraint'::regclass
                    -- Its own view, constraint, or whole: another oid where it is made anew.
                    AND d.deptype NOT IN ('i', 'P', 'S')
                    -- Up to PostgreSQL 15 a view's rule names the view, as OLD and NEW, beside.
                    AND (d.refobjid = rule.ev_class
                         AND d.refclassid = 'pg_catalog.pg_class'::regclass) IS NOT TRUE
                 UNION ALL
                 SELECT ROW('pg_catalog.pg_class'::regclass, i.indrelid, key.number)::text
                   FROM unnest(i.indkey) AS key (number) WHERE key.number <> 0),
           CASE WHEN c.relname = 'pg_proc'
                THEN md5(pg_catalog.pg_get_functiondef(object.objid)) ELSE '' END
      FROM object
      JOIN pg_catalog.pg_class c ON c.oid = object.classid
      LEFT JOIN pg_catalog.pg_rewrite rule
             ON object.classid = 'pg_catalog.pg_rewrite'::regclass
            AND rule.oid = object.objid AND rule.rulename = '_RETURN'
      LEFT JOIN pg_catalog.pg_index i
             ON object.classid = 'pg_catalog.pg_class'::regclass AND i.indexrelid = object.objid
     CROSS JOIN LATERAL pg_catalog.pg_identify_object(object.classid, object.objid, 0)
                AS address""")


# How a reference is written, and which references are compared.
EXACT = {
    "reference": sql.SQL("ROW(d.refclassid::regclass, d.refobjid, d.refobjsubid)::text"),
    "compared": sql.SQL("true"),
}
OF_ANOTHER_TYPE = {
    "reference": sql.SQL("""coalesce(
                    (SELECT ROW('view', n.nspname, v.relname, d.refobjsubid)::text
                       FROM pg_catalog.pg_class v
                       JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
                      WHERE v.oid = d.refobjid AND v.relkind = 'v'), {exact})""").format(
        exact=EXACT["reference"]
    ),
    "compared": sql.SQL("d.refclassid = 'pg_catalog.pg_class'::regclass"),
}


def read_meanings(connection: BaseDatabaseWrapper, inventory: Inventory) -> Meanings:
    """Read the objects bound to the columns, each with the objects on which it depends.

    An index is known by its key columns too: an index of a constraint depends on nothing else.

    Lock: none that conflicts with anything.

    Arguments:
        inventory: as before the exchange: pg_depend binds some functions, and what stands on views
            that are made again, to no column.
    """
    pair = inventory.pair
    rows = fetch_all(
        connection,
        MEANINGS.format(columns=COLUMNS, **(OF_ANOTHER_TYPE if pair.changes_type else EXACT)),
        [*pair.columns, *pair.columns, *inventory.carried_apart, list(inventory.remade)],
    )
    return {
        # A function's text may say the other type.
        address: Meaning((catalog, oid), frozenset(references), "" if pair.changes_type else text)
        for catalog, oid, address, references, text in rows
        if address is not None
    }


@dataclass(frozen=True)
class Expected:
    """The meaning that an object must have after the exchange.

    Arguments:
        dependent: the object, for a person.
        references, text: as in `Meaning`.
        may_be_gone: whether the exchange may have dropped the object on purpose.
    """

    dependent: str
    references: frozenset[Reference]
    text: str
    may_be_gone: bool


def expect_meanings(inventory: Inventory, before: Meanings) -> dict[str, Expected]:
    """Tell by address what every object carried over must mean after the exchange.

    Arguments:
        inventory: as before the exchange.
        before: the meanings before the exchange.
    """
    exchange = _exchanged_columns(inventory.pair)
    carried = {
        object_: each
        for each in inventory.dependents
        if each.steps is not None and each.steps.after_rename
        for object_ in each.covers
    }
    return {
        each.stand_in or address: Expected(
            str(each),
            frozenset(exchange.get(reference, reference) for reference in was.references),
            was.text,
            _may_be_gone(inventory, was.object),
        )
        for address, was in before.items()
        if (each := carried.get(was.object)) is not None
    }


def refuse_other_meanings(pair: Pair, expected: dict[str, Expected], after: Meanings) -> None:
    """Compare every object carried over with its former meaning.

    Arguments:
        pair: the columns before the exchange.
        expected: see `expect_meanings`.
        after: the meanings after the exchange, in the same transaction.

    Raises:
        Refused: an object means something else now; names each. The caller rolls back.
    """
    changed = {
        each.dependent: None
        for address, each in expected.items()
        if _has_changed(each, after.get(address))
    }
    if changed:
        named = "".join(f"\n- {each}" for each in changed)
        raise Refused(
            f"{pair.replacement.label} was not exchanged; nothing was changed. Restated "
            "for the other column, these would mean something else than before (they name columns "
            "by position, or an operator that another schema hides). Drop them, or write them "
            f"without an alias list, and run the same command again:{named}"
        )


def _has_changed(expected: Expected, now: Meaning | None) -> bool:
    if now is None:
        return not expected.may_be_gone
    return (now.references, now.text) != (expected.references, expected.text)


def _exchanged_columns(pair: Pair) -> dict[Reference, Reference]:
    """Map each column of each relation to the column that has its name afterwards."""
    exchange: dict[Reference, Reference] = {}
    for member in (one for each in pair.relations for one in each.members):
        live, shadow = (
            f"(pg_class,{member.table.oid},{column.number})"
            for column in (member.live, member.shadow)
        )
        exchange |= {live: shadow, shadow: live}
    return exchange


def _may_be_gone(inventory: Inventory, object_: Object) -> bool:
    """Tell whether an object goes on purpose: a revert's twin, the CHECK that proves NOT NULL."""
    catalog, _ = object_
    return catalog == "pg_constraint" or (inventory.pair.swapped and catalog == "pg_class")
