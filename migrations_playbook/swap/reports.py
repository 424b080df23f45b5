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
        columns: the live columns.
        carried: the dependents carried over, by kind and name.
        rights_changed: roles with other privileges on the live column than before.
    """

    phase: Phase
    lock_wait_ms: float
    lock_hold_ms: float
    attempts: int
    waiters: int
    longest_wait_ms: float
    columns: tuple[str, ...] = ()
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
    def counts(self) -> str:
        """Spell the same numbers in a sentence."""
        return ", ".join(f"{count} {name}" for name, count in self.numbers.items())

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


@dataclass(frozen=True)
class Made(Verified):
    """The numbers that prove the exchange of values that are made of other exchanged values.

    Arguments:
        made_of: the live columns that they are made of, for a person.
        astray: rows whose live value is not made of their own, though the site has written neither
            since.
        own_making: rows whose live value is not made of their own since the site has written it.
    """

    made_of: str = ""
    astray: int = 0
    own_making: int = 0

    @property
    def numbers(self) -> dict[str, int]:
        """Name the numbers that must be zero."""
        return super().numbers | {f"not made of their {self.made_of}": self.astray}

    @property
    def remarks(self) -> list[str]:
        """Say what else was counted."""
        own = f"{self.own_making:,} were written since, and not made of their {self.made_of}."
        return [*super().remarks, *([own] if self.own_making else [])]


@dataclass(frozen=True)
class Together(Verified):
    """The numbers that prove the exchange of several columns: those of all members, added up.

    Arguments:
        members: each member's own, by the name of its live column.
    """

    members: Mapping[str, Verified] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, int]:
        """Name the numbers that must be zero."""
        return {
            f"{name} of {live}": count
            for live, member in self.members.items()
            for name, count in member.numbers.items()
        }

    @property
    def counts(self) -> str:
        """Spell the same numbers in a sentence."""
        return "; ".join(f"of {live} {member.counts}" for live, member in self.members.items())

    @property
    def remarks(self) -> list[str]:
        """Say what else was counted."""
        return [
            f"Of {live}: {remark}"
            for live, member in self.members.items()
            for remark in member.remarks
        ]


def put_together(members: Mapping[str, Verified]) -> Verified:
    """Put the numbers of the members together: of a lone shadow they are its own.

    Arguments:
        members: by the names of their live columns.
    """
    first, *others = members.values()
    if not others:
        return first
    each = (first, *others)
    return Together(
        rows=first.rows,
        values=min(one.values for one in each),
        nulls=sum(one.nulls for one in each),
        duplicates=sum(one.duplicates for one in each),
        leaked=sum(one.leaked for one in each),
        returned=sum(one.returned for one in each),
        same=sum(one.same for one in each),
        untriggered=sum(one.untriggered for one in each),
        views=max(one.views for one in each),
        exposed=sum(one.exposed for one in each),
        unread={name: why for one in each for name, why in one.unread.items()},
        exposing=tuple(dict.fromkeys(name for one in each for name in one.exposing)),
        members=members,
    )


Event = Noticed | Preparing | Exchanged | Resuming | FollowingUp | Verified
