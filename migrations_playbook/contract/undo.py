"""What a contract's reverse adds again: the column, and of a column that moved its values too.

The values of a retired column are gone for good. What can be made again is what a conversion makes:
the column of a move comes back with what *down* makes of the column that stayed, where the rows are
few enough for a migration.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from psycopg import sql

from migrations_playbook.contract.ensure import ROWS
from migrations_playbook.errors import Refused
from migrations_playbook.history import Remembered
from migrations_playbook.meaning.conversion import SAFE, Conversion, drop_safe
from migrations_playbook.postgres.names import table_identifier
from migrations_playbook.postgres.query import execute, fetch_value, local_settings
from migrations_playbook.postgres.tables import has_more, is_empty, read_table
from migrations_playbook.trigger_sql import SYNC_SETTINGS

Field: TypeAlias = "models.Field[Any, Any]"


def undo_move(
    editor: BaseDatabaseSchemaEditor, model: type[models.Model], was: Remembered, field: Field
) -> None:
    """Add the live column of a move again, and fill it by the way down.

    Lock: ACCESS EXCLUSIVE on the table, held by the caller; it is written and rewritten under it.

    Arguments:
        editor: in its transaction, or collecting SQL.
        model: the model without the field.
        was: the shadow as the migrations have it.
        field: the field, bound to the model.

    Raises:
        Refused: there are too many rows, or rows without a value to come back.
    """
    conversion = was.replacement().conversion
    identifier = table_identifier(model)
    if not editor.collect_sql:
        _refuse_many(editor.connection, identifier, was)
    empty = field.clone()
    empty.null, empty.default, empty.db_default = True, models.NOT_PROVIDED, models.NOT_PROVIDED
    empty.set_attributes_from_name(field.name)
    empty.model = model
    editor.add_field(model, empty)
    if editor.collect_sql:
        made: sql.Composable = sql.SQL(conversion.down(conversion.shadow.as_string(None)))
        editor.execute(_fill(identifier, conversion, made).as_string(None), params=None)
    else:
        _fill_safely(editor.connection, identifier, conversion, was)
    editor.alter_field(model, empty, field)


def _refuse_many(
    connection: BaseDatabaseWrapper, identifier: sql.Identifier, was: Remembered
) -> None:
    """Refuse what would hold the table's lock for long.

    Raises:
        Refused: with the way that a table of any size can go.
    """
    table = read_table(connection, identifier)
    if table is not None and has_more(connection, table, ROWS):
        live, shadow = was.declaration.live, was.declaration.shadow
        raise Refused(
            f"{table} has more than {ROWS:,} rows, more than migrate fills by itself, so {live!r} "
            f"cannot be added again; nothing was changed. Let {shadow!r} move back instead: write "
            f'Shadow(live="{shadow}", shadow="{live}", up=..., down=..., moves=True).'
        )


def _fill_safely(
    connection: BaseDatabaseWrapper,
    identifier: sql.Identifier,
    conversion: Conversion,
    was: Remembered,
) -> None:
    """Fill the live column; a value that has no way down is counted, and never said.

    Raises:
        Refused: there are such rows.
    """
    table = read_table(connection, identifier)
    assert table is not None, "its column was added a moment ago"
    with local_settings(connection, SYNC_SETTINGS):
        conversion.make_safe(connection, table)
        made = sql.SQL("{}({})").format(SAFE["down"], conversion.shadow)
        execute(connection, _fill(identifier, conversion, made))
        drop_safe(connection)
    left = fetch_value(
        connection,
        sql.SQL("SELECT count(*) FROM {} WHERE {} IS NULL").format(identifier, conversion.live),
    )
    if left:
        live, shadow = was.declaration.live, was.declaration.shadow
        raise Refused(
            f"{left:,} rows of {table} have a {shadow!r} of which no {live!r} can be made, so the "
            f"column cannot be added again; nothing was changed. Give them another {shadow!r}, and "
            "run the same command again."
        )


def _fill(identifier: sql.Identifier, conversion: Conversion, made: sql.Composable) -> sql.Composed:
    return sql.SQL("UPDATE {} SET {} = {}").format(identifier, conversion.live, made)


def undo_retype(
    editor: BaseDatabaseSchemaEditor, model: type[models.Model], was: Remembered
) -> None:
    """Give the live column of an empty table the type that it had before the swap.

    Lock: ACCESS EXCLUSIVE on the table, held by the caller.

    Raises:
        Refused: there are rows, whose values are of the new type.
    """
    live = was.declaration.live
    old, new = was.replacement().model._meta.get_field(live), model._meta.get_field(live)
    connection = editor.connection
    if old.db_type(connection) == new.db_type(connection):
        return
    table = None if editor.collect_sql else read_table(connection, table_identifier(model))
    if table is not None and not is_empty(connection, table):
        kind = table.columns[was.replacement().live].type
        raise Refused(
            f"{live!r} of {table} is a {kind} since the swap, and the column that held the old "
            "values is gone, so the contract cannot be taken back; nothing was changed. Convert it "
            "once more, the other way round."
        )
    editor.alter_field(model, new, old)  # type: ignore[arg-type]
