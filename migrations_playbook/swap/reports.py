"""The events of a swap at work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from migrations_playbook.phase import Phase


@dataclass(frozen=True)
class Preparing:
    """A step before the exchange begins.

    Arguments:
        what: the step's purpose, as a short imperative.
    """

    what: str


@dataclass(frozen=True)
class Noticed:
    """Things beside the columns for a person to look at first.

    Arguments:
        unreadable: views that fail when they are read, each with the reason: the proof will have
            to leave them out.
        copies: columns of the table that hold the value a second time, each with how: no swap
            changes them.
    """

    unreadable: Mapping[str, str]
    copies: Mapping[str, str]


@dataclass(frozen=True)
class Exchanged:
    """The exchange was committed.

    Arguments:
        phase: the phase that the catalog shows now.
        lock_wait_ms: how long the requests for the lock stood in the queue, in milliseconds.
        lock_hold_ms: from the lock's grant to the commit's return, in milliseconds.
        attempts: how often the lock was asked for.
        waiters: sessions that stood behind the lock just before the commit.
        longest_wait_ms: how long the first of them had waited then, in milliseconds.
        carried: the dependents carried over, by kind and name.
        rights_changed: roles with other privileges on the live column than before.
    """

    phase: Phase
    lock_wait_ms: float
    lock_hold_ms: float
    attempts: int
    waiters: int
    longest_wait_ms: float
    carried: tuple[str, ...] = ()
    rights_changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resuming:
    """An exchange was interrupted before its end, and its remaining work is done now.

    Arguments:
        left: the materialized views to be renewed.
    """

    left: tuple[str, ...]


@dataclass(frozen=True)
class FollowingUp:
    """A step after the exchange begins.

    Arguments:
        what: the step's purpose, as a short imperative.
    """

    what: str


@dataclass(frozen=True)
class Verified:
    """The numbers that prove the exchange.

    Arguments:
        rows: rows in the table.
        values: rows with a live value, as many as could be looked at.
        nulls: rows without a live value, where each must have a value.
        duplicates: live values of more than a single row, where the column is unique.
        leaked: rows whose live value is another row's retired value.
        returned: rows whose live value is remembered as leaked: the value had left its column.
        same: rows with the same value in both columns, as rows written since the swap have. No
            number tells such a row from a leaked value written past the triggers.
        untriggered: rows without a retired value: written past the triggers.
        views: the views read through.
        exposed: rows of views that show a retired value under another name than the retired
            column's.
        still_bound: objects bound to the retired column that should not be.
        rights_changed: roles with other privileges on the live column than before.
        unread: views not read, each with the reason; an empty reason where a right is missing, this
            role's or the owner's.
        exposing: the views that show retired values.
        left: materialized views not renewed by an interrupted exchange.
        problems: the missing or disabled objects of the quarantine.
    """

    rows: int
    values: int
    nulls: int
    duplicates: int
    leaked: int
    returned: int = 0
    same: int = 0
    untriggered: int = 0
    views: int = 0
    exposed: int = 0
    still_bound: tuple[str, ...] = ()
    rights_changed: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    exposing: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, int]:
        """Name the numbers that must be zero."""
        return {
            "nulls": self.nulls,
            "duplicates": self.duplicates,
            "with another row's retired value": self.leaked,
            "with a remembered one": self.returned,
        }

    @property
    def remarks(self) -> list[str]:
        """Say what else was counted."""
        same = f"{self.same:,} rows are the same in both columns."
        past = f"{self.untriggered:,} came past the triggers."
        return [text for text, n in ((same, self.same), (past, self.untriggered)) if n]

    @property
    def passed(self) -> bool:
        """Tell whether every number is as the proof demands."""
        return not any(
            (
                *self.numbers.values(),
                self.exposed,
                self.still_bound,
                self.rights_changed,
                self.left,
                self.problems,
            )
        )


@dataclass(frozen=True)
class Converted(Verified):
    """The numbers that prove the exchange of a conversion.

    Arguments:
        out_of_step: rows whose columns neither way explains.
        no_way_back: rows whose live value has no way back, so that a revert is refused.
    """

    out_of_step: int = 0
    no_way_back: int = 0

    @property
    def numbers(self) -> dict[str, int]:
        """Name the numbers that must be zero."""
        return {
            "nulls": self.nulls,
            "duplicates": self.duplicates,
            "out of step": self.out_of_step,
        }

    @property
    def remarks(self) -> list[str]:
        """Say what else was counted."""
        return [f"{self.no_way_back:,} rows have no way back."] if self.no_way_back else []


def put_together(members: Mapping[str, Verified]) -> Verified:
    """Put the numbers of the members together, which are those of a lone shadow as they are.

    Arguments:
        members: by the names of their live columns.
    """
    (first, *_) = members.values()
    return first


Event = Noticed | Preparing | Exchanged | Resuming | FollowingUp | Verified
