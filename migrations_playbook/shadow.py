"""A model's declaration, and the two triggers that follow, kept by django-pgtrigger.

A model says once which column shadows which, and with which value::

    class Ticket(models.Model):
        token = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
        new_token = models.UUIDField(null=True, editable=False)

        class Meta:
            triggers = Shadow(live="token", shadow="new_token", value=RandomUUID()).triggers

The triggers, the commands, the checks and the status all read this declaration: there is no
registry but django-pgtrigger's own. The expand migration installs the triggers, and they stay until
the contract:

- *fill* (INSERT): the shadow is drawn, whatever the write brings.
- *keep* (UPDATE): once filled, the shadow is never changed. A row that is not filled yet is filled
  by its first write, so the set of rows to fill only shrinks, which makes the set a resume point. A
  save that would write the shadow's value into the live column of its own row comes from an object
  loaded while the columns were exchanged: the save changes neither column, and its rest goes
  through.

So the plays alone write the shadow: no shadow is a copy, and nobody chose any. A row without a live
value has no shadow either: null means no token, or no token any more.

Both have a WHEN clause that PostgreSQL evaluates without calling the function, so any other UPDATE
costs nothing: neither does a row of the backfill. The plays themselves set django-pgtrigger's
`pgtrigger.ignore` where they draw a value again. Anybody may set this; nobody does so by accident.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pgtrigger
from django.core.exceptions import FieldError
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.models import options as meta_options
from django.db.models.signals import class_prepared
from django.db.models.sql import Query
from django.dispatch import receiver
from pgtrigger import compiler
from psycopg import sql

from migrations_playbook.postgres.names import column_of, compose_name
from migrations_playbook.trigger_sql import PinnedTriggerSql

# As django-pgtrigger does. Where INSTALLED_APPS lacks the package, a check says so, and not Django,
# which knows no `Meta.triggers` and would end in a traceback.
if "triggers" not in meta_options.DEFAULT_NAMES:
    meta_options.DEFAULT_NAMES = (*meta_options.DEFAULT_NAMES, "triggers")

# django-pgtrigger puts "pgtrigger_" before a trigger's name and "_" and five hex digits behind
# it, and allows 47 characters between.
MAX_TRIGGER_NAME = 47
# The transaction's mark of the row deleted last; see `quarantine`.
MOVED = "migrations_playbook.moved"
# The statements that draw the shadow of a row with a live value. A value equal to the live one
# would rotate nothing: an expression with little room may need a second draw.
DRAW = (
    "NEW.{shadow} := NULL; "
    "IF NEW.{live} IS NOT NULL THEN "
    "FOR draw IN 1..100 LOOP "
    "NEW.{shadow} := {value}; "
    "EXIT WHEN NEW.{shadow} IS DISTINCT FROM NEW.{live}; "
    "END LOOP; "
    "END IF; "
)


def mark_row(shadow: str) -> str:
    """Compose the mark of a row: the hash of its shadow, and the statement at work."""
    return (
        f"hash_record_extended(ROW({shadow}), 0)::text "
        "|| extract(epoch FROM statement_timestamp())::text"
    )


@dataclass(frozen=True)
class Shadow:
    """The declaration of a column's replacement by another column.

    Arguments:
        live: the field whose values are replaced.
        shadow: the nullable field that collects the new values; same type, declared later.
        value: a Django expression that PostgreSQL evaluates for each row, such as `RandomUUID()`.
            The expression refers to no column: a value is made, not converted.
    """

    live: str
    shadow: str
    value: models.expressions.BaseExpression

    @property
    def triggers(self) -> list[pgtrigger.Trigger]:
        """The triggers for a model's `Meta.triggers`."""
        return [FillTrigger(self), KeepTrigger(self)]

    def attach_to(self, model: type[models.Model]) -> None:
        """Declare the shadow on somebody else's model: add its field, register its triggers.

        To be called in the `ready()` of an app of yours.

        Arguments:
            model: an installed app's model; `apps.get_model("invitations.Invitation")`, say.
        """
        if all(field.name != self.shadow for field in model._meta.local_fields):
            live = model._meta.get_field(self.live)
            assert isinstance(live, models.Field), f"{self.live} is no column"
            model.add_to_class(self.shadow, shadow_field(live))
        for trigger in self.triggers:
            trigger.register(model)  # type: ignore[arg-type]

    @property
    def value_field(self) -> models.Field[Any, Any] | None:
        """Resolve the field of the value's type; None where Django cannot tell."""
        try:
            return self.value.output_field
        except FieldError:
            return None

    def value_sql(self, model: type[models.Model]) -> str:
        """Write the value expression as SQL, its parameters as literals."""
        connection = connections[DEFAULT_DB_ALIAS]
        query = Query(model)
        resolved = self.value.resolve_expression(query, allow_joins=False)
        text, params = query.get_compiler(connection=connection).compile(resolved)
        return str(text % tuple(sql.Literal(param).as_string(None) for param in params))


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


