"""Functions whose body is parsed; a body that is text goes by names anyhow."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.roles import current_role, not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.reading import Reading, read_bound


def read_functions(reading: Reading) -> Iterator[Dependent]:
    """Yield the functions whose body is parsed (BEGIN ATOMIC).

    CREATE OR REPLACE keeps the owner, the privileges and the comment.

    Lock: none on a table.
    """
    for oid, label, owner, may_create, definition, names in read_bound(
        reading,
        "pg_proc",
        """
        SELECT o.oid, o.oid::regprocedure::text, pg_catalog.pg_get_userbyid(o.proowner),
               pg_catalog.has_schema_privilege(o.pronamespace, 'CREATE'),
               pg_catalog.pg_get_functiondef(o.oid), bound.names
          FROM pg_catalog.pg_proc o {bound}
         ORDER BY 2""",
    ):
        refused = not_owned(reading.connection, "function", label, owner)
        if refused is None and not may_create:
            refused = (
                "to replace it takes the right to create in its schema: GRANT CREATE ON SCHEMA "
                f"to {current_role(reading.connection)}"
            )
        yield Dependent(
            "function",
            label,
            describe_columns(reading.pair, names),
            frozenset(names),
            frozenset({("pg_proc", oid)}),
            refused=refused,
            steps=Steps(
                after_rename=(
                    Step(
                        f"Let the function {label} read the new columns",
                        sql.SQL(definition.rstrip()),
                        Lock.NONE,
                    ),
                ),
            ),
        )


KIND = DependentKind(
    read_functions,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'function', oid, xmin) FROM pg_catalog.pg_proc
         WHERE oid IN (SELECT objid FROM bound)"""),
)
