"""Shadows that only a database knows: neither its models nor its migrations have them any more.

Migrations are rewritten or lost, and a database can come from elsewhere. The catalog still says
which two columns there are: our triggers are bound to both. The text of the declared triggers has
the value too; where `pgtrigger install` has pruned them, the quarantine's triggers are left, once
the columns have been exchanged; those of a group name all its shadows. Without any trigger nothing
tells a shadow from other columns.

Lock: none that conflicts with anything, in every function of this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from django.apps import apps
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.state import ProjectState
from psycopg import sql

from migrations_playbook.errors import PlaybookError
from migrations_playbook.history import find_known, known_replacements
from migrations_playbook.meaning.expressions import UnknownValue
from migrations_playbook.meaning.installed import Installed, read_installed
from migrations_playbook.postgres.names import fields_by_column, table_parts
from migrations_playbook.postgres.tables import Column, read_table
from migrations_playbook.replacement import Replacement
from migrations_playbook.shadow import Group, Shadow, read_shadows, shadow_field

NamedField: TypeAlias = "tuple[str, models.Field[Any, Any]]"

# The oid of the collation that a column has unless another is declared.
DEFAULT_COLLATION = 100
# What Django calls a type in another way than PostgreSQL, in turn.
CALLED = {"character varying": "varchar", "character": "char", " without time zone": ""}


@dataclass(frozen=True)
class Remains:
    """A pair of columns as the catalog has it.

    Arguments:
        pair: the two columns.
        columns: the table's columns, by name.
        group: the pairs that are exchanged together, in their order, as the quarantine has them;
            empty where its triggers have the declaration.
    """

    pair: Installed
    columns: Mapping[str, Column]
    group: tuple[Installed, ...] = ()

    @property
    def drop_sql(self) -> str:
        """The statement that drops the shadow column, for a table without a model."""
        return (
            sql.SQL("ALTER TABLE {} DROP COLUMN {} CASCADE")
            .format(self.pair.identifier, sql.Identifier(self.pair.dropped))
            .as_string(None)
        )

    def find_model(self) -> type[models.Model] | None:
        """Find the model that has the table with the column that stays; None without."""
        for model in apps.get_models(include_auto_created=True):
            columns = fields_by_column(model)
            if is_called(self.pair, table_parts(model)) and self.pair.kept in columns:
                return model
        return None

    def replacement(self, model: type[models.Model]) -> Replacement:
        """Bind the columns to a model, as the migrations' memory does to the model of its time."""
        names = {column: field.name for column, field in fields_by_column(model).items()}
        names = {each: each for each in self.columns} | names
        read = () if self.pair.text is None else read_shadows(self.pair.text, names)
        unknown = (
            Shadow(names[each.live], names[each.shadow], UnknownValue(""))
            for each in self.group or (self.pair,)
        )
        members = read or (Group(*unknown).members if len(self.group) > 1 else tuple(unknown))
        shadow = names[self.pair.shadow]
        declaration = next(each for each in members if each.shadow == shadow)
        options = model._meta
        state = ProjectState.from_apps(apps)
        known = state.models[options.app_label, str(options.model_name)].fields
        for name, field in self._fields_then(model, declaration):
            put = state.alter_field if name in known else state.add_field
            put(options.app_label, str(options.model_name), name, field, preserve_default=True)
        schema = "" if self.pair.visible or len(table_parts(model)) > 1 else self.pair.schema
        return Replacement(state.apps.get_model(options.label), declaration, schema)

    def _fields_then(self, model: type[models.Model], declaration: Shadow) -> Iterator[NamedField]:
        """Yield the fields that the model had when it declared the shadow, and has no more."""
        fields = fields_by_column(model)
        if not declaration.converts:
            known = {each.name: each for each in fields.values()}
            for each in declaration.members:
                if each.shadow not in known:
                    yield each.shadow, shadow_field(known[each.live])
            return
        # Since the exchange the live column has the shadow's type.
        older, newer = self.pair.live, self.pair.shadow
        if self.pair.swapped:
            older, newer = newer, older
        null = not self.columns[self.pair.live].not_null
        yield declaration.live, ColumnField(self.columns[older], self.pair.live, null=null)
        yield declaration.shadow, ColumnField(self.columns[newer], self.pair.shadow, null=True)


class ColumnField(models.Field):  # type: ignore[type-arg]
    """A field of which only the column is known.

    Arguments:
        like: a column of its type.
        column: the name of its own column.
        null: whether the column may be null.
    """

    def __init__(self, like: Column, column: str, *, null: bool) -> None:
        # With quotes of its own Django takes the name as it is.
        super().__init__(db_column=sql.Identifier(column).as_string(None), null=null)
        self.like, self.own = like, column
        if like.collation not in (0, DEFAULT_COLLATION):
            self.db_collation = str(like.collation)

    def deconstruct(self) -> Any:
        """Return the arguments, by which Django copies the field."""
        name, path, _, _ = super().deconstruct()
        return name, path, [self.like, self.own], {"null": self.null}

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """Return the type as Django calls it."""
        kind = self.like.type
        for theirs, ours in CALLED.items():
            kind = kind.replace(theirs, ours)
        return kind

    def cast_db_type(self, connection: BaseDatabaseWrapper) -> str:
        """Return the type as Django calls it."""
        return self.db_type(connection)


def is_called(pair: Installed, parts: tuple[str, ...]) -> bool:
    """Tell whether these parts name the table; without a schema in front in any schema."""
    return parts in ((pair.name,), (pair.schema, pair.name))


def read_remains(
    connection: BaseDatabaseWrapper, known: Iterable[Replacement] | None = None
) -> list[Remains]:
    """Read the pairs of columns that our triggers are bound to, and that nothing else knows.

    Arguments:
        known: the replacements of the models and the migrations; without, they are looked up.
    """
    installed = read_installed(connection)
    if not installed:
        return []
    taken = list(known_replacements() if known is None else known)
    found = []
    for pair in installed:
        if not any(
            is_called(pair, other.table_parts) and pair.shadow == other.shadow for other in taken
        ):
            table = read_table(connection, pair.identifier)
            group = [
                each
                for shadow in pair.together
                for each in installed
                if (str(each), each.shadow) == (str(pair), shadow)
            ]
            found += [] if table is None else [Remains(pair, table.columns, tuple(group))]
    return found


def find_anywhere(connection: BaseDatabaseWrapper, label: str, shadow: str) -> Replacement:
    """Find a shadow of the models, of the migrations, or of the database alone.

    Raises:
        PlaybookError: none of them knows it.
    """
    try:
        return find_known(label, shadow)
    except PlaybookError:
        for each in bind_remains(read_remains(connection)):
            if each.is_called(label, shadow):
                return replace(each, schema="")  # which is an option's to say
        raise


def bind_remains(remains: Iterable[Remains]) -> Iterator[Replacement]:
    """Bind the remains of tables that have a model."""
    for each in remains:
        model = each.find_model()
        if model is not None:
            yield each.replacement(model)
