"""Checks of a declared shadow against its table: they ask PostgreSQL, and change nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error
from django.db import DatabaseError, NotSupportedError, ProgrammingError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.errors import primary_message
from migrations_playbook.expand.checks.conversions import CLOCKS
from migrations_playbook.expand.checks.values import CALL, LITERAL, spell_text
from migrations_playbook.expand.soundness import (
    TAKE_OUT,
    Obstacle,
    find_obstacle,
    unsound,
)
from migrations_playbook.postgres.query import (
    engine_transaction,
    execute,
    fetch_row,
    fetch_value,
    set_local,
)
from migrations_playbook.postgres.roles import current_role, find_hidden_rows
from migrations_playbook.postgres.tables import Table, read_table
from migrations_playbook.replacement import Replacement
from migrations_playbook.trigger_sql import TRIGGER_PATH
from migrations_playbook.values import RandomText

# How many values are drawn to see how many are alike.
FEWEST_DRAWS, MOST_DRAWS = 1_000, 10_000
# By how many bits a proposed text has more room than it must.
MARGIN_BITS = 20
# Functions of the clock that are the same throughout a statement.
CLOCK_FUNCTIONS = {"now", "transaction_timestamp", "statement_timestamp"}


def check_table(connection: BaseDatabaseWrapper, replacement: Replacement) -> list[CheckMessage]:
    """Say why a table's columns could not be exchanged, or no value be drawn.

    Lock: ACCESS SHARE on the table, as any SELECT.

    Arguments:
        connection: of PostgreSQL, outside a transaction.
        replacement: a declaration that has passed the checks without a database.
    """
    try:
        with engine_transaction(connection):
            table = read_table(connection, replacement.identifier)
            if table is None:
                return []
            obstacle = _find_obstacle(connection, replacement, table)
        if obstacle is not None:
            return [
                Error(
                    f"{replacement.label} declares a shadow, and its table is {obstacle.reason}.",
                    hint=obstacle.remedy,
                    obj=replacement.model,
                    id="playbook.E020",
                )
            ]
        if replacement.declaration.converts:
            return list(_check_ways(connection, replacement, table))
        return list(_check_draws(connection, replacement, table))
    except DatabaseError:
        # No such right, a lost connection: the command itself has a sentence for these.
        return []


def _find_obstacle(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
) -> Obstacle | None:
    """Find the obstacle to a table's expand, or to the exchange of an expanded table."""
    if replacement.shadow not in table.columns:
        obstacle = find_obstacle(connection, table.identifier, replacement.live)
        if obstacle is None and find_hidden_rows(connection, table) is not None:
            me = current_role(connection)
            return Obstacle(
                f"under row security, which may hide rows from the role {me}",
                f"Run ALTER ROLE {me} BYPASSRLS, or play with a role that has it.",
            )
        return obstacle
    reason = unsound(connection, table.identifier, replacement.live)
    return Obstacle(reason, TAKE_OUT) if reason else None


def _check_draws(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
) -> Iterator[CheckMessage]:
    rows = estimate_rows(table)
    draws = min(max(rows, FEWEST_DRAWS), MOST_DRAWS)
    try:
        different, nulls = draw_values(connection, replacement, draws)
    except DatabaseError as error:
        yield from _check_failure(connection, replacement, table, error)
        return
    if nulls or different == 1:
        what = "makes nulls" if nulls else f"made the same value {draws:,} times"
        yield _error(replacement, f"{what}.", "Write value=RandomUUID(), say.", "playbook.E016")
        return
    entropy = getattr(replacement.declaration.value, "entropy_bits", None)
    if entropy is None and different < draws:
        # Of n draws from R values n * n / 2R pairs are alike.
        entropy = math.log2(draws**2 / (2 * (draws - different)))
    live: Any = replacement.model._meta.get_field(replacement.declaration.live)
    if entropy is not None and is_unique(replacement) and 2 * math.log2(max(rows, 1)) > entropy:
        yield _error(
            replacement,
            f"has room for about {2**entropy:,.0f} values, so some of about {rows:,} rows would "
            f"draw the same one, and {live.name} is unique.",
            _propose_wider(replacement.declaration.value, rows, live.max_length),
            "playbook.E021",
        )


def _check_ways(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table
) -> Iterator[CheckMessage]:
    """Say which way PostgreSQL would refuse, whatever the values are, and what could not move."""
    conversion = replacement.conversion
    restless = _find_restless_default(connection, table, replacement.live)
    if replacement.declaration.moves and restless is not None:
        live, shadow = replacement.declaration.live, replacement.declaration.shadow
        yield Error(
            f"Shadow(moves=True): the default of {live} in the database, {restless}, is another "
            f"one each time, so a new row's {shadow} could not be told from a {live} that was "
            "given as well.",
            hint=f"Let the release before write {live} itself, and drop the default.",
            obj=replacement.model,
            id="playbook.E047",
        )
    for way, maker, column in (
        ("up", conversion.up, replacement.live),
        ("down", conversion.down, replacement.shadow),
    ):
        if column not in table.columns:
            continue
        identifier = sql.Identifier(column)
        query = sql.SQL("SELECT {} FROM {} LIMIT 0").format(
            sql.SQL(maker(identifier.as_string(None))), table.identifier
        )
        try:
            with engine_transaction(connection):
                set_local(connection, "search_path", TRIGGER_PATH)
                execute(connection, query)
        except (ProgrammingError, NotSupportedError) as error:
            yield Error(
                f"Shadow({way}=...) is refused by PostgreSQL where the triggers look names up, in "
                f"{TRIGGER_PATH}: {primary_message(error)}.",
                hint="Correct the expression, name the schema, or grant the right.",
                obj=replacement.model,
                id="playbook.E022",
            )


