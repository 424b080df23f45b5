"""Shadows that only a database knows: neither its models nor its migrations have them any more.

Migrations are rewritten or lost, and a database can come from elsewhere. The catalog still says
which two columns there are: our triggers are bound to both. The text of the declared triggers has
the value too; where `pgtrigger install` has pruned them, the quarantine's triggers are left, once
the columns have been exchanged. Without any trigger nothing tells a shadow from other columns.

Lock: none that conflicts with anything, in every function of this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from django.apps import apps
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.state import ProjectState
from psycopg import sql

from migrations_playbook.errors import PlaybookError
from migrations_playbook.history import find_known, known_replacements
from migrations_playbook.meaning.expressions import CompiledExpression, UnknownValue
from migrations_playbook.meaning.rotation import read_drawn
from migrations_playbook.postgres.names import table_parts, unquoted
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.quarantine.base import FIRST, WARD
from migrations_playbook.replacement import Replacement
from migrations_playbook.shadow import Shadow, shadow_field


@dataclass(frozen=True)
class Remains:
    """A pair of columns as the catalog has it.

    Arguments:
        schema: the table's schema.
        table: the table's name.
        visible: whether the name is enough along the session's search_path.
        live: the live column's name.
        shadow: the shadow column's name.
        value: the value expression as SQL; None where no trigger has it.
        swapped: whether the columns are exchanged.
    """

    schema: str
    table: str
    visible: bool
    live: str
    shadow: str
    value: str | None
    swapped: bool

    @property
    def identifier(self) -> sql.Identifier:
        """The table's name, to be composed into SQL."""
        return sql.Identifier(self.schema, self.table)

    @property
    def drop_sql(self) -> str:
        """The statement that drops the shadow column, for a table without a model."""
        return (
            sql.SQL("ALTER TABLE {} DROP COLUMN {} CASCADE")
            .format(self.identifier, sql.Identifier(self.shadow))
            .as_string(None)
        )

    def find_model(self) -> type[models.Model] | None:
        """Find the model that has the table with the live column; None without."""
        for model in apps.get_models(include_auto_created=True):
            columns = {unquoted(str(each.column)) for each in model._meta.local_concrete_fields}
            if self.is_called(table_parts(model)) and self.live in columns:
                return model
        return None

    def is_called(self, parts: tuple[str, ...]) -> bool:
        """Tell whether these parts name the table; without a schema in front in any schema."""
        return parts in ((self.table,), (self.schema, self.table))

    def replacement(self, model: type[models.Model]) -> Replacement:
        """Bind the columns to a model, as the migrations' memory does to the model of its time."""
        fields = {unquoted(str(each.column)): each for each in model._meta.local_concrete_fields}
        live, own = fields[self.live], fields.get(self.shadow)
        schema = "" if self.visible or len(table_parts(model)) > 1 else self.schema
        name = own.name if own is not None else self.shadow
        declaration = Shadow(
            live.name,
            name,
            UnknownValue("") if self.value is None else CompiledExpression(self.value),
        )
        if own is not None:
            return Replacement(model, declaration, schema)
        options = model._meta
        state = ProjectState.from_apps(apps)
        state.add_field(
            options.app_label,
            str(options.model_name),
            name,
            shadow_field(live),
            preserve_default=True,
        )
        return Replacement(state.apps.get_model(options.label), declaration, schema)


def read_remains(
    connection: BaseDatabaseWrapper, known: Iterable[Replacement] | None = None
) -> list[Remains]:
    """Read the pairs of columns that our triggers are bound to, and that nothing else knows.

    Arguments:
        known: the replacements of the models and the migrations; without, they are looked up.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT n.nspname, c.relname, pg_catalog.pg_table_is_visible(c.oid),
                   pg_catalog.array_agg(DISTINCT t.tgname::text),
                   pg_catalog.array_agg(DISTINCT p.prosrc), bound.names
              FROM pg_catalog.pg_trigger t
              JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
              CROSS JOIN LATERAL (
                   SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) AS names
                     FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = t.tgrelid AND a.attnum > 0
                      AND a.attnum IN (
                          SELECT d.refobjsubid FROM pg_catalog.pg_depend d
                           WHERE d.classid = 'pg_catalog.pg_trigger'::regclass AND d.objid = t.oid
                             AND d.refclassid = 'pg_catalog.pg_class'::regclass
                             AND d.refobjid = t.tgrelid)) AS bound
             WHERE NOT t.tgisinternal AND t.tgparentid = 0
               AND pg_catalog.array_length(bound.names, 1) = 2
               AND (starts_with(t.tgname, 'pgtrigger_fill_')
                    OR starts_with(t.tgname, 'pgtrigger_keep_')
                    OR starts_with(pg_catalog.ltrim(t.tgname, '~'), %s))
             GROUP BY 1, 2, 3, 6
             ORDER BY 1, 2"""),
        [FIRST],
    )
    found = [each for row in rows for each in _read_pair(*row)]
    if not found:
        return []
    taken = list(known_replacements() if known is None else known)
    return [
        each
        for each in found
        if not any(
            each.is_called(other.table_parts) and each.shadow == other.shadow for other in taken
        )
    ]


def _read_pair(
    schema: str,
    table: str,
    visible: bool,  # noqa: FBT001 - a row of the catalog
    triggers: list[str],
    texts: list[str],
    columns: list[str],
) -> Iterator[Remains]:
    """Read which of the two columns that the triggers are bound to is the live one.

    Arguments:
        columns: the older column's name, then the newer one's.
    """
    older, newer = columns
    draw = next((drawn for drawn in map(read_drawn, texts) if drawn is not None), None)
    if draw is not None:
        live, shadow = unquoted(draw["live"]), unquoted(draw["shadow"])
        if {live, shadow} == {older, newer}:
            yield Remains(
                schema, table, visible, live, shadow, draw["value"], swapped=live == newer
            )
    elif any(each.startswith(WARD.prefix) for each in triggers):
        yield Remains(schema, table, visible, newer, older, None, swapped=True)
    elif any(each.lstrip("~").startswith(FIRST) for each in triggers):
        # Exchanged back: the remembering triggers stay.
        yield Remains(schema, table, visible, older, newer, None, swapped=False)


def find_anywhere(connection: BaseDatabaseWrapper, label: str, shadow: str) -> Replacement:
    """Find a shadow of the models, of the migrations, or of the database alone.

    Raises:
        PlaybookError: none of them knows it.
    """
    try:
        return find_known(label, shadow)
    except PlaybookError:
        for each in bind_remains(read_remains(connection)):
            if (each.label.lower(), each.declaration.shadow) == (label.lower(), shadow):
                return replace(each, schema="")  # which is an option's to say
        raise


def bind_remains(remains: Iterable[Remains]) -> Iterator[Replacement]:
    """Bind the remains of tables that have a model."""
    for each in remains:
        model = each.find_model()
        if model is not None:
            yield each.replacement(model)
