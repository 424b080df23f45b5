"""The meaning of a rotation: the shadow draws a new value for each row, and never looks back.

Two triggers follow from the declaration:

- *fill* (INSERT): the shadow is drawn, whatever the write brings.
- *keep* (UPDATE): once filled, the shadow is never changed. A row that is not filled yet is filled
  by its first write, so the set of rows to fill only shrinks, which makes the set a resume point. A
  save that would write the shadow's value into the live column of its own row comes from an object
  loaded while the columns were exchanged: the save changes neither column, and its rest goes
  through.

So the plays alone write the shadow: no shadow is a copy, and nobody chose any. A row without a live
value has no shadow either: null means no token, or no token any more. Where the live field may not
be null, the shadow is drawn in any case: a trigger of the site that fires after ours may draw the
token.

Both have a WHEN clause that PostgreSQL evaluates without calling the function, so a row of the
backfill costs next to nothing, and any other UPDATE little: the clause is read once a statement.
The plays themselves set django-pgtrigger's `pgtrigger.ignore` where they draw a value again.
Anybody may set this; nobody does so by accident.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pgtrigger
from psycopg import sql

from migrations_playbook.meaning.base import Meaning, ShadowTrigger, Words
from migrations_playbook.meaning.expressions import (
    compose_text,
    output_field,
    write_cast,
    write_expression,
)
from migrations_playbook.postgres.steps import Step
from migrations_playbook.quarantine import setup
from migrations_playbook.quarantine.base import MOVED, Quarantine, mark_row

# The statements that draw the shadow of a row with a live value. A value equal to the live one
# would rotate nothing: an expression with little room may need a second draw.
DRAW = (
    "NEW.{shadow} := NULL; "
    "IF {has_live} THEN "
    "FOR draw IN 1..100 LOOP "
    "NEW.{shadow} := {value}; "
    "EXIT WHEN NEW.{shadow} IS DISTINCT FROM NEW.{live}; "
    "END LOOP; "
    "END IF; "
)
# The same in a fill trigger's function: the value, between the names of the two columns.
DRAWN = re.compile(
    r'LOOP NEW\.(?P<shadow>"(?:[^"]|"")+") := (?P<value>.+?); '
    r'EXIT WHEN NEW\.(?P=shadow) IS DISTINCT FROM NEW\.(?P<live>"(?:[^"]|"")+");',
    re.DOTALL,
)

# The condition that a new row has a live value, or a shadow. "true OR" is kept by PostgreSQL: a
# WHEN binds the trigger to the shadow column, which takes the trigger along when it is dropped.
HAS_EITHER = "{has_live} OR NEW.{shadow} IS NOT NULL"
# The condition that a save is stale: it brings a value of before an exchange.
IS_STALE = "NEW.{live} = OLD.{shadow} AND NEW.{live} IS DISTINCT FROM OLD.{live}"
# The condition that an UPDATE concerns a shadow: its change, a row to fill, or a stale save.
CONCERNS = (
    "OLD.{shadow} IS NOT NULL AND NEW.{shadow} IS DISTINCT FROM OLD.{shadow} "
    "OR (NEW.{shadow} IS NOT NULL) <> ({has_live}) "
    f"OR {IS_STALE} "
    "OR OLD.{shadow} IS NULL AND NEW.{shadow} = NEW.{live}"
)

# Which of a declaration's two columns is meant.
Role = Literal["live", "shadow"]


def read_drawn(installed: str) -> dict[str, str] | None:
    """Read what a fill trigger's function draws: the value, and the names of the two columns."""
    found = DRAWN.search(installed)
    return None if found is None else found.groupdict()


class FillTrigger(ShadowTrigger):
    """The trigger that draws the shadow of each new row."""

    purpose = "fill"
    leads = True
    operation = pgtrigger.Insert

    def get_condition(self, model: Any) -> pgtrigger.Condition:
        """Return the WHEN: the row has a live value, or a shadow."""
        return pgtrigger.Condition(HAS_EITHER.format(**self.names(model)))

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
        ).format(
            mark=MOVED, value=write_expression(model, self.declaration.value), **self.names(model)
        )


