"""What the table itself must be, and what the role must be allowed, for an exchange to be sound."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.database import fetch_one
from migrations_playbook.dependents.base import Dependent, Pair, current_role

KINDS = {
    "f": "a foreign table: its rows are on another server",
    "p": "partitioned: its parts' columns and indexes would have to be exchanged one by one",
    "v": "a view",
    "m": "a materialized view",
}


def unsound(connection: BaseDatabaseWrapper, oid: int) -> str | None:
    """Why the columns of a table cannot be exchanged soundly, in a sentence's end; None if so."""
    row = fetch_one(
        connection,
        sql.SQL("""
            SELECT c.relkind::text, c.reloftype <> 0, c.relispartition,
                   (SELECT string_agg(i.inhrelid::regclass::text, ', ')
                      FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid),
                   (SELECT string_agg(i.inhparent::regclass::text, ', ')
                      FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
              FROM pg_catalog.pg_class c WHERE c.oid = %s"""),
        [oid],
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


def dependents(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """What about the table keeps it from being exchanged, and what the role lacks."""
    why = unsound(connection, pair.found.oid)
    if why is not None:
        yield Dependent("table", str(pair.found), "by its kind", refused=f"it is {why}")
    row = fetch_one(
        connection,
        sql.SQL("""
            SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE'),
                   pg_catalog.has_schema_privilege(c.relnamespace, 'CREATE'),
                   pg_catalog.has_database_privilege(current_database(), 'TEMPORARY'),
                   current_database()
              FROM pg_catalog.pg_class c WHERE c.oid = %s"""),
        [pair.found.oid],
    )
    assert row is not None
    owns, creates, temporary, database = row
    me = current_role(connection)
    missing = []
    if not owns:
        missing.append(f"GRANT {sql.Identifier(pair.found.owner).as_string(None)} TO {me}")
    if not creates:
        schema = sql.Identifier(pair.found.schema).as_string(None)
        missing.append(f"GRANT CREATE ON SCHEMA {schema} TO {me}")
    if not temporary:
        name = sql.Identifier(database).as_string(None)
        missing.append(f"GRANT TEMPORARY ON DATABASE {name} TO {me}")
    for statement in missing:
        yield Dependent("right", me, f"to alter {pair.found}", refused=f"run {statement}")
