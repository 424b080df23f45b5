"""The names in PostgreSQL: Django's tables and columns, and objects of ours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

# NAMEDATALEN is 64 in every stock build: 63 bytes of name.
MAX_NAME_BYTES = 63
# How the names of the engine's own triggers and functions begin (a tilde may stand before).
OURS = "migrations_playbook_"


class Named:
    """A relation by its schema and name, which mean the same along every search_path."""

    schema: str
    name: str

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name, to be composed into SQL."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def spell_names(names: Iterable[str]) -> str:
    """Spell names for a person: `a`, `a and b`, `a, b and c`."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def table_parts(model: type[models.Model]) -> tuple[str, ...]:
    """Split a model's `db_table` into its parts: the schema in front, where there is any.

    Django has no option for a schema; the idiom is `db_table = 'schema"."table'`, which becomes
    right once Django has put its quotes around.
    """
    return tuple(unquoted(part) for part in model._meta.db_table.strip('"').split('"."'))


def table_identifier(model: type[models.Model]) -> sql.Identifier:
    """Build the name of a model's table, to be composed into SQL."""
    return sql.Identifier(*table_parts(model))


def plain_name(table: sql.Identifier) -> str:
    """Spell a table's name for a sentence, without quotes."""
    return table.as_string(None).replace('"', "")


def column_of(model: type[models.Model], field: str) -> str:
    """Return the column of a model's field."""
    column = model._meta.get_field(field).column  # type: ignore[union-attr]
    assert column is not None
    return unquoted(str(column))


def fields_by_column(model: type[models.Model]) -> dict[str, models.Field[Any, Any]]:
    """Return a model's own fields by their columns."""
    return {unquoted(str(each.column)): each for each in model._meta.local_concrete_fields}


def base_type(field: models.Field[Any, Any], connection: BaseDatabaseWrapper) -> str:
    """Name the type of a field's column without length or precision; "" without a column."""
    return re.sub(r"\(.*?\)", "", field.cast_db_type(connection) or "")


def unquoted(name: str) -> str:
    """Strip the quotes that Django leaves in a `db_table` or `db_column`.

    Django puts quotes around a name unless the name has quotes already, and doubles none inside.
    """
    if len(name) > 1 and name.startswith('"') and name.endswith('"'):
        name = name[1:-1]
    return name.replace('""', '"')


def choose_name(taken: Container[str], *parts: str) -> str:
    """Compose a free name: the parts, and a number where needed.

    Arguments:
        taken: the names in use.
    """
    name, number = compose_name(*parts), 1
    while name in taken:
        number += 1
        name = compose_name(*parts, str(number))
    return name


def compose_name(*parts: str, limit: int = MAX_NAME_BYTES) -> str:
    """Compose a name of parts, cut to `limit` bytes with a digest to stay unique.

    Deterministic: the same parts give the same name in every run and on every host.
    """
    name = "_".join(parts)
    if len(name.encode()) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    room = limit - len(digest) - 1
    return name.encode()[:room].decode(errors="ignore") + "_" + digest
