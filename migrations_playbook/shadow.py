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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pgtrigger
from django.db import models
from django.db.models import options as meta_options
from django.db.models.signals import class_prepared
from django.dispatch import receiver

from migrations_playbook.meaning.base import Meaning
from migrations_playbook.meaning.conversion import Conversion
from migrations_playbook.meaning.expressions import (
    CompiledExpression,
    output_field,
    write_expression,
)
from migrations_playbook.meaning.rotation import FillTrigger, KeepTrigger, Rotation, read_drawn
from migrations_playbook.meaning.sync import SyncInsertTrigger, SyncUpdateTrigger, read_declared
from migrations_playbook.postgres.names import unquoted

# As django-pgtrigger does. Where INSTALLED_APPS lacks the package, a check says so, and not Django,
# which knows no `Meta.triggers` and would end in a traceback.
if "triggers" not in meta_options.DEFAULT_NAMES:
    meta_options.DEFAULT_NAMES = (*meta_options.DEFAULT_NAMES, "triggers")


Expression: TypeAlias = models.expressions.BaseExpression | models.F


@dataclass(frozen=True)
class Shadow:
    """The declaration of a column's replacement by another column.

    Arguments:
        live: the field whose values are replaced.
        shadow: the nullable field that collects the new values; declared later. Of a rotation it
            has the live field's type.
        value: of a rotation: a Django expression that PostgreSQL evaluates for each row, such as
            `RandomUUID()`. The expression refers to no column: a value is drawn, not converted.
        up: of a conversion: what the shadow's value is made of, an expression of the live field.
        down: of a conversion: the way back, an expression of the shadow field; None for no way.
        moves: of a conversion: nothing is exchanged. The shadow keeps its name, both names are
            served, and the contract drops the live column: a rename.
    """

    live: str
    shadow: str
    value: models.expressions.BaseExpression | None = None
    up: Expression | None = None
    down: Expression | None = None
    moves: bool = False

    @property
    def converts(self) -> bool:
        """Whether the shadow is made from the live column, not drawn."""
        return self.up is not None

    @property
    def dropped(self) -> str:
        """The field whose column the contract drops."""
        return self.live if self.moves else self.shadow

    @property
    def kept(self) -> str:
        """The field that stays."""
        return self.shadow if self.moves else self.live

    @property
    def triggers(self) -> list[pgtrigger.Trigger]:
        """The triggers for a model's `Meta.triggers`."""
        if self.converts:
            return [SyncInsertTrigger(self), SyncUpdateTrigger(self)]
        return [FillTrigger(self), KeepTrigger(self)]

    @classmethod
    def read(cls, installed: str, fields: Mapping[str, str]) -> Shadow | None:
        """Read a declaration back from the text of its first trigger's function; None without.

        Arguments:
            installed: the text.
            fields: the names of the model's fields, by their columns.
        """
        made = read_declared(installed)
        drawn = read_drawn(installed)
        columns = made or drawn or {}
        live, shadow = (fields.get(unquoted(columns.get(role, ""))) for role in ("live", "shadow"))
        if live is None or shadow is None:
            return None
        if drawn is not None:
            return cls(live, shadow, value=CompiledExpression(drawn["value"]))
        assert made is not None
        up, down = made["up"], made["down"]
        return cls(
            live,
            shadow,
            up=CompiledExpression(up, live),
            down=None if down is None else CompiledExpression(down, shadow),
            moves=made.get("moves", False),
        )

    def attach_to(
        self, model: type[models.Model], field: models.Field[Any, Any] | None = None
    ) -> None:
        """Declare the shadow on somebody else's model: add its field, register its triggers.

        To be called in the `ready()` of an app of yours.

        Arguments:
            model: an installed app's model; `apps.get_model("invitations.Invitation")`, say.
            field: the shadow field, nullable; without, one of the live field's type.
        """
        fields = {each.name: each for each in model._meta.fields}
        live = fields.get(self.live)
        # Where there is nothing to copy, or a primary key, a check says what is wrong.
        if live is not None and not live.primary_key and self.shadow not in fields:
            model.add_to_class(self.shadow, field or shadow_field(live))
        for trigger in self.triggers:
            trigger.register(model)  # type: ignore[arg-type]

    def meaning(self, model: type[models.Model]) -> Meaning:
        """Return the meaning of the shadow of a model."""
        return Conversion(model, self) if self.converts else Rotation(model, self)

    @property
    def value_field(self) -> models.Field[Any, Any] | None:
        """Resolve the field of the value's type; None where Django cannot tell."""
        return output_field(self.value)

    def value_sql(self, model: type[models.Model]) -> str:
        """Write the value expression as SQL, its parameters as literals."""
        return write_expression(model, self.value)


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
    each_declared = (declared,) if isinstance(declared, Shadow) else declared
    if any(isinstance(each, Shadow) for each in each_declared):
        spread = [
            trigger
            for each in each_declared
            for trigger in (each.triggers if isinstance(each, Shadow) else (each,))
        ]
        sender._meta.triggers = spread  # type: ignore[attr-defined]
        # Looked at by the migrations' autodetector.
        sender._meta.original_attrs["triggers"] = spread
