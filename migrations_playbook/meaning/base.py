"""What the values of a shadow mean: the interface that every play asks.

A shadow draws new values (`rotation`), or is made from the live column (`conversion`). The meaning
alone knows the triggers' bodies, which rows are to do, what a batch assigns, what is kept out after
the exchange, and the words for all these. What a swap does about the rows is the same meaning's
other face, for the swap alone: `swap.rows`.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pgtrigger
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from pgtrigger import compiler
from psycopg import sql

from migrations_playbook.postgres.names import column_of, compose_name
from migrations_playbook.postgres.steps import Step
from migrations_playbook.postgres.tables import Table
from migrations_playbook.quarantine.base import Quarantine
from migrations_playbook.trigger_sql import PinnedTriggerSql

# django-pgtrigger puts "pgtrigger_" before a trigger's name and "_" and five hex digits behind
# it, and allows 47 characters between.
MAX_TRIGGER_NAME = 47
# The first line of a function's text, where the text alone does not tell the declaration: as JSON.
DECLARED = re.compile(r"^\s*-- migrations_playbook: (?P<json>\{.*\})$", re.MULTILINE)


@dataclass(frozen=True)
class Words:
    """What the messages call things.

    Arguments:
        retired: the values that the live column has before the exchange.
        made: a value that the shadow has, beginning a sentence.
        expression: what of the declaration makes the values.
        without_trigger: what happens while a trigger is missing, ending a sentence.
    """

    retired: str
    made: str
    expression: str
    without_trigger: str


class ShadowTrigger(pgtrigger.Trigger):
    """A trigger that a `Shadow` declares; named after its duty and the shadow field."""

    purpose = ""
    when = pgtrigger.Before
    # How the trigger is installed.
    sql_class: type[PinnedTriggerSql] = PinnedTriggerSql
    # Whether the trigger is the first of its declaration.
    leads = False

    def __init__(self, declaration: Any) -> None:
        self.declaration = declaration
        super().__init__(
            # Django-pgtrigger takes word characters alone. A name without a field is for a check.
            name=compose_name(
                self.purpose, re.sub(r"\W", "_", str(declaration.shadow)), limit=MAX_TRIGGER_NAME
            )
        )

    def compile(self, model: type[models.Model]) -> compiler.Trigger:  # type: ignore[override]
        """Compile the trigger's SQL, with the function's settings pinned."""
        plain = super().compile(model)  # type: ignore[arg-type]
        return compiler.Trigger(name=plain.name, sql=self.sql_class(**plain.sql.kwargs))

    def names(self, model: type[models.Model]) -> dict[str, str]:
        """Quote the column names for the trigger's SQL."""
        return name_columns(model, self.declaration)


def name_columns(model: type[models.Model], declaration: Any) -> dict[str, str]:
    """Quote the column names of a declaration for a trigger's SQL."""

    def quoted(field: str) -> str:
        """Quote the name of a field's column."""
        return sql.Identifier(column_of(model, field)).as_string(None)

    live = quoted(declaration.live)
    field: Any = model._meta.get_field(declaration.live)
    return {
        "live": live,
        "shadow": quoted(declaration.shadow),
        # A row of a field that may not be null has a live value in the end, whoever draws it.
        "has_live": f"NEW.{live} IS NOT NULL" if field.null else "true",
    }


def read_declared(installed: str) -> dict[str, Any]:
    """Read the declaration in the first line of a trigger's function; empty without such a line."""
    found = DECLARED.search(installed)
    return {} if found is None else dict(json.loads(found["json"]))


class Ends:
    """A live field or column and its shadow, of which the contract drops one."""

    live: str
    shadow: str
    moves: bool

    @property
    def dropped(self) -> str:
        """What the contract drops."""
        return self.live if self.moves else self.shadow

    @property
    def kept(self) -> str:
        """What stays."""
        return self.shadow if self.moves else self.live


