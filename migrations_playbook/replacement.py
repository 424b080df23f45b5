"""A declaration bound to its model, by the names that PostgreSQL uses."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import pgtrigger
from django.db import connections, models, router
from psycopg import sql

from migrations_playbook.commands import spell_command
from migrations_playbook.errors import PlaybookError
from migrations_playbook.meaning.base import Meaning, ShadowTrigger
from migrations_playbook.meaning.conversion import Conversion
from migrations_playbook.meaning.rotation import Rotation
from migrations_playbook.postgres.names import column_of, compose_name, table_parts
from migrations_playbook.shadow import Shadow

# The plays with --schema. Those of a migration are played by whatever migrates each tenant.
PLAYS_OF_A_SCHEMA = ("backfill", "swap", "status")


class Called(ABC):
    """A shadow by the name that a person types, app.Model.shadow."""

    declaration: Shadow

    @property
    @abstractmethod
    def label(self) -> str:
        """The model's label."""

    def __str__(self) -> str:
        return f"{self.label}.{self.declaration.shadow}"

    @property
    def leads(self) -> bool:
        """Whether the shadow stands for its group; one that stands alone does."""
        return self.declaration is self.declaration.members[0]

    def is_called(self, label: str, shadow: str) -> bool:
        """Tell whether a person means this shadow; as in Django, a label in any case."""
        return (self.label.lower(), self.declaration.shadow) == (label.lower(), shadow)


@dataclass(frozen=True)
class Replacement(Called):
    """A declaration bound to its model: every name as PostgreSQL knows it.

    Arguments:
        model: the model that declares the two fields (never its proxy or child).
        declaration: the `Shadow` in the model's `Meta.triggers`.
        schema: the schema of the table, where the same table stands in several (tenants); empty for
            the session's search_path, or the schema in the model's `db_table`.
    """

    model: type[models.Model]
    declaration: Shadow
    schema: str = ""

    @property
    def group(self) -> tuple[Replacement, ...]:
        """All replacements that are played together with this one, in their order.

        Itself alone where its shadow stands alone.
        """
        return tuple(replace(self, declaration=each) for each in self.declaration.members)

    @property
    def lead(self) -> Replacement:
        """The first replacement of the group, which stands for all."""
        return self.group[0]

    @property
    def label(self) -> str:
        """`tickets.Ticket`: how a person names the model."""
        return self.model._meta.label

    @property
    def table_parts(self) -> tuple[str, ...]:
        """The table's name, with its schema in front if `db_table` names one."""
        parts = table_parts(self.model)
        return (self.schema, *parts) if self.schema else parts

    @property
    def identifier(self) -> sql.Identifier:
        """The table's name, to be composed into SQL."""
        return sql.Identifier(*self.table_parts)

    @property
    def live(self) -> str:
        """The name of the live field's column."""
        return column_of(self.model, self.declaration.live)

    @property
    def shadow(self) -> str:
        """The name of the shadow field's column."""
        return column_of(self.model, self.declaration.shadow)

    @property
    def shadows(self) -> tuple[str, ...]:
        """The names of the columns that a batch fills: of all shadows of the group."""
        return tuple(each.shadow for each in self.group)

    @property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns, in their order: more than one for a composite key."""
        return tuple(column_of(self.model, field.name) for field in self.model._meta.pk_fields)

    @cached_property
    def meaning(self) -> Meaning:
        """What the shadow's values mean."""
        return self.declaration.meaning(self.model)

    @property
    def rotation(self) -> Rotation:
        """The meaning of a shadow that draws."""
        assert isinstance(self.meaning, Rotation), f"{self} draws no values"
        return self.meaning

    @property
    def conversion(self) -> Conversion:
        """The meaning of a shadow that is made from the live column."""
        assert isinstance(self.meaning, Conversion), f"{self} converts no values"
        return self.meaning

    @property
    def trigger_names(self) -> tuple[str, ...]:
        """The declared triggers' names in the catalog."""
        return self.meaning.trigger_names

    def command(self, play: str, *options: str) -> str:
        """Spell the command to play a part for this replacement; see `spell_command`."""
        if self.schema and play in PLAYS_OF_A_SCHEMA:
            options = ("--schema", shlex.quote(self.schema), *options)
        return spell_command(play, self.label, self.declaration.shadow, *options)

    def object_name(self, purpose: str) -> str:
        """Build the name of an engine's object for this shadow: a name for each purpose."""
        return compose_name(self.table_parts[-1], self.shadow, purpose)


def list_homes(replacement: Replacement) -> list[str]:
    """List the aliases of the databases where the project's routers let the model live."""
    return [
        alias
        for alias in connections
        if connections[alias].vendor == "postgresql"
        and router.allow_migrate_model(alias, replacement.model)
    ]


def find_elsewhere(replacement: Replacement, *, using: str) -> str | None:
    """Say where the table is when the project's routers keep it out of a database.

    Arguments:
        using: the alias of the database that the table is looked for in.
    """
    homes = list_homes(replacement)
    if using in homes:
        return None
    return (
        f'The project\'s routers keep {replacement.label} out of the database "{using}": say '
        f"--database {' or --database '.join(homes) or 'ALIAS'}."
    )


def declared_replacements() -> Iterator[Replacement]:
    """List every shadow that an installed model declares, in the order of the models."""
    for model, trigger in pgtrigger.registered():
        # A declaration's first trigger stands for the declaration, or for all of a group.
        if isinstance(trigger, ShadowTrigger) and trigger.leads:
            yield from Replacement(cast("type[models.Model]", model), trigger.declaration).group


def find_replacement(label: str, shadow: str) -> Replacement:
    """Find the replacement that a model declares.

    Arguments:
        label: the model's label, `tickets.Ticket`.
        shadow: the shadow field's name.

    Raises:
        PlaybookError: no such model, or no such shadow.
    """
    declared = list(declared_replacements())
    for replacement in declared:
        if replacement.is_called(label, shadow):
            return replacement
    known = f" Declared are: {', '.join(map(str, declared))}." if declared else ""
    raise PlaybookError(
        f"{label} declares no shadow column {shadow!r}. Add "
        f'Shadow(live=..., shadow="{shadow}", value=...).triggers to its Meta.triggers.{known}'
    )
