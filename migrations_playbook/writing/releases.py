"""The operations of each release's migration: the missing operations, and ours alone.

Other differences between the models and the migrations are left to `makemigrations`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db import DEFAULT_DB_ALIAS, connections, migrations
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ModelState
from pgtrigger.migrations import AddTrigger, RemoveTrigger

from migrations_playbook.commands import spell_command
from migrations_playbook.errors import Refused, WrongPhase
from migrations_playbook.history import Remembered, find_remembered, own_triggers, read_history
from migrations_playbook.operations import DropGroup, DropShadow, EnsureSwapped, WithTableLock
from migrations_playbook.remains import bind_remains, read_remains
from migrations_playbook.replacement import Replacement, declared_replacements
from migrations_playbook.shadow import Shadow


def build_expand(replacement: Replacement, loader: MigrationLoader) -> list[Operation]:
    """Build the operations that add the shadow column and its triggers, or renew the triggers.

    Raises:
        WrongPhase: no migration makes the table yet, or the migrations have everything.
    """
    options = replacement.model._meta
    state = loader.project_state().models.get((options.app_label, str(options.model_name)))
    lives = [each.declaration.live for each in replacement.group]
    unmade = lives if state is None else [each for each in lives if each not in state.fields]
    if state is None or unmade:
        raise WrongPhase(
            f'No migration makes "{unmade[0]}" of {replacement.label} yet. Run '
            f'"manage.py makemigrations {options.app_label}" first.'
        )
    missing = list(_missing(replacement, state))
    if not missing:
        raise WrongPhase(
            f"The migrations have {replacement} with its triggers, as the model declares it. "
            'Run "manage.py migrate".'
        )
    return [WithTableLock(str(options.model_name), missing)]


def _missing(replacement: Replacement, state: ModelState) -> Iterator[Operation]:
    """Yield the operations for the parts of the shadow, or of its group, that are missing."""
    name, fields = state.name.lower(), ModelState.from_model(replacement.model).fields
    for shadow in (each.declaration.shadow for each in replacement.group):
        if shadow not in state.fields:
            yield migrations.AddField(name, shadow, fields[shadow])
    present = {each.name: each for each in own_triggers(state, replacement.declaration)}
    for declared in replacement.declaration.triggers:
        trigger = declared.compile(replacement.model)  # type: ignore[arg-type]
        if present.get(trigger.name) == trigger:
            continue
        if trigger.name in present:
            yield RemoveTrigger(name, str(trigger.name))
        yield AddTrigger(name, trigger)


def build_forget(label: str, shadow: str, loader: MigrationLoader) -> list[Operation]:
    """Build the operations that take the shadow out of Django's state, not out of the database.

    Raises:
        WrongPhase: the model still has the shadow, or the migrations never had, or no more.
    """
    was = _remembered(label, shadow, read_history(loader))
    if was.forgotten:
        raise WrongPhase(
            f"The migrations have forgotten {was} already. In the release after that "
            f'one, run "{spell_command("contract", was.label, shadow)}".'
        )
    there = next(_still_there(was), None)
    if there is not None:
        raise WrongPhase(
            f"{was.label} still has {there!r}. Take the field and its Shadow out "
            "of the model, then run the same command again."
        )
    name = was.model.lower()
    return [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                *_adopt_type(was),
                *(RemoveTrigger(name, str(trigger.name)) for trigger in was.triggers),
                *(migrations.RemoveField(name, each.dropped) for each in was.declaration.members),
            ]
        )
    ]


def _adopt_type(was: Remembered) -> Iterator[Operation]:
    """Yield the change of the live field to the type that its column has since the swap.

    Raises:
        WrongPhase: the model still has the field of the old type.
    """
    if not was.declaration.converts or was.declaration.moves:
        return
    live = was.declaration.live
    field: Any = apps.get_model(was.label)._meta.get_field(live)
    old, new = was.replacement().model._meta.get_field(live), was.field
    connection = connections[DEFAULT_DB_ALIAS]
    kinds = [each.db_type(connection) for each in (field, old, new)]
    if kinds[0] == kinds[1] != kinds[2]:
        raise WrongPhase(
            f"{was.label} still has {live!r} as a {kinds[1]}, and its column is a {kinds[2]} since "
            "the swap. Write the field of the new type, then run the same command again."
        )
    if field.deconstruct()[1:] != was.model_state.fields[live].deconstruct()[1:]:
        yield migrations.AlterField(was.model.lower(), live, field.clone())


def build_ensure(label: str, shadow: str, loader: MigrationLoader, up_to: int) -> list[Operation]:
    """Build the operation to fill and swap a small table inside `migrate`.

    Arguments:
        up_to: rows up to which `migrate` fills and swaps.

    Raises:
        WrongPhase: the migrations drop the column already.
    """
    was = _remembered(label, shadow, read_history(loader))
    if was.contracted:
        raise WrongPhase(f"A migration drops {was} already, so there is nothing to swap after it.")
    lead = was.declaration.members[0]
    return [EnsureSwapped(was.model.lower(), live=lead.live, shadow=lead.shadow, up_to=up_to)]


def build_contract(label: str, shadow: str, loader: MigrationLoader) -> list[Operation]:
    """Build the operation to drop the shadow column.

    A shadow that no migration has is looked for in the databases.

    Raises:
        Refused: neither has it.
        WrongPhase: the migrations have not forgotten the shadow, or have dropped the column
            already.
    """
    history = read_history(loader)
    if find_remembered(label, shadow, history) is None:
        for remains in find_remains():
            if remains.is_called(label, shadow):
                return [_drop_remains(remains)]
    was = _remembered(label, shadow, history)
    for each in (_remembered(was.label, each.shadow, history) for each in was.declaration.members):
        if not each.forgotten:
            raise WrongPhase(
                f"The migrations still have {each}, so processes may select it. In a release "
                f'before this one, run "{spell_command("forget", was.label, shadow)}".'
            )
        if each.contracted:
            raise WrongPhase(
                f"A migration drops {each} already. Run "
                '"manage.py migrate" where it has not been run.'
            )
    return [_drop(was.model.lower(), was.declaration)]


def find_remains() -> Iterator[Replacement]:
    """List the shadows that only a database of the project knows."""
    for connection in connections.all():
        if connection.vendor == "postgresql":
            yield from bind_remains(read_remains(connection))


def _drop_remains(remains: Replacement) -> Operation:
    """Build the operation to drop a shadow column that only a database knows, or a group's.

    Raises:
        WrongPhase: the model still has the field.
    """
    known = {field.name for field in apps.get_model(remains.label)._meta.local_fields}
    for dropped in (each.dropped for each in remains.declaration.members if each.dropped in known):
        raise WrongPhase(
            f"{remains.label} still has {dropped!r}, and no migration knows its triggers. Declare "
            f'its Shadow again and run "{remains.command("expand")}"; forget and contract it then.'
        )
    return _drop(str(remains.model._meta.model_name), remains.declaration)


def _drop(model_name: str, declaration: Shadow) -> Operation:
    """Build the operation to drop a shadow column, or all of a group."""
    if len(declaration.members) == 1:
        return DropShadow(model_name, live=declaration.kept, shadow=declaration.dropped)
    return DropGroup(model_name, columns={each.live: each.shadow for each in declaration.members})


def _remembered(label: str, shadow: str, history: list[Remembered]) -> Remembered:
    was = find_remembered(label, shadow, history)
    if was is None:
        raise Refused(
            f"No migration has a shadow {shadow!r} of {label}. "
            f'"{spell_command("expand", label, shadow)}" writes the one that adds it.'
        )
    return was


def _still_there(was: Remembered) -> Iterator[str]:
    """Yield the fields to be dropped that today's model has, or whose shadow it declares."""
    declared = {str(each) for each in declared_replacements()}
    for each in was.declaration.members:
        try:
            apps.get_model(was.label)._meta.get_field(each.dropped)
        except (LookupError, FieldDoesNotExist):
            if f"{was.label}.{each.shadow}" not in declared:
                continue
        yield each.dropped
