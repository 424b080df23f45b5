"""Indexes and constraints restated for the other column, by PostgreSQL itself.

To put a column's name in the place of another's in an expression is not a matter of text: the name
may be a function's, a type's or a literal's too. So PostgreSQL does the work: on an empty scratch
copy of the table the definition is executed, the columns are renamed, and the definition is
read back. The transaction is rolled back, and nothing remains.

Where the other column has another type, the restated definition is executed in its turn: what does
not go with that type is refused, and what PostgreSQL makes of the definition there is the twin's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import primary_message
from migrations_playbook.postgres.query import engine_transaction, execute, fetch_all, taken_back
from migrations_playbook.swap.pair import Pair

OTHER_TYPE = "drop it, and create it again after the swap, as the other type has it"
SCRATCH = sql.Identifier("pg_temp", "playbook_scratch")


@dataclass(frozen=True)
class Definitions:
    """The text after the name, for each object by its oid.

    Arguments:
        indexes: from USING on, with the columns exchanged.
        predicates: the WHERE of a partial index, with the columns exchanged.
        keys: the columns and expressions of an index's key, with the columns exchanged.
        constraints: from CHECK or UNIQUE on, with the columns exchanged.
        failures: why an object could not be restated.

    A twin's own definition is restated too where the columns differ in their types.
    """

    indexes: dict[int, str]
    predicates: dict[int, str]
    keys: dict[int, list[str]]
    constraints: dict[int, str]
    failures: dict[int, str]


def restate_definitions(
    connection: BaseDatabaseWrapper,
    pair: Pair,
    indexes: Mapping[int, tuple[bool, str]],
    constraints: Mapping[int, str],
) -> Definitions:
    """Restate the definitions with the columns exchanged.

    Must run with the search_path pinned, so every name in a definition is qualified. The objects of
    a partition are restated on the same scratch table, whose columns have the same names.

    Lock: ACCESS SHARE on the table (CREATE TABLE LIKE).

    Arguments:
        indexes: by oid, whether unique, and the definition from USING on.
        constraints: by oid, the definition from CHECK or UNIQUE on.
    """
    result = Definitions({}, {}, {}, {}, {})
    if not indexes and not constraints:
        return result
    # The partitions' parts of an index are worded alike: each wording is restated once.
    alike = _first(indexes) | _first(constraints)
    some_indexes = {oid: each for oid, each in indexes.items() if alike[oid] == oid}
    some_constraints = {oid: each for oid, each in constraints.items() if alike[oid] == oid}
    with taken_back(connection):
        make_scratch(connection, pair)
        _define(connection, result, some_indexes, some_constraints)
        for step in pair.rename_steps(SCRATCH):
            execute(connection, step.statement)
        _read_back(connection, result, some_indexes, some_constraints)
        if pair.changes_type:
            execute(connection, sql.SQL("DROP TABLE {}").format(SCRATCH))
            make_scratch(connection, pair)
            said = {oid: (some_indexes[oid][0], text) for oid, text in result.indexes.items()}
            _define(connection, result, said, result.constraints)
            _read_back(connection, result, said, result.constraints)
            for oid, failure in result.failures.items():
                result.failures[oid] = f"{failure}; {OTHER_TYPE}"
    for found in vars(result).values():
        found.update({oid: found[first] for oid, first in alike.items() if first in found})
    return result


def make_scratch(connection: BaseDatabaseWrapper, pair: Pair) -> None:
    """Make an empty copy of the table, in a transaction to be rolled back.

    Lock: ACCESS SHARE on the table (CREATE TABLE LIKE).
    """
    execute(connection, copy_empty("playbook_scratch", pair.identifier))


def copy_empty(name: str, table: sql.Identifier) -> sql.Composed:
    """Compose the statement that makes an empty, temporary copy of a table.

    Lock: ACCESS SHARE on the table.
    """
    return sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {})").format(sql.Identifier(name), table)


def try_default(
    connection: BaseDatabaseWrapper, pair: Pair, column: str, default: str
) -> str | None:
    """Find out why a column cannot have another one's default; None when it can.

    Lock: ACCESS SHARE on the table.
    """
    with taken_back(connection):
        make_scratch(connection, pair)
        return find_failure(
            connection,
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}").format(
                SCRATCH, sql.Identifier(column), sql.SQL(default)
            ),
        )


def _define(
    connection: BaseDatabaseWrapper,
    result: Definitions,
    indexes: Mapping[int, tuple[bool, str]],
    constraints: Mapping[int, str],
) -> None:
    """Execute the definitions on the scratch table; note why one fails."""
    statements = {
        oid: sql.SQL("CREATE {} INDEX {} ON {} {}").format(
            sql.SQL("UNIQUE" if unique else ""),
            sql.Identifier(f"playbook_{oid}"),
            SCRATCH,
            sql.SQL(definition),
        )
        for oid, (unique, definition) in indexes.items()
    } | {
        oid: sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
            SCRATCH, sql.Identifier(f"playbook_{oid}"), sql.SQL(definition)
        )
        for oid, definition in constraints.items()
    }
    for oid, statement in statements.items():
        failure = find_failure(connection, statement)
        if failure is not None:
            result.failures[oid] = failure


def _first(wordings: Mapping[int, Any]) -> dict[int, int]:
    """Map each oid to the first oid with the same wording."""
    first: dict[Any, int] = {}
    return {oid: first.setdefault(wording, oid) for oid, wording in wordings.items()}


def find_failure(
    connection: BaseDatabaseWrapper,
    statement: sql.Composable,
    expected: tuple[type[BaseException], ...] = (),
) -> str | None:
    """Execute a statement; say why it fails, or None.

    Lock: as the statement takes.

    Arguments:
        connection: in a transaction to be rolled back.
        expected: the errors that are no failure.
    """
    try:
        with engine_transaction(connection):
            execute(connection, statement)
    except DatabaseError as error:
        return None if isinstance(error.__cause__, expected) else primary_message(error)
    return None


def _read_back(
    connection: BaseDatabaseWrapper,
    result: Definitions,
    indexes: Mapping[int, Any],
    constraints: Mapping[int, Any],
) -> None:
    """Read the definitions of the scratch table's objects, which bear the originals' oids."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT original.oid, pg_catalog.pg_get_indexdef(i.indexrelid),
                   pg_catalog.pg_get_expr(i.indpred, i.indrelid),
                   ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, nth, false)
                           FROM pg_catalog.generate_series(1, i.indnkeyatts) AS nth ORDER BY nth)
              FROM unnest(%s::oid[]) AS original (oid)
              JOIN pg_catalog.pg_index i
                ON i.indexrelid = ('pg_temp.playbook_' || original.oid)::regclass"""),
        [list(indexes.keys() - result.failures.keys())],
    )
    for oid, text, predicate, key in rows:
        # The names before USING are our own, and have no " USING " in them.
        result.indexes[oid] = "USING " + text.split(" USING ", 1)[1]
        result.keys[oid] = key
        if predicate is not None:
            result.predicates[oid] = predicate
    result.constraints.update(
        fetch_all(
            connection,
            sql.SQL("""
                SELECT original.oid, pg_catalog.pg_get_constraintdef(k.oid)
                  FROM unnest(%s::oid[]) AS original (oid)
                  JOIN pg_catalog.pg_constraint k
                    ON k.conrelid = 'pg_temp.playbook_scratch'::regclass
                   AND k.conname = 'playbook_' || original.oid"""),
            [list(constraints.keys() - result.failures.keys())],
        )
    )
