"""Tries the triggers before the site's writes meet them.

A trigger that cannot draw its value fails every INSERT of the site, while everything of ours is
green. Its function is looked up in another path, is not granted to the application's role, or makes
values too long for the column. So the expand first tries the triggers on a table of its own, as
each role that writes to the real table, and takes everything back. The trial holds a lock that no
reader and no writer notices, before the strong lock is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import DatabaseError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.commands import spell_command
from migrations_playbook.errors import Refused, primary_message
from migrations_playbook.postgres.query import (
    execute,
    fetch_all,
    fetch_row,
    fetch_value,
    local_settings,
    taken_back,
)
from migrations_playbook.postgres.sessions import is_connection_lost
from migrations_playbook.postgres.tables import Table
from migrations_playbook.replacement import Replacement
from migrations_playbook.trigger_sql import TRIGGER_PATH, PinnedTriggerSql

NAME = "migrations_playbook_trial"
TRIAL = sql.Identifier("pg_temp", NAME)
# As django-pgtrigger puts its quotes around it.
QUOTED = f'pg_temp"."{NAME}'
# The errors of a name that no schema of the path has.
MISSING = pg_errors.UndefinedFunction | pg_errors.UndefinedTable | pg_errors.InvalidSchemaName
# To make functions there would put them into pg_catalog.
WHERE_TRIGGERS_LOOK = {"search_path": TRIGGER_PATH}
# How many rows are tried: a CHECK that half of the values pass is found all the same.
ROWS = 100


def try_triggers(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    table: Table,
    triggers: Sequence[PinnedTriggerSql],
) -> None:
    """Try the triggers on a table of their own, and take everything back.

    Lock: ACCESS SHARE on the table. The caller holds a lock against other migrations: two that
    replace the same function would fail.

    Arguments:
        connection: in a transaction.
        replacement: the replacement to expand.
        table: its table, with the shadow column or without.
        triggers: as they are going to be installed on the table.

    Raises:
        Refused: writes of the site would fail; names the role, the reason and the remedy.
    """
    _refuse_without_temporary(connection)
    with taken_back(connection):
        _make_trial(connection, replacement, table)
        if replacement.declaration.converts:
            _copy_row(connection, replacement, table)
            _install_triggers(connection, triggers)
            with _refusing(replacement, table):
                _try_ways(connection, replacement)
                _write_rows(connection, replacement, 1)
        else:
            _try_draws(connection, replacement, table, triggers)
        for role in read_writers(connection, table):
            _try_role(connection, replacement, table, triggers, role)


def _try_draws(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    table: Table,
    triggers: Sequence[PinnedTriggerSql],
) -> None:
    """Try the triggers of a rotation or of a group, and what they draw."""
    with _refusing(replacement, table):
        _draw_row(connection, replacement)
    _install_triggers(connection, triggers)
    with _refusing(replacement, table):
        _write_rows(connection, replacement, ROWS)
    for each in replacement.group:
        _refuse_same(connection, each, table)
        _try_checks(connection, each, table)


def _copy_row(connection: BaseDatabaseWrapper, replacement: Replacement, table: Table) -> None:
    """Insert a row's live value, as from before the triggers."""
    row = sql.SQL("INSERT INTO {} ({live}) SELECT {live} FROM {} LIMIT 1").format(
        TRIAL, table.identifier, live=sql.Identifier(replacement.live)
    )
    execute(connection, row)


def _try_ways(connection: BaseDatabaseWrapper, replacement: Replacement) -> None:
    """Evaluate both ways for no row: a trigger hides the errors of either, and leaves null.

    The rights to call functions are asked for all the same.
    """
    with local_settings(connection, WHERE_TRIGGERS_LOOK):
        execute(connection, sql.SQL("{} LIMIT 0").format(_evaluate(replacement)), [])


def _evaluate(replacement: Replacement) -> sql.Composed:
    """Compose the query of what the triggers evaluate for each row of the trial."""
    columns = [
        sql.SQL("{} AS {}").format(expression, sql.Identifier(f"value_{number}"))
        for number, expression in enumerate(replacement.meaning.evaluated)
    ]
    return sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(columns), TRIAL)


def _make_trial(connection: BaseDatabaseWrapper, replacement: Replacement, table: Table) -> None:
    """Make a table of the live columns and their shadows, which everybody may use."""
    made = sql.SQL("CREATE TEMPORARY TABLE {} AS SELECT {} FROM {} WITH NO DATA")
    execute(
        connection,
        made.format(sql.Identifier(NAME), _list_lives(replacement), table.identifier),
    )
    for each in replacement.group:
        field: Any = each.model._meta.get_field(each.declaration.shadow)
        added = sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
            TRIAL, sql.Identifier(each.shadow), sql.SQL(field.db_type(connection))
        )
        execute(connection, added)
    execute(connection, sql.SQL("GRANT ALL ON {} TO PUBLIC").format(TRIAL))


