"""A model's declaration, from which the triggers follow, kept by django-pgtrigger.

A model says once which column shadows which, and with which value::

    class Ticket(models.Model):
        token = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
        new_token = models.UUIDField(null=True, editable=False)

        class Meta:
            triggers = Shadow(live="token", shadow="new_token", value=RandomUUID()).triggers

The triggers, the commands, the checks and the status all read this declaration: there is no
registry but django-pgtrigger's own. The expand migration installs the triggers, and they stay until
the contract. What the shadow's values mean, and which triggers follow, is the meaning's to say:
`rotation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import pgtrigger
from django.db import models
from django.db.models import options as meta_options
from django.db.models.signals import class_prepared
from django.dispatch import receiver

from migrations_playbook.meaning.base import Ends, Meaning, read_declared
from migrations_playbook.meaning.conversion import Conversion
from migrations_playbook.meaning.expressions import (
    SOURCE,
    CompiledExpression,
    output_field,
    write_expression,
)
from migrations_playbook.meaning.group_triggers import GroupFillTrigger, GroupKeepTrigger
from migrations_playbook.meaning.grouped import GroupedRotation, mark_sources
from migrations_playbook.meaning.installed import read_descriptions
from migrations_playbook.meaning.rotation import FillTrigger, KeepTrigger, Rotation
from migrations_playbook.meaning.saves import SavedPair
from migrations_playbook.meaning.sync import SyncInsertTrigger, SyncUpdateTrigger

# As django-pgtrigger does. Where INSTALLED_APPS lacks the package, a check says so, and not Django,
# which knows no `Meta.triggers` and would end in a traceback.
if "triggers" not in meta_options.DEFAULT_NAMES:
    meta_options.DEFAULT_NAMES = (*meta_options.DEFAULT_NAMES, "triggers")


Expression: TypeAlias = models.expressions.BaseExpression | models.F


@dataclass(frozen=True)
class Shadow(Ends):
    """The declaration of a column's replacement by another column.

    Arguments:
        live: the field whose values are replaced.
        shadow: the nullable field that collects the new values; declared later. Of a rotation it
            has the live field's type.
        value: of a rotation: a Django expression that PostgreSQL evaluates for each row, such as
            `RandomUUID()`. The expression refers to no column: a value is drawn, not converted.
            In a `Group` it may refer to the shadow fields of members that stand before.
        up: of a conversion: what the shadow's value is made of, an expression of the live field.
        down: of a conversion: the way back, an expression of the shadow field; None for no way.
        moves: of a conversion: nothing is exchanged. The shadow keeps its name, both names are
            served, and the contract drops the live column: a rename.
        group: the group that the shadow is a member of; a `Group` says so itself.
    """

    live: str
    shadow: str
    value: Expression | None = None
    up: Expression | None = None
    down: Expression | None = None
    moves: bool = False
    group: Group | None = field(default=None, compare=False, repr=False)

    @property
    def members(self) -> tuple[Shadow, ...]:
        """All shadows that are played together with this one, in their order; itself included."""
        return (self,) if self.group is None else self.group.members

    @property
    def converts(self) -> bool:
        """Whether the shadow is made from the live column, not drawn."""
        return self.up is not None

    @property
    def triggers(self) -> list[pgtrigger.Trigger]:
        """The triggers for a model's `Meta.triggers`; of a member, those of its group."""
        if self.group is not None:
            return self.group.triggers
        if self.converts:
            return [SyncInsertTrigger(self), SyncUpdateTrigger(self)]
        return [FillTrigger(self), KeepTrigger(self)]

    def attach_to(
        self, model: type[models.Model], field: models.Field[Any, Any] | None = None
    ) -> None:
        """Declare the shadow on somebody else's model: add its field, register its triggers.

        To be called in the `ready()` of an app of yours.

        Arguments:
            model: an installed app's model; `apps.get_model("invitations.Invitation")`, say.
            field: the shadow field, nullable; without, one of the live field's type.
        """
        self.add_field(model, field)
        _register(self.triggers, model)
        self.follow_saves(model)

    def follow_saves(self, model: type[models.Model]) -> None:
        """Let an object of a model with a conversion be saved twice; see `meaning.saves`."""
        if self.converts:
            related = [each for each in model._meta.apps.get_models() if issubclass(each, model)]
            SavedPair(self.live, self.shadow).follow({model, *related})

    def add_field(
        self, model: type[models.Model], field: models.Field[Any, Any] | None = None
    ) -> None:
        """Add the shadow field to somebody else's model; see `attach_to`."""
        fields = {each.name: each for each in model._meta.fields}
        live = fields.get(self.live)
        # Where there is nothing to copy, or a primary key, a check says what is wrong.
        if live is not None and not live.primary_key and self.shadow not in fields:
            model.add_to_class(self.shadow, field or shadow_field(live))

    def meaning(self, model: type[models.Model]) -> Meaning:
        """Return the meaning of the shadow of a model."""
        if self.group is not None:
            return GroupedRotation(model, self)
        return Conversion(model, self) if self.converts else Rotation(model, self)

    @property
    def value_field(self) -> models.Field[Any, Any] | None:
        """Resolve the field of the value's type; None where Django cannot tell."""
        return output_field(self.value)

    def value_sql(self, model: type[models.Model]) -> str:
        """Write the value expression as SQL, its parameters as literals."""
        return write_expression(model, self.value)


