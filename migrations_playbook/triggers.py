"""The two triggers that a shadow declares, kept by django-pgtrigger.

They are installed by the expand migration and stay until the contract:

- *fill*: no write leaves the shadow null. The set of null rows only shrinks, which is what makes
  the null predicate a resume point.
- *keep*: a save of an object that was loaded while the two columns were exchanged the other way
  writes the row's own other value into the live column. It is ignored, and the rest of the save
  goes through. (While the columns are exchanged, the quarantine does the same and more.)

Both have a WHEN clause that PostgreSQL evaluates without calling the function, so a write that
does not concern them costs nothing: neither does a row of the backfill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pgtrigger
from django.db import models
from pgtrigger import compiler
from psycopg import sql

from migrations_playbook.database import name_of, unquoted
from migrations_playbook.operations import PinnedTriggerSql

if TYPE_CHECKING:
    from migrations_playbook.shadow import Shadow

# django-pgtrigger puts "pgtrigger_" before a trigger's name and "_" and five hex digits behind
# it, and allows 47 characters between.
MAX_TRIGGER_NAME = 47


def column_of(model: type[models.Model], field: str) -> str:
    """The column of a model's field."""
    column = model._meta.get_field(field).column  # type: ignore[union-attr]
    assert column is not None
    return unquoted(str(column))


class ShadowTrigger(pgtrigger.Trigger):
    """A trigger that a `Shadow` declares; named after what it does and the shadow field."""

    purpose = ""
    when = pgtrigger.Before

    def __init__(self, declaration: Shadow) -> None:
        self.declaration = declaration
        super().__init__(name=name_of(self.purpose, declaration.shadow, limit=MAX_TRIGGER_NAME))

    def compile(self, model: type[models.Model]) -> compiler.Trigger:  # type: ignore[override]
        """The trigger's SQL, with the function's search_path pinned."""
        plain = super().compile(model)  # type: ignore[arg-type]
        return compiler.Trigger(name=plain.name, sql=PinnedTriggerSql(**plain.sql.kwargs))

    def names(self, model: type[models.Model]) -> dict[str, str]:
        """The quoted column names that the trigger's SQL is written with."""

        def quoted(field: str) -> str:
            return sql.Identifier(column_of(model, field)).as_string(None)

        return {
            "live": quoted(self.declaration.live),
            "shadow": quoted(self.declaration.shadow),
        }


class FillTrigger(ShadowTrigger):
    """Gives the shadow a value wherever a write would leave it null."""

    purpose = "fill"
    operation = pgtrigger.Insert | pgtrigger.Update

    def get_condition(self, model: Any) -> pgtrigger.Condition:
        return pgtrigger.Condition("NEW.{shadow} IS NULL".format(**self.names(model)))

    def get_func(self, model: Any) -> str:
        # An UPDATE that nulls a filled shadow is a stale save: the object was loaded before the
        # backfill came by. A new value must differ from the live one, or nothing was rotated:
        # an expression with little room may need a second draw.
        return (
            "IF TG_OP = 'UPDATE' THEN NEW.{shadow} := OLD.{shadow}; END IF; "
            "IF NEW.{shadow} IS NULL THEN "
            "FOR draw IN 1..100 LOOP "
            "NEW.{shadow} := {value}; "
            "EXIT WHEN NEW.{shadow} IS DISTINCT FROM NEW.{live}; "
            "END LOOP; "
            "END IF; "
            "RETURN NEW;"
        ).format(value=self.declaration.value_sql(model), **self.names(model))


class KeepTrigger(ShadowTrigger):
    """Ignores a save that would write the shadow's value into the live column of its own row."""

    purpose = "keep"
    operation = pgtrigger.Update

    def get_condition(self, model: Any) -> pgtrigger.Condition:
        return pgtrigger.Condition(
            "NEW.{live} = OLD.{shadow} AND NEW.{live} IS DISTINCT FROM OLD.{live}".format(
                **self.names(model)
            )
        )

    def get_func(self, model: Any) -> str:
        return ("NEW.{live} := OLD.{live}; NEW.{shadow} := OLD.{shadow}; RETURN NEW;").format(
            **self.names(model)
        )