def _list_lives(replacement: Replacement) -> sql.Composed:
    """Compose the list of the live columns."""
    return sql.SQL(", ").join(sql.Identifier(each.live) for each in replacement.group)


def _draw_row(connection: BaseDatabaseWrapper, replacement: Replacement) -> None:
    """Insert a row as from before the triggers; its live values are drawn, too."""
    row = sql.SQL("INSERT INTO {} ({}) SELECT {}").format(
        TRIAL, _list_lives(replacement), sql.SQL(", ").join(replacement.meaning.evaluated)
    )
    with local_settings(connection, WHERE_TRIGGERS_LOOK):
        execute(connection, row, [])


def _install_triggers(
    connection: BaseDatabaseWrapper, triggers: Sequence[PinnedTriggerSql]
) -> None:
    for trigger in triggers:
        installed = type(trigger)(**{**trigger.kwargs, "table": QUOTED})
        execute(connection, sql.SQL(str(installed)))


def _write_rows(connection: BaseDatabaseWrapper, replacement: Replacement, rows: int) -> None:
    """Insert rows as by a release without the shadow, and update the row that is not filled yet."""
    insert = """
        INSERT INTO {trial} ({lives})
        SELECT {lives} FROM (SELECT {lives} FROM {trial} LIMIT 1) AS first,
               pg_catalog.generate_series(1, {rows})"""
    for statement in (insert, "UPDATE {trial} SET {live} = {live}"):
        execute(
            connection,
            sql.SQL(statement).format(
                trial=TRIAL,
                live=sql.Identifier(replacement.live),
                lives=_list_lives(replacement),
                rows=sql.Literal(rows),
            ),
        )


def _refuse_same(connection: BaseDatabaseWrapper, replacement: Replacement, table: Table) -> None:
    """Refuse a null value, or the same value for each row."""
    nulls, different = fetch_row(
        connection,
        sql.SQL("""
            SELECT count(*) FILTER (WHERE {shadow} IS NULL), count(DISTINCT {shadow}::text)
              FROM {trial}""").format(shadow=sql.Identifier(replacement.shadow), trial=TRIAL),
    )
    if nulls or different == 1:
        what = "is null" if nulls else f"was the same for {ROWS + 1} rows"
        raise Refused(
            f"The value that the triggers would give the rows of {table} {what}; nothing was "
            f"changed. {_correct(replacement)}"
        )


def _try_checks(connection: BaseDatabaseWrapper, replacement: Replacement, table: Table) -> None:
    """Refuse values that fail a CHECK of the live column alone.

    From the swap's preparation on, the shadow has the same CHECK. The preparation tries a CHECK of
    several columns, on the rows as they are.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT conname, pg_catalog.pg_get_expr(conbin, conrelid)
              FROM pg_catalog.pg_constraint
             WHERE conrelid = %s AND contype = 'c' AND conkey = ARRAY[%s::smallint]
               -- PostgreSQL 18 lets a demand be written down that nobody checks.
               AND pg_catalog.pg_get_constraintdef(oid) NOT LIKE '%% NOT ENFORCED'"""),
        [table.oid, table.columns[replacement.live].number],
    )
    for name, expression in rows:
        query = sql.SQL(
            "SELECT count(*) FROM (SELECT {} AS {} FROM {}) AS drawn WHERE NOT ({})"
        ).format(
            sql.Identifier(replacement.shadow),
            sql.Identifier(replacement.live),
            TRIAL,
            sql.SQL(expression),
        )
        try:
            with transaction.atomic(using=connection.alias):
                failing = fetch_value(connection, query)
        except DatabaseError:
            continue  # it cannot be asked of one column, and the swap's preparation tries it
        if failing:
            raise Refused(
                f"Fresh values of {replacement.label}.{replacement.declaration.shadow} do not pass "
                f"the CHECK {name} that the live ones pass; nothing was changed. "
                f"{_correct(replacement)}"
            )


