"""A model's table: its name as PostgreSQL has it, and whether its columns can be exchanged."""

from __future__ import annotations

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.database import fetch_one, unquoted

KINDS = {
    "f": "a foreign table: its rows are on another server",
    "p": "partitioned: its parts' columns and indexes would have to be exchanged one by one",
    "v": "a view",
    "m": "a materialized view",
}


def parts_of(model: type[models.Model]) -> tuple[str, ...]:
    """The name of a model's table, with its schema in front if `db_table` names one.

    Django has no option for a schema; the idiom is `db_table = 'schema"."table'`, which becomes
    right once Django has put its quotes around it.
    """
    return tuple(unquoted(part) for part in model._meta.db_table.strip('"').split('"."'))


def identifier_of(model: type[models.Model]) -> sql.Identifier:
    """The name of a model's table, to be composed into SQL."""
    return sql.Identifier(*parts_of(model))


def unsound(connection: BaseDatabaseWrapper, table: sql.Identifier) -> str | None:
    """Why the columns of a table cannot be exchanged soundly, ending a sentence; or None.

    Lock: none that conflicts with anything.
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
        if children
        else None,
    )
    return next((reason for reason in reasons if reason is not None), None)
