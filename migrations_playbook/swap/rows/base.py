"""What a swap asks about the rows: the interface of `rotated` and `converted`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db.backends.base.base import BaseDatabaseWrapper

from migrations_playbook.errors import PlaybookError
from migrations_playbook.postgres.steps import Step
from migrations_playbook.swap.dependents.base import Dependent
from migrations_playbook.swap.dependents.inventory import Inventory
from migrations_playbook.swap.pair import Member, Pair
from migrations_playbook.swap.reports import Verified

if TYPE_CHECKING:
    from migrations_playbook.swap.gate import SwapRequest


@dataclass(frozen=True)
class Rows(ABC):
    """The rows of a swap.

    Arguments:
        pair: the columns.
    """

    pair: Pair

    @abstractmethod
    def find_objection(self, request: SwapRequest) -> PlaybookError | None:
        """Find rows that must not be exchanged as they are; None without any.

        Lock: ACCESS SHARE on the table.
        """

    @abstractmethod
    def make_ready(
        self, connection: BaseDatabaseWrapper, inventory: Inventory, *, redraw: bool
    ) -> Iterator[str]:
        """Change the rows that the exchange or a unique index would stumble over.

        Lock: ROW EXCLUSIVE on the table; the rows, until the commit.

        Returns:
            For each change that was made, what it was, as a short imperative.
        """

    @abstractmethod
    def resolve_clash(self, connection: BaseDatabaseWrapper, clash: Dependent) -> str:
        """Make the values differ that a unique index has refused, if they may; say how.

        Lock: ROW EXCLUSIVE on the table; the rows, until the commit.

        Raises:
            Refused: they may not.
        """

    @abstractmethod
    def say_hopeless(self, rounds: int) -> PlaybookError:
        """Say that values still collide after this many rounds."""

    def mend(self, connection: BaseDatabaseWrapper) -> Iterator[str]:
        """Put back what keeps the exchanged rows right, where the dependents are not concerned.

        Lock: ACCESS EXCLUSIVE on the table, boundedly; ROW EXCLUSIVE, and the rows.
        """
        yield from ()

    @property
    def statistics_steps(self) -> tuple[Step, ...]:
        """Let the first plans after the exchange know the column, where it is of another kind.

        Lock: SHARE UPDATE EXCLUSIVE on the table.
        """
        return ()

    @abstractmethod
    def prove(
        self,
        connection: BaseDatabaseWrapper,
        inventory: Inventory,
        member: Member,
        counted: Verified,
    ) -> Verified:
        """Add the numbers that prove a member's exchanged columns.

        Lock: ACCESS SHARE on the table.
        """

    @abstractmethod
    def find_problems(
        self, connection: BaseDatabaseWrapper, inventory: Inventory
    ) -> tuple[str, ...]:
        """Name what is missing or disabled of the objects that keep the exchanged columns right.

        Lock: none that conflicts with anything.
        """