class Group:
    """Shadows of a table that are played as one: filled, exchanged and reverted together.

    The value of a member is drawn, or made of shadow fields of members that stand before::

        triggers = Group(
            Shadow(live="token", shadow="new_token", value=RandomText(30)),
            Shadow(live="checksum", shadow="new_checksum", value=Sha256("new_token")),
        )

    Arguments:
        members: the shadows, all of them rotations.
    """

    def __init__(self, *members: Shadow) -> None:
        self.members = tuple(replace(each, group=self) for each in members)

    @property
    def triggers(self) -> list[pgtrigger.Trigger]:
        """The triggers for a model's `Meta.triggers`, named after the first member."""
        return [trigger(each) for each in self.members[:1] for trigger in GROUP_TRIGGERS]

    def attach_to(self, model: type[models.Model]) -> None:
        """Declare the group on somebody else's model; see `Shadow.attach_to`."""
        for each in self.members:
            each.add_field(model)
        _register(self.triggers, model)


GROUP_TRIGGERS = (GroupFillTrigger, GroupKeepTrigger)


def _register(triggers: Iterable[pgtrigger.Trigger], model: type[models.Model]) -> None:
    for trigger in triggers:
        trigger.register(model)  # type: ignore[arg-type]


def read_shadows(installed: str, fields: Mapping[str, str]) -> tuple[Shadow, ...]:
    """Read declarations back from the text of their first trigger's function.

    Arguments:
        installed: the text.
        fields: the names of the model's fields, by their columns.

    Returns:
        The declaration, or the members of a group; nothing where a field is gone, or where the
        function is none of ours.
    """
    named = []
    for each in read_descriptions(installed):
        live, shadow = (fields.get(each[role]) for role in ("live", "shadow"))
        if live is None or shadow is None:
            return ()
        named.append((live, shadow, each))
    if "group" not in read_declared(installed):
        return tuple(_read_shadow(*each, {}) for each in named)
    marks = mark_sources(shadow for _, shadow, _ in named)
    return Group(*(_read_shadow(*each, marks) for each in named)).members


def _read_shadow(
    live: str, shadow: str, described: Mapping[str, Any], marks: Mapping[str, str]
) -> Shadow:
    """Read a shadow's declaration back.

    Arguments:
        described: the SQL of its expressions.
        marks: the fields that a value may refer to, by what stands for each.
    """
    if "value" in described:
        value = described["value"]
        sources = {mark: field for mark, field in marks.items() if mark in value}
        return Shadow(live, shadow, CompiledExpression(value, sources))
    up, down = described["up"], described["down"]
    return Shadow(
        live,
        shadow,
        up=CompiledExpression(up, {SOURCE: live}),
        down=None if down is None else CompiledExpression(down, {SOURCE: shadow}),
        moves=described.get("moves", False),
    )


def shadow_field(live: models.Field[Any, Any]) -> models.Field[Any, Any]:
    """Build the shadow of a field: of the same type, nullable, in no form and in no index."""
    _, _, arguments, options = live.deconstruct()
    for own in ("unique", "default", "db_default", "db_index", "db_column", "primary_key"):
        options.pop(own, None)
    options |= {"null": True, "editable": False}
    field: Any = type(live)(*arguments, **options)
    # A SlugField has an index unless it is told not to.
    return type(live)(*arguments, **(options | {"db_index": False})) if field.db_index else field


@receiver(class_prepared)
def spread_declarations(sender: type[models.Model], **kwargs: Any) -> None:
    """Read `triggers = Shadow(...)` and `[Shadow(...), ...]` as if `.triggers` stood behind."""
    declared = getattr(sender._meta, "triggers", ())
    each_declared = (declared,) if isinstance(declared, Shadow | Group) else declared
    if any(isinstance(each, Shadow | Group) for each in each_declared):
        spread = [
            trigger
            for each in each_declared
            for trigger in (each.triggers if isinstance(each, Shadow | Group) else (each,))
        ]
        sender._meta.triggers = spread  # type: ignore[attr-defined]
        # Looked at by the migrations' autodetector.
        sender._meta.original_attrs["triggers"] = spread
