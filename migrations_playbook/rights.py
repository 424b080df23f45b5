"""What a role must be allowed, found before the work begins and named as the GRANT to run."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.catalog import Table
from migrations_playbook.database import fetch_one, fetch_value
from migrations_playbook.errors import Refused


def may_select(connection: BaseDatabaseWrapper, found: Table) -> bool:
    """Whether the role may read the table.

    Lock: none that conflicts with anything.
    """
    return bool(
        fetch_value(
            connection,
            sql.SQL("""
                SELECT pg_catalog.has_table_privilege(%s, 'SELECT')
                    OR pg_catalog.has_any_column_privilege(%s, 'SELECT')"""),
            [found.oid, found.oid],
        )
    )


def refuse_without_fill_rights(connection: BaseDatabaseWrapper, found: Table) -> None:
    """The backfill reads the table and updates it, and needs nothing else.

    Lock: none that conflicts with anything.

    Raises:
        Refused: a right is missing; says the GRANT to run.
    """
    row = fetch_one(
        connection,
        sql.SQL("""
            SELECT pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE'),
                   pg_catalog.has_table_privilege(c.oid, 'UPDATE')
                       OR pg_catalog.has_any_column_privilege(c.oid, 'UPDATE'),
                   current_user::text
              FROM pg_catalog.pg_class c WHERE c.oid = %s"""),
        [found.oid],
    )
    assert row is not None
    uses, updates, role = row
    me = sql.Identifier(role).as_string(None)
    table = found.identifier.as_string(None)
    missing = [
        f"GRANT {right} ON {table} TO {me}"
        for right, has in (("SELECT", may_select(connection, found)), ("UPDATE", updates))
        if not has
    ]
    if not uses:
        schema = sql.Identifier(found.schema).as_string(None)
        missing.insert(0, f"GRANT USAGE ON SCHEMA {schema} TO {me}")
    if missing:
        raise Refused(f"The role {me} may not fill {found}. Run: {'; '.join(missing)}.")
