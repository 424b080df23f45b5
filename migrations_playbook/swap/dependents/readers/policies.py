"""Row-security policies, of this table and of others that look at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from psycopg import sql

from migrations_playbook.postgres.roles import not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.definitions.attempts import policy_clauses
from migrations_playbook.swap.dependents.definitions.reading import Reading, read_bound
from migrations_playbook.swap.dependents.readers.views import lock_step

POLICIES = """
    SELECT o.oid, o.polname, c.oid, n.nspname, c.relname,
           pg_catalog.pg_get_userbyid(c.relowner),
           pg_catalog.pg_get_expr(o.polqual, o.polrelid),
           pg_catalog.pg_get_expr(o.polwithcheck, o.polrelid), bound.names, bound.lets_go
      FROM pg_catalog.pg_policy o
      JOIN pg_catalog.pg_class c ON c.oid = o.polrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace {bound}
     ORDER BY o.polname, c.relname"""


def read_policies(reading: Reading) -> Iterator[Dependent]:
    """Yield row-security policies, of this table and of others that look at it; by name.

    ALTER POLICY keeps the command, the roles and the comment. A policy that reads a view to be made
    again lets nobody see a row in between, which nobody can see.

    Lock: ACCESS EXCLUSIVE on the policy's table.
    """
    pair = reading.pair
    rows = read_bound(reading, "pg_policy", POLICIES)
    for oid, name, relation, schema, table, owner, using, check, names, lets_go in rows:
        on = sql.Identifier(schema, table)
        shown = f"{schema}.{table}"
        label = f"{name} on {shown}"
        refused = not_owned(reading.connection, "table", shown, owner)
        nothing = ("false" if text is not None else None for text in (using, check))
        yield Dependent(
            "policy",
            label,
            describe_columns(pair, names),
            frozenset(names),
            frozenset({("pg_policy", oid)}),
            refused=refused or reading.chain.refuse(("pg_policy", oid)),
            steps=Steps(
                locked_before=(lock_step(shown, on, "r", owner),)
                if relation not in pair.oids
                else (),
                before_rename=(
                    _alter(f"Let the policy {label} look at nothing", name, on, nothing),
                )
                if lets_go
                else (),
                after_rename=(
                    _alter(
                        f"Let the policy {label} look at the new columns", name, on, (using, check)
                    ),
                ),
            ),
        )


def _alter(what: str, name: str, on: sql.Identifier, expressions: Iterable[str | None]) -> Step:
    statement = sql.SQL("ALTER POLICY {} ON {} {}").format(
        sql.Identifier(name), on, policy_clauses(*expressions)
    )
    return Step(what, statement, Lock.ACCESS_EXCLUSIVE)


KIND = DependentKind(
    read_policies,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'policy', oid, xmin) FROM pg_catalog.pg_policy
         WHERE oid IN (SELECT objid FROM bound)"""),
)
