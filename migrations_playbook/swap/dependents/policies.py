"""Row-security policies, of this table and of others that look at it."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.roles import not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.reading import Reading, read_bound
from migrations_playbook.swap.dependents.views import lock_step

POLICIES = """
    SELECT o.oid, o.polname, c.oid, n.nspname, c.relname,
           pg_catalog.pg_get_userbyid(c.relowner),
           pg_catalog.pg_get_expr(o.polqual, o.polrelid),
           pg_catalog.pg_get_expr(o.polwithcheck, o.polrelid), bound.names
      FROM pg_catalog.pg_policy o
      JOIN pg_catalog.pg_class c ON c.oid = o.polrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace {bound}
     ORDER BY o.polname, c.relname"""


def read_policies(reading: Reading) -> Iterator[Dependent]:
    """Yield row-security policies, of this table and of others that look at it; by name.

    ALTER POLICY keeps the command, the roles and the comment.

    Lock: ACCESS EXCLUSIVE on the policy's table.
    """
    for oid, name, relation, schema, table, owner, using, check, names in read_bound(
        reading,
        "pg_policy",
        POLICIES,
    ):
        on = sql.Identifier(schema, table)
        shown = f"{schema}.{table}"
        label = f"{name} on {shown}"
        parts = [
            sql.SQL("{} ({})").format(sql.SQL(clause), sql.SQL(expression))
            for clause, expression in (("USING", using), ("WITH CHECK", check))
            if expression is not None
        ]
        yield Dependent(
            "policy",
            label,
            describe_columns(reading.pair, names),
            frozenset(names),
            frozenset({("pg_policy", oid)}),
            refused=not_owned(reading.connection, "table", shown, owner),
            steps=Steps(
                locked_before=(lock_step(shown, on, "r", owner),)
                if relation not in reading.pair.oids
                else (),
                after_rename=(
                    Step(
                        f"Let the policy {label} look at the new columns",
                        sql.SQL("ALTER POLICY {} ON {} {}").format(
                            sql.Identifier(name), on, sql.SQL(" ").join(parts)
                        ),
                        Lock.ACCESS_EXCLUSIVE,
                    ),
                ),
            ),
        )


KIND = DependentKind(
    read_policies,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'policy', oid, xmin) FROM pg_catalog.pg_policy
         WHERE oid IN (SELECT objid FROM bound)"""),
)
