"""System checks of what models declare; each hint is a command, or a line to write.

The checks of a declaration need no database. The one of the table's kind does, so it runs where
Django has database checks run: before `migrate`, which makes it a refusal at expand time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pgtrigger
from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import FieldDoesNotExist
from django.db import OperationalError, ProgrammingError, connections, models
from django.db.models.expressions import BaseExpression, F

from migrations_playbook.expand.soundness import unsound
from migrations_playbook.postgres.names import MAX_NAME_BYTES
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.replacement import Replacement
from migrations_playbook.shadow import FillTrigger, Shadow

Model = type[models.Model]


def declarations() -> Iterator[tuple[Model, Shadow]]:
    """Every model with a shadow that it declares, right or wrong."""
    for model, trigger in pgtrigger.registered():
        if isinstance(trigger, FillTrigger):
            yield model, trigger.declaration  # type: ignore[misc]


@register("migrations_playbook")
def check_declarations(
    app_configs: Sequence[AppConfig] | None, **options: Any
) -> list[CheckMessage]:
    """What each model declares: two fields of one type, the shadow nullable, a value to fill in."""
    return [
        error
        for model, shadow in declarations()
        if app_configs is None or model._meta.app_config in app_configs
        for error in declaration_errors(model, shadow)
    ]


def declaration_errors(model: Model, shadow: Shadow) -> Iterator[CheckMessage]:
    """The errors of one declaration."""
    options = model._meta
    if options.proxy or options.abstract or not options.managed or options.swapped:
        kind = "a proxy" if options.proxy else "abstract" if options.abstract else "unmanaged"
        concrete = options.concrete_model._meta.label if options.concrete_model else "its model"
        yield Error(
            f"A shadow is declared on a model that is {kind}: no migration would expand it.",
            hint=f"Move the Shadow(...).triggers to the Meta of {concrete}."
            if options.proxy
            else "Set managed = True, or move the Shadow(...).triggers to a model with a table.",
            obj=model,
            id="playbook.E001",
        )
    fields = {}
    for role, name in (("live", shadow.live), ("shadow", shadow.shadow)):
        try:
            field = options.get_field(name)
        except FieldDoesNotExist:
            yield Error(
                f"Shadow({role}={name!r}): {options.label} has no such field.",
                hint=f"Write {name} = ..., or correct the {role} of the Shadow."
                if role == "live"
                else f"Write {name} = models.{_class_of(options, shadow.live)}(null=True, "
                'editable=False), then run "manage.py makemigrations".',
                obj=model,
                id="playbook.E002",
            )
            continue
        if not isinstance(field, models.Field) or field.column is None or field.model is not model:
            owner = getattr(field.model, "_meta", options).label
            yield Error(
                f"Shadow({role}={name!r}): the field is no column of {options.label}'s own table.",
                hint=f"Move the Shadow(...).triggers to the Meta of {owner}.",
                obj=model,
                id="playbook.E003",
            )
            continue
        fields[role] = field
    if len(fields) == 2:  # noqa: PLR2004 - both are there
        yield from _field_errors(model, fields["live"], fields["shadow"])
    yield from _value_errors(model, shadow)


def _class_of(options: Any, name: str) -> str:
    try:
        return type(options.get_field(name)).__name__
    except FieldDoesNotExist:
        return "UUIDField"


def _field_errors(
    model: Model, live: models.Field[Any, Any], shadow: models.Field[Any, Any]
) -> Iterator[CheckMessage]:
    if live is shadow:
        yield Error(
            f"Shadow: {live.name} cannot be its own shadow.",
            hint="Name two fields.",
            obj=model,
            id="playbook.E004",
        )
        return
    connection = next(
        (each for each in connections.all() if each.vendor == "postgresql"), connections["default"]
    )
    types = [
        (field.db_type(connection), getattr(field, "db_collation", None))
        for field in (live, shadow)
    ]
    if types[0] != types[1]:
        sized = isinstance(live, models.CharField) and live.max_length
        arguments = f"max_length={live.max_length}, " if sized else ""
        yield Error(
            f"Shadow: {shadow.name} ({types[1][0]}) is of another type than {live.name} "
            f"({types[0][0]}).",
            hint=f"Write {shadow.name} = models.{type(live).__name__}({arguments}null=True, "
            "editable=False).",
            obj=model,
            id="playbook.E005",
        )
    if not shadow.null or shadow.primary_key:
        yield Error(
            f"Shadow: {shadow.name} is not nullable, so the expand would rewrite the table.",
            hint=f"Write {shadow.name} = models.{type(shadow).__name__}(null=True, "
            "editable=False).",
            obj=model,
            id="playbook.E006",
        )
    if shadow.has_default() or shadow.db_default is not models.NOT_PROVIDED:
        yield Error(
            f"Shadow: {shadow.name} has a default, which would stand in for the declared value.",
            hint=f"Take the default of {shadow.name} away; the trigger fills it.",
            obj=model,
            id="playbook.E007",
        )
    if live.primary_key or live.remote_field is not None:
        what = "the primary key" if live.primary_key else "a foreign key"
        yield Error(
            f"Shadow: {live.name} is {what}, which a rename cannot rotate.",
            hint="Declare a Shadow for a field that no other table refers to.",
            obj=model,
            id="playbook.E008",
        )
    for name in (live.column, shadow.column):
        if len(str(name).encode()) > MAX_NAME_BYTES:
            yield Error(
                f"Shadow: the column name {name} is longer than {MAX_NAME_BYTES} bytes, and "
                "PostgreSQL would cut it.",
                hint='Write db_column="..." with a shorter name.',
                obj=model,
                id="playbook.E009",
            )
    for kind, name in (
        ("table", model._meta.db_table),
        *(("column", str(field.column)) for field in (live, shadow)),
    ):
        if "%" in name:
            yield Error(
                f"Shadow: the {kind} name {name} has a percent sign, on which Django's own queries "
                "fail: the driver takes it for a placeholder.",
                hint=f'ALTER TABLE ... RENAME it, and write db_{kind}="..." without one.',
                obj=model,
                id="playbook.E012",
            )


def _value_errors(model: Model, shadow: Shadow) -> Iterator[CheckMessage]:
    value: Any = shadow.value
    if not isinstance(value, BaseExpression):
        yield Error(
            "Shadow(value=...) is not an expression that PostgreSQL could evaluate for each row.",
            hint="Write value=RandomUUID(), or another database function.",
            obj=model,
            id="playbook.E010",
        )
        return
    if any(isinstance(each, F) for each in _flattened(value)):
        yield Error(
            "Shadow(value=...) refers to a column: it must make a value, not convert one.",
            hint="Write value=RandomUUID(), or another expression without F().",
            obj=model,
            id="playbook.E011",
        )


def _flattened(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, BaseExpression):
        for each in value.get_source_expressions():
            yield from _flattened(each)


@register(Tags.database)
def check_tables(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **options: Any
) -> list[CheckMessage]:
    """The tables' kinds: an inherited one, say, is refused before it is expanded.

    Django runs it before `migrate`, and with `check --database`.
    """
    errors: list[CheckMessage] = []
    for alias in databases or ():
        connection = connections[alias]
        if connection.vendor != "postgresql":
            continue
        for model, shadow in declarations():
            if app_configs is not None and model._meta.app_config not in app_configs:
                continue
            try:
                replacement = Replacement(model, shadow)
                table = read_table(connection, replacement.identifier)
            except (OperationalError, ProgrammingError):
                # No server, or no such right: the command itself will say so. (A server that is
                # too old must be heard here: Django asks only once, as it connects.)
                break
            why = None if table is None else unsound(connection, table.identifier, replacement.live)
            if why is not None:
                errors.append(
                    Error(
                        f"{model._meta.label} declares a shadow, and its table is {why}.",
                        hint=f"Take the Shadow(live={shadow.live!r}, shadow={shadow.shadow!r}) "
                        "out of its Meta.triggers: the swap would refuse it.",
                        obj=model,
                        id="playbook.E020",
                    )
                )
    return errors