class KeepTrigger(ShadowTrigger):
    """The trigger that keeps a filled shadow as it is, and fills an empty shadow."""

    purpose = "keep"
    operation = pgtrigger.Update

    def get_condition(self, model: Any) -> pgtrigger.Condition:
        """Return the WHEN: a change of the shadow, a row to fill, or a stale save."""
        return pgtrigger.Condition(CONCERNS.format(**self.names(model)))

    def get_func(self, model: Any) -> str:
        """Return the body: keep the shadow, or draw."""
        return (
            f"IF {IS_STALE} THEN "
            "NEW.{live} := OLD.{live}; END IF; "
            "IF OLD.{shadow} IS NOT NULL AND {has_live} THEN "
            "NEW.{shadow} := OLD.{shadow}; "
            "ELSE " + DRAW + "END IF; "
            "RETURN NEW;"
        ).format(value=write_expression(model, self.declaration.value), **self.names(model))


@dataclass(frozen=True)
class Rotation(Meaning):
    """The meaning of `Shadow(value=...)`."""

    words: ClassVar[Words] = Words(
        retired="leaked values",
        made="Fresh values",
        expression="value expression",
        without_trigger="new rows stay without a value",
    )
    keeps_out: ClassVar[bool] = True

    @property
    def value_text(self) -> str:
        """The value expression as the triggers have it."""
        return write_expression(self.model, self.declaration.value)

    @property
    def value(self) -> sql.SQL:
        """The value expression, for a statement with parameters of its own.

        In a trigger PL/pgSQL casts the value to the column's type, and refuses a value that is too
        long. Beside the live column in a statement the value must have this type already.
        """
        shadow: Any = self.model._meta.get_field(self.declaration.shadow)
        made = output_field(self.declaration.value)
        return compose_text(write_cast(self.value_text, made, shadow))

    @property
    def assigned(self) -> sql.Composable:
        """A fresh value; null where equal to the live one, for the fill trigger to draw another."""
        return sql.SQL("NULLIF({}, {})").format(self.value, self.live)

    @property
    def has_lives(self) -> sql.Composable:
        """The condition under which a row has a value."""
        return sql.SQL("{} IS NOT NULL").format(self.live)

    def assign(self, drawn: Mapping[Any, sql.Composable]) -> sql.Composable:
        """Compose a SET of the shadow.

        Arguments:
            drawn: what the shadow is set to.
        """
        return sql.SQL("{} = {}").format(self.shadow, drawn[self])

    def is_astray(self, role: Role) -> sql.Composable:
        """Compose the condition that a row's value is not made of its sources'.

        For a statement with parameters. A drawn value is made of none.

        Arguments:
            role: which column of each declaration is meant.
        """
        return sql.SQL("false")

    @property
    def evaluated(self) -> tuple[sql.Composable, ...]:
        """The value expression."""
        return (self.value,)

    def is_outdated(self, installed: str) -> bool:
        """Tell whether a fill trigger draws by another value than the model declares."""
        drawn = read_drawn(installed)
        return drawn is not None and drawn["value"] != self.value_text

    def steps_before(
        self, quarantine: Quarantine, staying: Iterable[str], *, revert: bool
    ) -> list[Step]:
        """Build the quarantine's functions, counts and memory. Lock: none."""
        if revert:
            return setup.ready_revert_steps(quarantine)
        return setup.ready_steps(quarantine, staying)

    def steps_after(self, quarantine: Quarantine, *, revert: bool) -> list[Step]:
        """Build the quarantine's triggers, or its end. Lock: ACCESS EXCLUSIVE is held already."""
        if revert:
            return setup.revert_steps(quarantine)
        return setup.arm_steps(quarantine)