def _find_restless_default(
    connection: BaseDatabaseWrapper, table: Table, column: str
) -> str | None:
    """Find a column's default that is another value each time it is evaluated.

    Of the clock's values only a `timestamptz` is the same within a statement: all others depend on
    the session's TimeZone too, which the sync triggers fix.

    Lock: none that conflicts with anything.

    Returns:
        The default, as SQL or in words; None where there is no such default.
    """
    identity, kind = fetch_row(
        connection,
        sql.SQL("""
            SELECT attidentity <> '', atttypid::regtype::text FROM pg_catalog.pg_attribute
             WHERE attrelid = %s AND attnum = %s"""),
        [table.oid, table.columns[column].number],
    )
    default = table.columns[column].default
    if identity:
        return "an identity"
    if default is None:
        return None
    plain = LITERAL.sub("''", default)
    called = [name.lower() for name in CALL.findall(plain)]
    volatile = fetch_value(
        connection,
        sql.SQL("""
            SELECT EXISTS (SELECT FROM pg_catalog.pg_proc
                            WHERE proname = ANY (%s) AND provolatile = 'v')"""),
        [called],
    )
    clock = kind != "timestamp with time zone" and (
        CLOCKS.search(plain) is not None or not CLOCK_FUNCTIONS.isdisjoint(called)
    )
    return default if volatile or clock else None


def _check_failure(
    connection: BaseDatabaseWrapper, replacement: Replacement, table: Table, error: DatabaseError
) -> Iterator[CheckMessage]:
    """Say why the triggers could draw no value.

    A missing function may be made by a migration before the expand: the expand says so.
    """
    cause, said = error.__cause__, primary_message(error)
    missing = pg_errors.UndefinedFunction | pg_errors.UndefinedTable | pg_errors.InvalidSchemaName
    if isinstance(cause, missing):
        expanded = replacement.shadow in table.columns
        if expanded or _is_found_elsewhere(connection, replacement):
            yield _error(
                replacement,
                f"is not found where the triggers look, in {TRIGGER_PATH}: {said}.",
                'Name its schema, value=Func(function="schema.function", output_field=...) say.',
                "playbook.E022",
            )
    elif isinstance(cause, pg_errors.InsufficientPrivilege):
        yield _error(
            replacement,
            f"may not be drawn by this role: {said}.",
            "Run GRANT EXECUTE ON FUNCTION ..., GRANT USAGE ON SCHEMA ... for each role that "
            "writes to the table.",
            "playbook.E022",
        )
    elif isinstance(cause, pg_errors.CannotCoerce | pg_errors.DataError):
        live: Any = replacement.model._meta.get_field(replacement.declaration.live)
        yield _error(
            replacement,
            f"does not fit {live.name}: {said}.",
            f"Write an expression that makes a {live.db_type(connection)}.",
            "playbook.E015",
        )


def _error(replacement: Replacement, message: str, hint: str, number: str) -> Error:
    return Error(f"Shadow(value=...) {message}", hint=hint, obj=replacement.model, id=number)


def draw_values(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    draws: int,
    *,
    path: str | None = TRIGGER_PATH,
) -> tuple[int, int]:
    """Draw values as the triggers would; count different values, and nulls.

    The values never leave the server. A function that writes is refused by the server, and its
    changes would be rolled back.

    Arguments:
        connection: of PostgreSQL, outside a transaction.
        replacement: whose values.
        draws: how many.
        path: where names are looked up; None for where the session looks.
    """
    with engine_transaction(connection):
        execute(connection, sql.SQL("SET TRANSACTION READ ONLY"))
        if path is not None:
            set_local(connection, "search_path", path)
        row = fetch_row(
            connection,
            sql.SQL("""
                SELECT count(DISTINCT value), count(*) FILTER (WHERE value IS NULL)
                  FROM (SELECT {value} AS value
                          FROM pg_catalog.generate_series(1, %s)) AS drawn""").format(
                value=replacement.rotation.value
            ),
            [draws],
        )
    return int(row[0]), int(row[1])


def _is_found_elsewhere(connection: BaseDatabaseWrapper, replacement: Replacement) -> bool:
    """Tell whether the session finds a function that the triggers would not."""
    try:
        draw_values(connection, replacement, 1, path=None)
    except ProgrammingError:
        return False
    return True


def estimate_rows(table: Table) -> int:
    """Estimate the rows of a table and its partitions, as the last ANALYZE saw them; 0 without."""
    own = max(table.estimate, 0)
    parts = sum(max(each.estimate, 0) for each in table.partitions if each.kind != "p")
    return int(max(own, parts))


def is_unique(replacement: Replacement) -> bool:
    """Tell whether no two rows may have the same live value, whatever their other values are."""
    options = replacement.model._meta
    name = replacement.declaration.live
    return bool(options.get_field(name).unique) or any(  # type: ignore[union-attr]
        tuple(each.fields) == (name,) for each in options.total_unique_constraints
    )


def _propose_wider(value: object, rows: int, room: int | None) -> str:
    if isinstance(value, RandomText):
        bits = 2 * math.log2(rows) + MARGIN_BITS
        length = math.ceil(bits / math.log2(len(value.alphabet)))
        if room is None or length + len(value.prefix) <= room:
            return f"Write value={spell_text(value, length)}."
    return "Widen the expression, and the field if need be."
