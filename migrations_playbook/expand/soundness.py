"""Whether the columns of a model's table can be exchanged, as the catalog has the table."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import fetch_one, fetch_row, fetch_value
from migrations_playbook.postgres.tables import TREE, find_rules, find_subscription

KINDS = {
    "f": "a foreign table: its rows are on another server",
    "v": "a view",
    "m": "a materialized view",
}


# The way out for a table of an unsound kind.
TAKE_OUT = "Take the Shadow out of its Meta.triggers: the swap would refuse it."


@dataclass(frozen=True)
class Obstacle:
    """Why a table cannot be expanded.

    Arguments:
        reason: the table's fault, ending a sentence.
        remedy: the way out, as a sentence.
    """

    reason: str
    remedy: str


def find_obstacle(
    connection: BaseDatabaseWrapper, table: sql.Identifier, live: str | None = None
) -> Obstacle | None:
    """Find why a table cannot be expanded: no swap could follow, or no backfill.

    Rows that the role does not see are `roles.find_hidden_rows`'s to find.

    Lock: none that conflicts with anything.

    Arguments:
        live: the column whose values are to be replaced, where it is known.
    """
    reason = unsound(connection, table, live)
    if reason is not None:
        return Obstacle(reason, TAKE_OUT)
    rules = find_rules(connection, table)
    keys = fetch_value(
        connection,
        sql.SQL("""
            SELECT (SELECT string_agg(pg_catalog.quote_ident(f.conname) || ' of '
                                          || f.conrelid::regclass::text, ', ')
                      FROM pg_catalog.pg_constraint f
                      JOIN pg_catalog.pg_attribute a
                        ON a.attrelid = f.confrelid AND a.attnum = ANY (f.confkey)
                     WHERE f.contype = 'f' AND f.confrelid = c.oid AND f.conparentid = 0
                       AND a.attname = %s)
              FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s)"""),
        [live, table.as_string(None)],
    )
    if rules:
        return Obstacle(
            f"rewritten by a rule on its updates ({rules}), beside which the backfill cannot run",
            "Drop the rule, or make it a trigger.",
        )
    if keys:
        return Obstacle(
            f"referred to by its {live} ({keys})",
            "Let the foreign key refer to the primary key.",
        )
    return None


def unsound(
    connection: BaseDatabaseWrapper, table: sql.Identifier, live: str | None = None
) -> str | None:
    """Say why the columns of a table cannot be exchanged soundly, ending a sentence; or None.

    Lock: none that conflicts with anything.

    Arguments:
        live: the column whose values are to be replaced, where it is known.
    """
    row = fetch_one(
        connection,
        sql.SQL("""
            SELECT c.relkind::text, c.reloftype <> 0, c.relispartition,
                   (SELECT string_agg(i.inhrelid::regclass::text, ', ')
                      FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid),
                   (SELECT string_agg(i.inhparent::regclass::text, ', ')
                      FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
              FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s)"""),
        [table.as_string(None)],
    )
    if row is None:
        return None
    kind, typed, partition, children, parents = row
    reasons = (
        KINDS.get(kind),
        "a typed table, whose columns belong to its type" if typed else None,
        f"a partition of {parents}" if partition else None,
        f"an inheritance child of {parents}, to which its columns belong" if parents else None,
        f"inherited by {children}, whose rows it would exchange without their indexes"
        if children and kind != "p"
        else None,
        _unsound_partitions(connection, table, live) if kind == "p" else None,
        find_subscription(connection, table),
    )
    return next((reason for reason in reasons if reason is not None), None)


def _unsound_partitions(
    connection: BaseDatabaseWrapper, table: sql.Identifier, live: str | None
) -> str | None:
    row = fetch_row(
        connection,
        sql.SQL("""
            SELECT string_agg(c.oid::regclass::text, ', ') FILTER (WHERE c.relkind = 'f'),
                   string_agg((SELECT string_agg(i.inhrelid::regclass::text, ', ')
                                 FROM pg_catalog.pg_inherits i
                                WHERE i.inhparent = c.oid AND i.inhdetachpending), ', '),
                   -- A column of a partition key, or of an expression in one, belongs to its table.
                   string_agg(c.oid::regclass::text, ', ') FILTER (WHERE EXISTS (
                       SELECT FROM pg_catalog.pg_depend d
                         JOIN pg_catalog.pg_attribute a
                           ON a.attrelid = d.objid AND a.attnum = d.objsubid
                        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                          AND d.refclassid = d.classid AND d.refobjid = c.oid
                          AND d.refobjsubid = 0 AND d.deptype = 'i' AND c.relkind = 'p'
                          AND a.attname = %s))
              FROM {tree} AS tree
              JOIN pg_catalog.pg_class c ON c.oid = tree.oid""").format(tree=TREE),
        [live, table.as_string(None)],
    )
    foreign, detaching, keyed = row
    if foreign:
        return f"partitioned, and the rows of {foreign} are on another server"
    if detaching:
        return (
            f"partitioned, and {detaching} is neither in it nor out of it: its DETACH PARTITION "
            "CONCURRENTLY was not ended (ALTER TABLE ... DETACH PARTITION ... FINALIZE does)"
        )
    if keyed:
        return f"partitioned by {live}, whose value says in which partition a row is ({keyed})"
    return None
