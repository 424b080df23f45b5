"""Nothing that the plays install fails a write of the site: at no moment, of no release."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq import TransactionStatus

from tests.fixtures.database import Database
from tests.fixtures.tickets import add_old_tickets, bring_to
from tests.site.writes import Release, every_write, try_write, two_releases
from tests.soak.killed import Awaited, Moment
from tests.soak.plays import PLAYS, play_here
from tests.soak.statements import Killer, before_each_statement

# What a write meets: columns, triggers, constraints, indexes, and rows that are filled or not.
MET = """
SELECT (SELECT array_agg((attname, attnotnull) ORDER BY attnum)::text FROM pg_attribute
         WHERE attrelid = 'tickets_ticket'::regclass AND attnum > 0 AND NOT attisdropped),
       (SELECT array_agg((tgname, tgenabled, prosrc) ORDER BY tgname)::text
          FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid
         WHERE tgrelid = 'tickets_ticket'::regclass),
       (SELECT array_agg((conname, convalidated) ORDER BY conname)::text FROM pg_constraint
         WHERE conrelid = 'tickets_ticket'::regclass),
       (SELECT array_agg((indexrelid, indisvalid, indisready) ORDER BY indexrelid)::text
          FROM pg_index WHERE indrelid = 'tickets_ticket'::regclass),
       (SELECT (bool_or(shadow IS NULL), bool_and(shadow IS NULL))::text
          FROM (SELECT to_jsonb(t) ->> 'new_token' FROM tickets_ticket t) AS t (shadow)),
       (SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 'tickets_ticket'::regclass),
       to_regclass('tickets_ticket') IS NOT NULL AND EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'tickets_ticket'::regclass
           AND attname = 'new_token' AND NOT attisdropped)"""


@dataclass
class Site:
    """Both releases at work on a database of tickets.

    Arguments:
        database: the database.
        releases: the releases.
        session: a session to look with.
        reader: somebody with an old snapshot, until the site has written beside an index that is
            being built, which waits for that.
    """

    database: Database
    releases: tuple[Release, ...]
    session: psycopg.Connection[Any]
    reader: psycopg.Connection[Any]
    met: set[tuple[Any, ...]] = field(default_factory=set)
    besides_an_unfinished_index: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begins(self) -> None:
        """Load tickets, and write."""
        for each in self.able(shadow=self.meets()[-1]):
            each.load()
        self.writes("before the play")

    def meets(self) -> tuple[Any, ...]:
        (met,) = self.session.execute(MET)
        return tuple(met)

    def able(self, *, shadow: bool) -> list[Release]:
        """The releases whose code fits the table."""
        return [each for each in self.releases if shadow or not each.knows_the_shadow]

    def look(self, connection: BaseDatabaseWrapper, text: str) -> None:
        """Write before a transaction of a play whose predecessor has changed what a write meets."""
        raw = connection.connection
        if connection.alias != "default" or raw is None:
            return
        if raw.info.transaction_status is not TransactionStatus.IDLE:
            return
        with self._lock:
            if self.meets() not in self.met:
                self.writes(f"before {text}")

    def writes(self, moment: str) -> None:
        """Make every write once."""
        met = self.meets()
        self.met.add(met)
        failed = [
            f"{release.role}, {name}: {complaint}"
            for release in self.able(shadow=met[-1])
            for name, write in every_write(release)
            if (complaint := try_write(release, write)) is not None
        ]
        # The session of a thread would outlive it.
        for each in self.releases:
            connections[each.role].close()
        assert not failed, f"{moment}: {'; '.join(failed)}"
        if not met[-2]:
            self.besides_an_unfinished_index = True
            self.reader.rollback()


@pytest.fixture
def site(database: Database) -> Iterator[Site]:
    add_old_tickets(database, 30)
    with (
        two_releases(database) as releases,
        database.connect(autocommit=True) as session,
        database.connect() as reader,
    ):
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield Site(database, releases, session, reader)


@pytest.mark.parametrize(
    ("name", "moments"),
    [("migrate", 3), ("backfill", 3), ("swap", 5), ("revert", 4), ("contract", 2)],
)
def test_every_write_passes_at_every_moment_of_a_play(name: str, moments: int, site: Site) -> None:
    bring_to(PLAYS[name].begins)
    site.begins()
    if name == "swap":
        site.reader.execute("SELECT FROM pg_class LIMIT 1")
    with before_each_statement(site.look):
        code, said = play_here(PLAYS[name])
    assert code == 0, said
    site.writes(f"after {name}")
    assert len(site.met) >= moments
    assert site.besides_an_unfinished_index is (name == "swap")


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("migrate", "before the lock"),
        ("backfill", "at the commit"),
        ("swap", "before the lock"),
        ("swap", "under the lock"),
        ("revert", "before the lock"),
        ("contract", "at the commit"),
    ],
)
def test_every_write_passes_after_a_play_that_was_ended(
    name: str, moment: Moment, site: Site
) -> None:
    bring_to(PLAYS[name].begins)
    site.begins()
    awaited = Awaited(PLAYS[name], moment)
    with Killer(site.database) as killer:

        def look(connection: BaseDatabaseWrapper, text: str) -> None:
            if awaited(connection, text):
                killer.end(connection)

        with before_each_statement(look):
            play_here(PLAYS[name])
    assert awaited.reached
    site.writes(f"after {name} that was ended {moment}")


@pytest.mark.parametrize("name", ["swap", "revert"])
def test_every_write_passes_after_an_exchange_that_has_given_up(name: str, site: Site) -> None:
    bring_to(PLAYS[name].begins)
    site.begins()
    with site.database.connect() as idle:
        idle.execute("SELECT FROM tickets_ticket LIMIT 0")
        command = (*PLAYS[name].command, "--attempts=1", "--lock-timeout=10")
        code, said = play_here(PLAYS[name], command)
    assert code == 75, said
    site.writes(f"after {name} has given up")


def test_every_write_passes_after_an_expand_that_was_refused(site: Site) -> None:
    bring_to("none")
    site.database.run("CREATE TABLE child () INHERITS (tickets_ticket)")
    site.begins()
    code, said = play_here(PLAYS["migrate"])
    assert code == 1, said
    site.writes("after the refusal")


def test_every_write_passes_after_a_swap_that_was_refused_for_its_fresh_values(site: Site) -> None:
    """The site's own tokens begin with a zero, as a CHECK asks; fresh ones do not."""
    site.database.run(
        "UPDATE tickets_ticket SET token = overlay(token::text PLACING '0' FROM 1 FOR 1)::uuid"
    )
    site.database.run(
        "ALTER TABLE tickets_ticket ADD CONSTRAINT ours CHECK (token::text LIKE '0%') NOT VALID"
    )
    bring_to("filled")
    site.begins()
    with before_each_statement(site.look):
        code, said = play_here(PLAYS["swap"])
    assert code == 1, said
    assert "Correct the value expression" in said
    site.writes("after the refusal")


def test_every_write_passes_after_a_contract_that_was_refused(site: Site) -> None:
    bring_to("filled")
    site.begins()
    code, said = play_here(PLAYS["contract"])
    assert code == 1, said
    site.writes("after the refusal")
