"""What the table itself must be, and what the role must be allowed, for an exchange to be sound."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.database import fetch_one
from migrations_playbook.dependents.base import Dependent, Pair, current_role
from migrations_playbook.tables import unsound


def dependents(connection: BaseDatabaseWrapper, pair: Pair) -> Iterator[Dependent]:
    """What about the table keeps it from being exchanged, and what the role lacks."""
    why = unsound(connection, pair.table)
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