@dataclass(frozen=True)
class Meaning(ABC):
    """The meaning of a model's shadow, in the names that PostgreSQL uses.

    Arguments:
        model: the model that declares the shadow.
        declaration: its `Shadow`.
    """

    model: type[models.Model]
    declaration: Any

    words: ClassVar[Words]
    # Whether the retired values must not come back, so that a quarantine keeps them out.
    keeps_out: ClassVar[bool]
    # Whether rows may have no value, so that the backfill ends without them.
    may_leave_rows: ClassVar[bool] = False

    @property
    def column_names(self) -> tuple[str, str]:
        """The columns of the live and of the shadow field."""
        live, shadow = self.declaration.live, self.declaration.shadow
        return column_of(self.model, live), column_of(self.model, shadow)

    @property
    def sources(self) -> tuple[Meaning, ...]:
        """The meanings of the shadows that the value is made of; none where the value is drawn."""
        return ()

    @property
    def kin(self) -> tuple[Meaning, ...]:
        """The meanings that are drawn and made together with this one, itself included."""
        return (self,)

    @property
    def live(self) -> sql.Identifier:
        """The live field's column, to be composed into SQL."""
        return sql.Identifier(self.column_names[0])

    @property
    def shadow(self) -> sql.Identifier:
        """The shadow field's column, to be composed into SQL."""
        return sql.Identifier(self.column_names[1])

    @property
    def to_do(self) -> sql.Composable:
        """The condition under which a row is still to be filled: a live value, and no shadow.

        It is of a statement with parameters, as every expression of a meaning is.
        """
        return sql.SQL("({} IS NULL AND {} IS NOT NULL)").format(self.shadow, self.live)

    @property
    def lacks(self) -> sql.Composable:
        """The condition under which a row is to do because of this shadow, not of its group's."""
        return self.to_do

    @property
    @abstractmethod
    def assigned(self) -> sql.Composable:
        """What a batch assigns to the shadow; null where the row stays to do."""

    def assignment(self, *, careful: bool = False) -> sql.Composable:
        """Compose what a batch sets.

        Arguments:
            careful: leave the values to the trigger, which stumbles over no row.
        """
        assigned = sql.SQL("NULL") if careful else self.assigned
        return sql.SQL("{} = {}").format(self.shadow, assigned)

    @property
    @abstractmethod
    def evaluated(self) -> tuple[sql.Composable, ...]:
        """The declared expressions, as the triggers evaluate them for a row of the two columns."""

    @property
    def batch_settings(self) -> Mapping[str, str]:
        """The settings of a batch's transaction, beside the engine's."""
        return {}

    @property
    def careful_settings(self) -> Mapping[str, str]:
        """The settings of a batch that stumbles over no row; see `tolerates`."""
        return self.batch_settings

    def tolerates(self, error: BaseException | None) -> bool:
        """Tell whether an error is a row's that may stay to do, so that the others are to go on."""
        return False

    def is_exchanged(self, table: Table) -> bool:
        """Tell whether the two columns bear each other's first names; see `Table.has_exchanged`."""
        return table.has_exchanged(*self.column_names)

    @property
    def trigger_names(self) -> tuple[str, ...]:
        """The declared triggers' names in the catalog."""
        return tuple(trigger.get_pgid(self.model) for trigger in self.declaration.triggers)

    def find_later_trigger(self, connection: BaseDatabaseWrapper, table: Table) -> str | None:
        """Find a trigger of the site that fires too late for the declared ones; in a sentence.

        Lock: none that conflicts with anything.
        """
        return None

    def count_disagreements(self, connection: BaseDatabaseWrapper, table: Table) -> int | None:
        """Count the writes of both columns of which one was overruled; None where none can be.

        Lock: none that conflicts with anything.
        """
        return None

    @abstractmethod
    def is_outdated(self, installed: str) -> bool:
        """Tell whether a declared trigger's installed text makes other values than declared."""

    def steps_before(
        self, quarantine: Quarantine, staying: Iterable[str], *, revert: bool
    ) -> list[Step]:
        """Build the first steps of the exchange, which need no lock on the table; none by default.

        Lock: none that a write of the site's would wait for.
        """
        return []

    @abstractmethod
    def steps_after(self, quarantine: Quarantine, *, revert: bool) -> list[Step]:
        """Build the last steps of the exchange: what keeps the retired values out, or lets them in.

        Lock: ACCESS EXCLUSIVE is held already.
        """
