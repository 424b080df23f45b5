"""What is rehearsed: everything that the rehearsal must be told about an application."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Releases:
    """Settings modules of four releases over one database, which they take from DATABASE_URL.

    Arguments:
        n: before the rotation; knows the live column alone.
        n1: expanded; knows both columns. The commands are run with its settings.
        n2: has forgotten the shadow column; the database has not.
        n3: its migration is the contract.
    """

    n: str
    n1: str
    n2: str
    n3: str


@dataclass(frozen=True)
class Script:
    """An application's part in the rehearsal.

    Arguments:
        model: the model's label.
        live: the live field.
        shadow: the shadow field.
        stamp: a nullable DateTimeField that the clients write: when a ticket was redeemed, say.
        before: the last migration of the model's app in release N.
        releases: the four settings modules.
        seed: the command that makes rows; their number is added to it.
        backfill: the command of play 2.
        swap: the command of play 3.
    """

    model: str
    live: str
    shadow: str
    stamp: str
    before: str
    releases: Releases
    seed: str
    backfill: str
    swap: str

    @property
    def app_label(self) -> str:
        return self.model.partition(".")[0]


@dataclass(frozen=True)
class Options:
    """How a rehearsal is run.

    Arguments:
        rows: rows in the table at the start.
        rate: requests a second, of all clients together.
        seconds: how long each phase goes on at least.
        max_stall_ms: a request that takes longer fails the rehearsal, in milliseconds.
        template: a database to copy instead of seeding, or None.
        until: the last phase to play, or None for all.
    """

    rows: int = 100_000
    rate: float = 200.0
    seconds: float = 8.0
    max_stall_ms: float = 500.0
    template: str | None = None
    until: str | None = None
