"""Checks of the two fields that a `Shadow` names; each hint is a line to write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from django.core.checks import CheckMessage, Error
from django.core.exceptions import FieldDoesNotExist
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.migrations.writer import MigrationWriter

from migrations_playbook.postgres.names import MAX_NAME_BYTES, base_type
from migrations_playbook.shadow import Shadow, shadow_field

Model = type[models.Model]
# At run time Django's fields take no type arguments.
Field: TypeAlias = "models.Field[Any, Any]"

# The options that make a field's type: the shadow must have the same.
TYPE_OPTIONS = {"max_length", "db_collation", "max_digits", "decimal_places", "base_field", "size"}

# Types without an equality: nobody could tell whether a value has changed, or is another one.
INCOMPARABLE = {"json", "jsonpath", "xml", "point", "polygon"}


def check_model(model: Model) -> Iterator[CheckMessage]:
    """Say why no migration of the model's own app would expand its table."""
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


def check_fields(model: Model, shadow: Shadow) -> Iterator[CheckMessage]:
    """Say which faults the two fields have, or which field is missing."""
    fields: dict[str, Field] = {}
    for role, name in (("live", shadow.live), ("shadow", shadow.shadow)):
        try:
            field = model._meta.get_field(name)
        except FieldDoesNotExist:
            yield _missing(model, shadow, role, name)
            continue
        if not isinstance(field, models.Field) or field.column is None or field.model is not model:
            owner = getattr(field.model, "_meta", model._meta).label
            yield Error(
                f"Shadow({role}={name!r}): the field is no column of {model._meta.label}'s own "
                "table.",
                hint=f"Move the Shadow(...).triggers to the Meta of {owner}.",
                obj=model,
                id="playbook.E003",
            )
            continue
        fields[role] = field
        if field.primary_key and role == "live":
            yield from _check_live(model, field)
            return
    if "live" not in fields or "shadow" not in fields:
        return
    if fields["live"] is fields["shadow"]:
        yield Error(
            f"Shadow: {shadow.live} cannot be its own shadow.",
            hint="Name two fields.",
            obj=model,
            id="playbook.E004",
        )
        return
    if not shadow.converts:
        yield from _check_types(model, fields["live"], fields["shadow"])
    yield from _check_shadow(model, fields["shadow"])
    yield from _check_live(model, fields["live"])
    yield from _check_names(model, fields["live"], fields["shadow"])


def write_field(name: object, like: Field | None) -> str:
    """Write the line to declare a shadow of the same type as another field."""
    if like is None:
        return f"{name} = models.UUIDField(null=True, editable=False)"
    _, path, _, options = shadow_field(like).deconstruct()
    path = path.replace("django.db.models.", "models.")
    arguments = [
        f"{key}={MigrationWriter.serialize(value)[0]}"
        for key, value in options.items()
        if key in TYPE_OPTIONS | {"db_index"}
    ]
    return f"{name} = {path}({', '.join([*arguments, 'null=True', 'editable=False'])})"


def _missing(model: Model, shadow: Shadow, role: str, name: object) -> Error:
    try:
        live: Any = model._meta.get_field(shadow.live)
    except FieldDoesNotExist:
        live = None
    line = write_field(name, live if isinstance(live, models.Field) else None)
    return Error(
        f"Shadow({role}={name!r}): {model._meta.label} has no such field.",
        hint=f"Write {name} = ..., or correct the live of the Shadow."
        if role == "live"
        else f'Write {line}, then run "manage.py makemigrations".',
        obj=model,
        id="playbook.E002",
    )


def _check_types(model: Model, live: Field, shadow: Field) -> Iterator[CheckMessage]:
    types = [_describe_type(field) for field in (live, shadow)]
    if types[0] != types[1]:
        yield Error(
            f"Shadow: {shadow.name} ({types[1]}) is of another type than {live.name} ({types[0]}).",
            hint=f"Write {write_field(shadow.name, live)}.",
            obj=model,
            id="playbook.E005",
        )
    kind = base_type(live, connections[DEFAULT_DB_ALIAS])
    if kind in INCOMPARABLE:
        yield Error(
            f"Shadow: {live.name} is a {kind}: the type has no equality, so nobody could tell a "
            "leaked value from a fresh one.",
            hint="Convert it to jsonb or text first.",
            obj=model,
            id="playbook.E045",
        )


def _check_shadow(model: Model, shadow: Field) -> Iterator[CheckMessage]:
    if not shadow.null or shadow.primary_key:
        yield Error(
            f"Shadow: {shadow.name} is not nullable, so the expand would rewrite the table.",
            hint=f"Write {write_field(shadow.name, shadow)}.",
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
    indexed = _say_index(model, shadow)
    if indexed is not None and not shadow.primary_key:
        yield Error(
            f"Shadow: {shadow.name} {indexed}, so the expand would build an index under its lock, "
            "and the swap, which builds the live column's concurrently, a second one.",
            hint=f"Write {write_field(shadow.name, shadow)}, and name it in no index or constraint "
            "of the Meta.",
            obj=model,
            id="playbook.E013",
        )


def _describe_type(field: Field) -> str:
    connection = next(
        (each for each in connections.all() if each.vendor == "postgresql"), connections["default"]
    )
    collation = getattr(field, "db_collation", None)
    return f"{field.db_type(connection)}" + (f' COLLATE "{collation}"' if collation else "")


def _say_index(model: Model, field: Any) -> str | None:
    """Say which option would make an index on a field, as the end of a sentence; or None."""
    if field.unique:
        return "is unique"
    if field.db_index:
        return "has db_index=True"
    options = model._meta
    for each in (*options.constraints, *options.indexes):
        if field.name in [name.lstrip("-") for name in getattr(each, "fields", ())]:
            return f"is in {each.name}"
    if any(field.name in names for names in options.unique_together):
        return "is in unique_together"
    return None


def _check_live(model: Model, live: Field) -> Iterator[CheckMessage]:
    if live.primary_key:
        yield Error(
            f"Shadow: {live.name} is the primary key: the row's identity, which this site and "
            "others keep, and no value to be exchanged.",
            hint=f"Give {model._meta.label} a key of its own, id = models.BigAutoField("
            f"primary_key=True), and make {live.name} unique instead; then declare the Shadow.",
            obj=model,
            id="playbook.E008",
        )
        return
    if live.remote_field is not None:
        yield Error(
            f"Shadow: {live.name} is a foreign key, which a rename cannot rotate.",
            hint="Declare the Shadow for the field that it refers to, or for one that is no "
            "foreign key.",
            obj=model,
            id="playbook.E008",
        )
        return
    for relation in model._meta.related_objects:
        field: Any = relation.field
        if live in getattr(field, "foreign_related_fields", ()):
            yield Error(
                f"Shadow: {field} refers to {live.name}, so the exchange would change what its "
                "rows refer to, and is refused.",
                hint=f"Let {field} refer to the primary key: take to_field={live.name!r} from it.",
                obj=model,
                id="playbook.E018",
            )


def _check_names(model: Model, live: Field, shadow: Field) -> Iterator[CheckMessage]:
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
