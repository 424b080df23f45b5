"""Restated means the same: PostgreSQL says so, under the lock, before the commit.

An object carried over by its text may come back with another meaning: an alias list names columns
by their position, an operator may be another operator along another search_path. So the references
of each object (columns, operators, functions, types) are read before and after the exchange, and
must be the same with the two columns exchanged. The target columns of a MERGE in a parsed function
are unknown to pg_depend: there the function's text must be the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import Refused
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.swap.dependents.inventory import Inventory
from migrations_playbook.swap.pair import COLUMNS, Object, Pair

# A column, as a relation's oid and an attribute number, or another object with 0.
Reference = tuple[str, int, int]


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
                             JOIN pg_catalog.pg_inherits h ON h.inhrelid = k.conindid
                            WHERE d.classid = 'pg_catalog.pg_constraint'::regclass
                              AND k.oid = d.objid)
        UNION
        SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid
          FROM pg_catalog.pg_index i
          JOIN {columns} ON col.relation = i.indrelid AND col.number = ANY (i.indkey)
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h
                            WHERE h.inhrelid = i.indexrelid)
        UNION
        SELECT 'pg_catalog.pg_proc'::regclass, unnest(%s::oid[])),
    reference AS (
        SELECT object.classid, object.objid, d.refclassid, d.refobjid, d.refobjsubid
          FROM object
          JOIN pg_catalog.pg_depend d
            ON d.classid = object.classid AND d.objid = object.objid
         WHERE d.refclassid <> 'pg_catalog.pg_constraint'::regclass
           -- Its own view, constraint, or whole: another oid where it is made anew.
           AND d.deptype NOT IN ('i', 'P', 'S')
           -- Up to PostgreSQL 15 a view's rule names the view, as OLD and NEW, beside.
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite rule
                            WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
                              AND rule.oid = d.objid AND rule.rulename = '_RETURN'
                              AND d.refclassid = 'pg_catalog.pg_class'::regclass
                              AND d.refobjid = rule.ev_class)
        UNION
        SELECT object.classid, object.objid, 'pg_catalog.pg_class'::regclass, i.indrelid,
               key.number
          FROM object
          JOIN pg_catalog.pg_index i ON i.indexrelid = object.objid
           AND object.classid = 'pg_catalog.pg_class'::regclass
         CROSS JOIN LATERAL unnest(i.indkey) AS key (number)
         WHERE key.number <> 0)
    SELECT c.relname, object.objid,
           replace(address.type || ' ' || address.identity, '"', ''),
           ARRAY(SELECT ROW(r.refclassid::regclass::text, r.refobjid, r.refobjsubid)::text
                   FROM reference r
                  WHERE r.classid = object.classid AND r.objid = object.objid),
           CASE WHEN c.relname = 'pg_proc'
                THEN md5(pg_catalog.pg_get_functiondef(object.objid)) ELSE '' END
      FROM object
      JOIN pg_catalog.pg_class c ON c.oid = object.classid
     CROSS JOIN LATERAL pg_catalog.pg_identify_object(object.classid, object.objid, 0)
                AS address""")


def read_meanings(connection: BaseDatabaseWrapper, pair: Pair, others: Iterable[int]) -> Meanings:
    """Read the objects bound to either column, each with the objects on which it depends.

    An index is known by its key columns too: an index of a constraint depends on nothing else.

    Lock: none that conflicts with anything.

    Arguments:
        others: oids of functions carried over although pg_depend binds them to no column.
    """
    rows = fetch_all(
        connection,
        MEANINGS.format(columns=COLUMNS),
        [*pair.columns, *pair.columns, list(others)],
    )
    return {
        address: Meaning((catalog, oid), frozenset(map(_reference, references)), text)
        for catalog, oid, address, references, text in rows
        if address is not None
    }


def refuse_other_meanings(inventory: Inventory, before: Meanings, after: Meanings) -> None:
    """Compare every object carried over with its former meaning.

    Arguments:
        inventory: as before the exchange.
        before: the meanings before the exchange.
        after: the meanings after the exchange, in the same transaction.

    Raises:
        Refused: an object means something else now; names each. The caller rolls back.
    """
    exchange = _exchanged_columns(inventory.pair)
    carried = {
        object_: each
        for each in inventory.dependents
        if each.steps is not None and each.steps.after_rename
        for object_ in each.covers
    }
    changed = []
    for address, was in before.items():
        each = carried.get(was.object)
        now = after.get(address if each is None else each.stand_in or address)
        if each is None or (now is None and _may_be_gone(inventory, was.object)):
            continue
        expected = frozenset(exchange.get(reference, reference) for reference in was.references)
        if now is None or now.references != expected or now.text != was.text:
            changed.append(str(each))
    if changed:
        named = "".join(f"\n- {each}" for each in dict.fromkeys(changed))
        raise Refused(
            f"{inventory.pair.replacement.label} was not exchanged; nothing was changed. Restated "
            "for the other column, these would mean something else than before (they name columns "
            "by position, or an operator that another schema hides). Drop them, or write them "
            f"without an alias list, and run the same command again:{named}"
        )


def _exchanged_columns(pair: Pair) -> dict[Reference, Reference]:
    """Map either column of each relation to the other column."""
    exchange: dict[Reference, Reference] = {}
    for each in pair.relations:
        live, shadow = (
            ("pg_class", each.table.oid, column.number) for column in (each.live, each.shadow)
        )
        exchange |= {live: shadow, shadow: live}
    return exchange


def _may_be_gone(inventory: Inventory, object_: Object) -> bool:
    """Tell whether an object goes on purpose: a revert's twin, the CHECK that proves NOT NULL."""
    catalog, _ = object_
    return catalog == "pg_constraint" or (inventory.pair.swapped and catalog == "pg_class")


def _reference(text: str) -> Reference:
    catalog, oid, number = text.strip("()").split(",")
    return catalog.strip('"').removeprefix("pg_catalog."), int(oid), int(number)
