"""What the meaning of a shadow decides in a rehearsal: the interface of `rotated` and `converted`.

A plot says which phases there are, which fields a release's clients know and write, which values
they write, and what the books must say in the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from django.db import models
from django.db.migrations.state import ProjectState

from migrations_playbook.errors import PlaybookError
from migrations_playbook.replacement import Replacement

if TYPE_CHECKING:
    from migrations_playbook.rehearsal.traffic.audit import Audit

# Values that are drawn by one statement.
DRAWN = 500
# The two fields of a shadow.
Role = Literal["live", "shadow"]

EXCHANGING = (
    "baseline", "expand", "backfill", "prepare", "swap", "revert", "swap again", "contract",
)  # fmt: skip
MOVING = ("baseline", "expand", "backfill", "roll out", "roll back", "contract")


@dataclass(frozen=True)
class Plot(ABC):
    """The plot of a replacement.

    Arguments:
        replacement: the rehearsed replacement.
    """

    replacement: Replacement

    # Whether the clients write the two fields; elsewhere their values are drawn for them.
    writes: ClassVar[bool]

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases, in their order."""
        return MOVING if self.replacement.declaration.moves else EXCHANGING

    def find_objection(self) -> PlaybookError | None:
        """Find why a declaration cannot be rehearsed; None, as by default, where it can be."""
        return None

    def forget(self, state: ProjectState) -> None:
        """Take out of a state what release N+2 knows no more."""
        options = self.replacement.model._meta
        state.remove_field(
            options.app_label, str(options.model_name), self.replacement.declaration.dropped
        )

    def list_fields(self, model: type[models.Model]) -> dict[Role, Any]:
        """List which of the two fields a release's clients are told and may write.

        Arguments:
            model: the release's model.

        Returns:
            The fields by their role, the one that they look rows up by first.
        """
        declared: dict[Role, str] = {
            "live": self.replacement.declaration.live,
            "shadow": self.replacement.declaration.shadow,
        }
        known = {field.name: field for field in model._meta.concrete_fields}
        return {role: known[name] for role, name in declared.items() if name in known}

    @abstractmethod
    def identifies(self, field: Any) -> bool:
        """Tell whether a value of a field stands for one row."""

    @abstractmethod
    def draw_values(self, alias: str) -> Iterator[dict[Role, Any]]:
        """Draw values that no row has, without an end, for each field that a client may set.

        Lock: none.
        """

    @abstractmethod
    def open_books(self, audit: Audit) -> None:
        """Make what the books need beside those of every rehearsal, before the first request."""

    @abstractmethod
    def balance(self, audit: Audit, at_work: Iterable[str]) -> dict[str, int]:
        """Compare the books with the table: before the contract, and in the end.

        Lock: ACCESS SHARE on the table.

        Arguments:
            at_work: the keys whose rows others write meanwhile.

        Returns:
            Numbers that must be zero, by the name of the check; they add up.
        """

    @abstractmethod
    def read_checks(self, audit: Audit) -> dict[str, int]:
        """Count more numbers that must be zero, once everybody has gone home.

        Lock: ACCESS SHARE on the table.
        """
