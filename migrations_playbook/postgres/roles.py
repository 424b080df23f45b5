"""Rights that a role needs, found before the work begins and named as the GRANT to run."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import Refused
from migrations_playbook.postgres.query import fetch_all, fetch_value
from migrations_playbook.postgres.tables import TREE, Table


def may_select(connection: BaseDatabaseWrapper, table: Table) -> bool:
    """Tell whether the role may read the table.

    Lock: none that conflicts with anything.
    """
    return bool(
        fetch_value(
            connection,
            sql.SQL("""
                SELECT pg_catalog.has_table_privilege(%s, 'SELECT')
                    OR pg_catalog.has_any_column_privilege(%s, 'SELECT')"""),
            [table.oid, table.oid],
        )
    )


def find_hidden_rows(connection: BaseDatabaseWrapper, table: Table) -> str | None:
    """Find out whether row security may hide rows from the role; the refusal, or None.

    An owner under FORCE ROW LEVEL SECURITY, or any role with a policy, sees no rows and no error:
    nothing would be counted, filled or proven.

    Lock: none that conflicts with anything.

    Returns:
        A sentence with the table, or its partitions, and the remedy.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT c.oid::regclass::text
              FROM {tree} AS tree
              JOIN pg_catalog.pg_class c ON c.oid = tree.oid
             WHERE pg_catalog.row_security_active(c.oid)
             ORDER BY tree.level, c.oid""").format(tree=TREE),
        [table.oid],
    )
    if not rows:
        return None
    me = current_role(connection)
    return (
        f"Row security may hide rows of {', '.join(row[0] for row in rows)} from the role {me}, so "
        "nothing there could be called filled, verified or empty; nothing was changed. Run ALTER "
        f"ROLE {me} BYPASSRLS, or the same command as a role that has BYPASSRLS."
    )


def refuse_hidden_rows(connection: BaseDatabaseWrapper, table: Table) -> None:
    """Refuse where row security may hide rows from the role.

    Lock: none that conflicts with anything.

    Raises:
        Refused: names BYPASSRLS; see `find_hidden_rows`.
    """
    hidden = find_hidden_rows(connection, table)
    if hidden is not None:
        raise Refused(hidden)


def refuse_without_fill_rights(connection: BaseDatabaseWrapper, table: Table) -> None:
    """Refuse where the role may not fill: a backfill reads and updates the table, no more.

    The backfill enters each partition separately, and needs the same rights there.

    Lock: none that conflicts with anything.

    Raises:
        Refused: a right is missing; says the GRANT to run.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT n.nspname, c.relname, pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
                   pg_catalog.has_table_privilege(c.oid, 'SELECT')
                       OR pg_catalog.has_any_column_privilege(c.oid, 'SELECT'),
                   pg_catalog.has_table_privilege(c.oid, 'UPDATE')
                       OR pg_catalog.has_any_column_privilege(c.oid, 'UPDATE'),
                   current_user::text
              FROM {tree} AS tree
              JOIN pg_catalog.pg_class c ON c.oid = tree.oid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             ORDER BY tree.level, c.oid""").format(tree=TREE),
        [table.oid],
    )
    me = sql.Identifier(rows[0][-1]).as_string(None)
    schemas: dict[str, None] = {}
    tables: dict[str, list[str]] = {"SELECT": [], "UPDATE": []}
    for schema, name, uses, selects, updates, _ in rows:
        identifier = sql.Identifier(schema, name).as_string(None)
        if not uses:
            schemas[sql.Identifier(schema).as_string(None)] = None
        for right, has in (("SELECT", selects), ("UPDATE", updates)):
            if not has:
                tables[right].append(identifier)
    missing = [f"GRANT USAGE ON SCHEMA {schema} TO {me}" for schema in schemas]
    missing += [
        f"GRANT {right} ON {', '.join(lacking)} TO {me}"
        for right, lacking in tables.items()
        if lacking
    ]
    if missing:
        raise Refused(f"The role {me} may not fill {table}. Run: {'; '.join(missing)}.")


def find_missing_grants(connection: BaseDatabaseWrapper, oids: list[int]) -> dict[str, str]:
    """Find the rights that the role lacks for an exchange: the GRANTs, each with a table.

    Partitions may have other owners, and be in other schemas: each statement is named once, with
    its first table.

    Lock: none that conflicts with anything.

    Arguments:
        oids: the table and its partitions.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner),
                   pg_catalog.pg_has_role(c.relowner, 'USAGE'),
                   pg_catalog.has_schema_privilege(c.relnamespace, 'CREATE'),
                   pg_catalog.has_database_privilege(current_database(), 'TEMPORARY'),
                   current_database()
              FROM unnest(%s::oid[]) WITH ORDINALITY AS relation (oid, nth)
              JOIN pg_catalog.pg_class c ON c.oid = relation.oid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             ORDER BY relation.nth"""),
        [oids],
    )
    me = current_role(connection)
    missing: dict[str, str] = {}
    for schema, name, owner, owns, creates, temporary, database in rows:
        on, shown = sql.Identifier(schema).as_string(None), f"{schema}.{name}"
        if not owns:
            role = sql.Identifier(owner).as_string(None)
            missing.setdefault(f"GRANT {role} TO {me}", shown)
        if not creates:
            missing.setdefault(f"GRANT CREATE ON SCHEMA {on} TO {me}", shown)
        if not temporary:
            quoted = sql.Identifier(database).as_string(None)
            missing.setdefault(f"GRANT TEMPORARY ON DATABASE {quoted} TO {me}", shown)
    return missing


def can_be(connection: BaseDatabaseWrapper, role: str) -> bool:
    """Tell whether the current role has the rights of another role, as ownership asks."""
    return bool(
        fetch_value(connection, sql.SQL("SELECT pg_catalog.pg_has_role(%s::name, 'USAGE')"), [role])
    )


def not_owned(connection: BaseDatabaseWrapper, kind: str, name: str, owner: str) -> str | None:
    """Build the refusal for an object that the current role may not change; None when allowed."""
    if can_be(connection, owner):
        return None
    return (
        f'the {kind} {name} belongs to "{owner}": run GRANT '
        f"{sql.Identifier(owner).as_string(None)} TO {current_role(connection)}"
    )


def current_role(connection: BaseDatabaseWrapper) -> str:
    """Read the current role, quoted."""
    role = fetch_value(connection, sql.SQL("SELECT current_user::text"))
    return sql.Identifier(str(role)).as_string(None)


def may_not_create(connection: BaseDatabaseWrapper, schema: str) -> str | None:
    """Build the refusal for an object in whose schema nothing may be created; None when allowed."""
    if fetch_value(
        connection, sql.SQL("SELECT pg_catalog.has_schema_privilege(%s, 'CREATE')"), [schema]
    ):
        return None
    return (
        f"to replace it takes the right to create in its schema: run GRANT CREATE ON SCHEMA "
        f"{sql.Identifier(schema).as_string(None)} TO {current_role(connection)}"
    )
