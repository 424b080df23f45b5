"""Functions with a parsed body; a body of text goes by names anyhow."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.roles import may_not_create, not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.definitions.parse_trees import ALIAS_LIST, MERGE_ACTION
from migrations_playbook.swap.dependents.definitions.reading import Reading, read_bound
from migrations_playbook.swap.dependents.readers.views import BY_POSITION

FUNCTIONS = """
    SELECT o.oid, o.oid::regprocedure::text, pg_catalog.pg_get_userbyid(o.proowner), n.nspname,
           pg_catalog.pg_get_functiondef(o.oid), bound.names,
           o.prosqlbody::text ~ {alias_list}, bound.lets_go,
           pg_catalog.pg_get_function_sqlbody(o.oid)
      FROM pg_catalog.pg_proc o
      JOIN pg_catalog.pg_namespace n ON n.oid = o.pronamespace {bound}
     WHERE bound.names <> '{{}}' OR bound.lets_go OR position({merge} IN o.prosqlbody::text) > 0
     ORDER BY 2"""


def read_functions(reading: Reading) -> Iterator[Dependent]:
    """Yield the functions whose body is parsed (BEGIN ATOMIC); by name.

    A function with a MERGE into the table is restated whatever its columns are: pg_depend has no
    column that a MERGE writes. CREATE OR REPLACE keeps the owner, the privileges and the comment.

    Lock: none on a table.
    """
    pair = reading.pair
    rows = read_bound(
        reading,
        "pg_proc",
        FUNCTIONS,
        # A MERGE is bound to no column that it writes, but to the table.
        beside=pair.oids,
        alias_list=sql.Literal(ALIAS_LIST.replace("%s", "[0-9]+")),
        merge=sql.Literal(MERGE_ACTION),
    )
    for oid, label, owner, schema, definition, names, alias, lets_go, body in rows:
        refused = not_owned(reading.connection, "function", label, owner)
        if refused is None:
            refused = may_not_create(reading.connection, schema)
        if refused is None and alias:
            refused = BY_POSITION
        if refused is None:
            refused = reading.chain.refuse(("pg_proc", oid))
        step = Step(
            f"Let the function {label} read the new columns",
            sql.SQL(definition.rstrip()),
            Lock.NONE,
        )
        yield Dependent(
            "function",
            label,
            describe_columns(pair, names) if names or lets_go else "by a MERGE",
            frozenset(names),
            frozenset({("pg_proc", oid)}),
            Steps(
                before_rename=(_let_go(label, definition, body),) if lets_go else (),
                after_rename=(step,),
            ),
            refused,
        )


def _let_go(label: str, definition: str, body: str) -> Step:
    """Let a function read nothing while the view that it reads is made again.

    A body of text is bound to nothing, and this one is never run.
    """
    header = definition.rstrip().removesuffix(body.rstrip())
    assert header != definition, "pg_get_functiondef has changed its form"
    return Step(
        f"Let the function {label} read nothing",
        sql.SQL(";\n").join(
            [
                _check_bodies("off"),
                sql.SQL("{}AS ''").format(sql.SQL(header)),
                _check_bodies("on"),
            ]
        ),
        Lock.NONE,
    )


def _check_bodies(value: str) -> sql.Composable:
    """Compose whether CREATE FUNCTION checks a body, in this transaction."""
    return sql.SQL("SELECT pg_catalog.set_config('check_function_bodies', {}, true)").format(
        sql.Literal(value)
    )


KIND = DependentKind(
    read_functions,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'function', oid, xmin) FROM pg_catalog.pg_proc
         WHERE oid IN (SELECT objid FROM bound)"""),
)