class ShadowTrigger(pgtrigger.Trigger):
    """A trigger that a `Shadow` declares; named after its duty and the shadow field."""

    purpose = ""
    when = pgtrigger.Before

    def __init__(self, declaration: Shadow) -> None:
        self.declaration = declaration
        super().__init__(
            # Django-pgtrigger takes word characters alone. A name without a field is for a check.
            name=compose_name(
                self.purpose, re.sub(r"\W", "_", str(declaration.shadow)), limit=MAX_TRIGGER_NAME
            )
        )

    def compile(self, model: type[models.Model]) -> compiler.Trigger:  # type: ignore[override]
        """Compile the trigger's SQL, with the function's search_path pinned."""
        plain = super().compile(model)  # type: ignore[arg-type]
        return compiler.Trigger(name=plain.name, sql=PinnedTriggerSql(**plain.sql.kwargs))

    def names(self, model: type[models.Model]) -> dict[str, str]:
        """Quote the column names for the trigger's SQL."""

        def quoted(field: str) -> str:
            """Quote the name of a field's column."""
            return sql.Identifier(column_of(model, field)).as_string(None)

        return {
            "live": quoted(self.declaration.live),
            "shadow": quoted(self.declaration.shadow),
        }


class FillTrigger(ShadowTrigger):
    """The trigger that draws the shadow of each new row."""

    purpose = "fill"
    operation = pgtrigger.Insert

    def get_condition(self, model: Any) -> pgtrigger.Condition:
        """Return the WHEN: the row has a live value, or a shadow."""
        return pgtrigger.Condition(
            "NEW.{live} IS NOT NULL OR NEW.{shadow} IS NOT NULL".format(**self.names(model))
        )

    def get_func(self, model: Any) -> str:
        """Return the body: draw, unless the row comes from another partition."""
        # PostgreSQL inserts a row that an UPDATE moves to another partition: `quarantine`
        # marks such a row, and the row brings its shadow along.
        return (
            "IF NEW.{shadow} IS NULL OR current_setting('{mark}', true) IS DISTINCT FROM "
            + mark_row("NEW.{shadow}")
            + " THEN "
            + DRAW
            + "END IF; "
            "RETURN NEW;"
        ).format(mark=MOVED, value=self.declaration.value_sql(model), **self.names(model))


class KeepTrigger(ShadowTrigger):
    """The trigger that keeps a filled shadow as it is, and fills an empty shadow."""

    purpose = "keep"
    operation = pgtrigger.Update

    def get_condition(self, model: Any) -> pgtrigger.Condition:
        """Return the WHEN: a change of the shadow, a row to fill, or a stale save."""
        return pgtrigger.Condition(
            "OLD.{shadow} IS NOT NULL AND NEW.{shadow} IS DISTINCT FROM OLD.{shadow} "
            "OR (NEW.{shadow} IS NULL) <> (NEW.{live} IS NULL) "
            "OR NEW.{live} = OLD.{shadow} AND NEW.{live} IS DISTINCT FROM OLD.{live} "
            "OR OLD.{shadow} IS NULL AND NEW.{shadow} = NEW.{live}".format(**self.names(model))
        )

    def get_func(self, model: Any) -> str:
        """Return the body: keep the shadow, or draw."""
        return (
            "IF NEW.{live} = OLD.{shadow} AND NEW.{live} IS DISTINCT FROM OLD.{live} THEN "
            "NEW.{live} := OLD.{live}; END IF; "
            "IF OLD.{shadow} IS NOT NULL AND NEW.{live} IS NOT NULL THEN "
            "NEW.{shadow} := OLD.{shadow}; "
            "ELSE " + DRAW + "END IF; "
            "RETURN NEW;"
        ).format(value=self.declaration.value_sql(model), **self.names(model))
