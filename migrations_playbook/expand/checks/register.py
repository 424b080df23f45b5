"""System checks of models and migrations; each hint is a command, or a line to write.

The checks of a declaration need no database. The checks of the table do, so they run with Django's
database checks: before `migrate`, which makes them refusals at expand time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.management.base import CommandError
from django.db import DatabaseError, NotSupportedError, connections, models, router

from migrations_playbook.errors import TRY_AGAIN, primary_message
from migrations_playbook.expand.checks.conversions import check_conversion, warn_of_prepared
from migrations_playbook.expand.checks.fields import check_fields, check_model
from migrations_playbook.expand.checks.groups import check_group, follows
from migrations_playbook.expand.checks.migrations import check_migration, read_migrations
from migrations_playbook.expand.checks.tables import check_table
from migrations_playbook.expand.checks.values import check_value
from migrations_playbook.meaning.base import ShadowTrigger
from migrations_playbook.replacement import Replacement, declared_replacements
from migrations_playbook.shadow import Group, Shadow

Model = type[models.Model]


def declarations(app_configs: Sequence[AppConfig] | None = None) -> Iterator[tuple[Model, Shadow]]:
    """Yield every model with each shadow declared, right or wrong."""
    for each in declared_replacements():
        if app_configs is None or each.model._meta.app_config in app_configs:
            yield each.model, each.declaration


@register("migrations_playbook")
def check_declarations(
    app_configs: Sequence[AppConfig] | None, **options: Any
) -> list[CheckMessage]:
    """Check each declaration: two fields of a type, the shadow nullable, a value to fill in."""
    found = list(declarations(app_configs))
    errors = [error for model, shadow in found for error in declaration_errors(model, shadow)]
    declared = {id(shadow) for _, shadow in found}
    for model in apps.get_models():
        for name, each in vars(model).items():
            if any(id(shadow) not in declared for shadow in _shadows_in(each)):
                errors.append(
                    Error(
                        f"{model._meta.label}.{name} is a Shadow outside of the Meta, where nobody "
                        "looks for it.",
                        hint="Write triggers = Shadow(...).triggers in its Meta.",
                        obj=model,
                        id="playbook.E002",
                    )
                )
    return errors


def _shadows_in(value: object) -> Iterator[Shadow]:
    """Yield the shadows that a model's attribute holds, be they spelled with `.triggers`."""
    for each in value if isinstance(value, list | tuple) else (value,):
        if isinstance(each, Shadow):
            yield each
        elif isinstance(each, Group):
            yield from each.members
        elif isinstance(each, ShadowTrigger):
            yield from each.declaration.members


def declaration_errors(model: Model, shadow: Shadow) -> Iterator[CheckMessage]:
    """Yield the errors of a declaration."""
    yield from check_model(model)
    yield from check_fields(model, shadow)
    if shadow.group is not None:
        yield from check_group(model, shadow)
    if not follows(shadow):
        check = check_conversion if shadow.converts else check_value
        yield from check(model, shadow)


def _sound_declarations(
    app_configs: Sequence[AppConfig] | None,
) -> Iterator[tuple[Model, Shadow]]:
    """Yield the declarations without an error: what else is asked about the others says nothing."""
    for model, shadow in declarations(app_configs):
        if not any(declaration_errors(model, shadow)):
            yield model, shadow


@register("migrations_playbook")
def check_migrations(app_configs: Sequence[AppConfig] | None, **options: Any) -> list[CheckMessage]:
    """Check the expanding migrations: under the bounded lock, in a transaction."""
    found = list(declarations(app_configs))
    return [
        error
        for label in dict.fromkeys(model._meta.app_label for model, _ in found)
        for migration in read_migrations(label)
        for error in check_migration(migration, found)
    ]


@register("migrations_playbook")
def check_sessions(app_configs: Sequence[AppConfig] | None, **options: Any) -> list[CheckMessage]:
    """Check the OPTIONS of the databases: what a session has prepared may outlive a type."""
    return [
        warning
        for model, shadow in _sound_declarations(app_configs)
        for warning in warn_of_prepared(model, shadow, _read_options(model))
    ]


def _read_options(model: Model) -> dict[str, dict[str, Any]]:
    """Return the OPTIONS of each PostgreSQL database that may have the model's table."""
    return {
        alias: connections[alias].settings_dict.get("OPTIONS") or {}
        for alias in connections
        if connections[alias].vendor == "postgresql" and router.allow_migrate_model(alias, model)
    }


@register(Tags.database)
def check_tables(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **options: Any
) -> list[CheckMessage]:
    """Check the tables: an inherited table, say, is refused before the expand.

    Django runs the check before `migrate`, and with `check --database`.

    Raises:
        CommandError: the server cannot be reached, so nothing can be checked or migrated now.
    """
    sound = list(_sound_declarations(app_configs))
    errors: list[CheckMessage] = []
    for alias in databases or ():
        connection = connections[alias]
        if connection.vendor != "postgresql" or not sound:
            continue
        try:
            connection.ensure_connection()
        except NotSupportedError:
            raise  # the server is too old; Django says so, and only once
        except DatabaseError as error:
            raise CommandError(
                f'The database "{alias}" cannot be reached ({primary_message(error)}); nothing was '
                "changed. Run the same command again when it can.",
                returncode=TRY_AGAIN,
            ) from None
        for model, shadow in sound:
            errors += check_table(connection, Replacement(model, shadow))
    return errors