def _try_role(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    table: Table,
    triggers: Sequence[PinnedTriggerSql],
    role: str,
) -> None:
    """Write as another role does; where SET ROLE is not permitted, look the role's rights up."""
    with taken_back(connection):
        # PL/pgSQL asks for the right to call a function once in a transaction, and remembers that
        # another role had it. A function made anew remembers nothing.
        _install_triggers(connection, triggers)
        try:
            with transaction.atomic(using=connection.alias):
                execute(connection, sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        except DatabaseError:
            lacking = _read_lacking(connection, replacement, triggers, role)
            if lacking:
                raise Refused(
                    f'Every insert of the role "{role}" into {table} would fail, since the '
                    f"triggers run with its rights; nothing was changed. Run {'; '.join(lacking)}, "
                    'then "manage.py migrate" again.'
                ) from None
            return
        with _refusing(replacement, table, role):
            if replacement.declaration.converts:
                _try_ways(connection, replacement)
            # For the rights a single row is as good as many.
            _write_rows(connection, replacement, 1)


def read_writers(connection: BaseDatabaseWrapper, table: Table) -> list[str]:
    """Read which other roles may write to a table; `public` for everybody.

    Lock: none that conflicts with anything.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT coalesce(r.rolname::text, 'public')
              FROM (SELECT coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner)) AS acl
                      FROM pg_catalog.pg_class c WHERE c.oid = %s
                    UNION ALL
                    SELECT a.attacl FROM pg_catalog.pg_attribute a WHERE a.attrelid = %s) AS granted
             CROSS JOIN LATERAL pg_catalog.aclexplode(granted.acl) AS x
              LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
             WHERE x.privilege_type IN ('INSERT', 'UPDATE')
               AND r.rolname IS DISTINCT FROM current_user
               AND r.rolsuper IS NOT TRUE
             ORDER BY 1"""),
        [table.oid, table.oid],
    )
    return [name for (name,) in rows]


def _read_lacking(
    connection: BaseDatabaseWrapper,
    replacement: Replacement,
    triggers: Sequence[PinnedTriggerSql],
    role: str,
) -> list[str]:
    """Read the rights that a role lacks to call the triggers' functions, as the GRANTs to run.

    A view of the value tells its functions, PostgreSQL's own apart. The functions called by these
    in turn are not known.
    """
    view = sql.SQL("CREATE TEMPORARY VIEW {} AS {}").format(
        sql.Identifier(f"{NAME}_value"), _evaluate(replacement)
    )
    with local_settings(connection, WHERE_TRIGGERS_LOOK):
        execute(connection, view, [])
    ignored = {{**trigger.defaults, **trigger.kwargs}["ignore_func_name"] for trigger in triggers}
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT p.oid::regprocedure::text, pg_catalog.quote_ident(n.nspname),
                   pg_catalog.has_function_privilege(%s, p.oid, 'EXECUTE'),
                   pg_catalog.has_schema_privilege(%s, n.oid, 'USAGE')
              FROM pg_catalog.pg_proc p
              JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE p.oid IN (
                       SELECT d.refobjid FROM pg_catalog.pg_depend d
                         JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid
                        WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
                          AND d.refclassid = 'pg_catalog.pg_proc'::regclass
                          AND w.ev_class = %s::regclass)
                OR p.oid = ANY (SELECT pg_catalog.to_regprocedure(name || '(name)')
                                  FROM unnest(%s::text[]) AS name)
             ORDER BY 1"""),
        [role, role, f'pg_temp."{NAME}_value"', sorted(ignored)],
    )
    who = "PUBLIC" if role == "public" else sql.Identifier(role).as_string(None)
    lacking: dict[str, None] = {}
    for function, schema, executes, uses in rows:
        if not uses:
            lacking[f"GRANT USAGE ON SCHEMA {schema} TO {who}"] = None
        if not executes:
            lacking[f"GRANT EXECUTE ON FUNCTION {function} TO {who}"] = None
    return list(lacking)


def _refuse_without_temporary(connection: BaseDatabaseWrapper) -> None:
    may, database, role = fetch_row(
        connection,
        sql.SQL("""
            SELECT pg_catalog.has_database_privilege(current_database(), 'TEMPORARY'),
                   pg_catalog.quote_ident(current_database()),
                   pg_catalog.quote_ident(current_user)"""),
    )
    if not may:
        raise Refused(
            "The expand tries its triggers on a temporary table, which this role may not make; "
            f"nothing was changed. Run GRANT TEMPORARY ON DATABASE {database} TO {role}, then "
            '"manage.py migrate" again.'
        )


@contextmanager
def _refusing(replacement: Replacement, table: Table, role: str | None = None) -> Iterator[None]:
    """Turn a failure within into the refusal: the site's writes would fail, with the remedy."""
    try:
        yield
    except DatabaseError as error:
        cause = error.__cause__
        if is_connection_lost(error) or isinstance(cause, pg_errors.QueryCanceled):
            raise
        remedy = _correct(replacement)
        if isinstance(cause, pg_errors.InsufficientPrivilege):
            remedy = 'Grant that to the role, then run "manage.py migrate" again.'
        elif isinstance(cause, MISSING):
            remedy = f"The triggers look names up in {TRIGGER_PATH}: name the schema. {remedy}"
        of_role = f' of the role "{role}"' if role else ""
        raise Refused(
            f"Every insert{of_role} into {table} would fail in the triggers: "
            f"{primary_message(error)}; nothing was changed. {remedy}"
        ) from None


def _correct(replacement: Replacement) -> str:
    expand = spell_command("expand", replacement.label, replacement.declaration.shadow)
    return (
        f"Correct the value of the Shadow in {replacement.label}, delete this migration, and run "
        f'"{expand}" for another one.'
    )
