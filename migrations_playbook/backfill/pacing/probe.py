"""Feels as the site feels: works like a request, twenty-five times a second, in its own session.

A row is read by its key, and a commit without a change is made: a message in the write-ahead log
that nobody reads, whose commit waits for the disk (and for a synchronous replica) as any other
does.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import Any, NamedTuple

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.backfill.pacing.pace import Pacer
from migrations_playbook.backfill.pacing.steering import Felt
from migrations_playbook.backfill.roster import BASELINE, PROBES, Voice
from migrations_playbook.errors import primary_message
from migrations_playbook.postgres.query import fetch_all, run_message, spell_message
from migrations_playbook.postgres.sessions import is_connection_lost
from migrations_playbook.postgres.tables import Leaf, Table, read_leaves
from migrations_playbook.replacement import Replacement

# Between two probes while workers are at work, and at rest, in seconds.
EVERY, EVERY_AT_REST = 0.04, 0.02
# Batches under way at the beginning of the rest are over after this, in seconds.
SETTLE_AT_REST = 0.1
# The baseline is felt anew after so many seconds: noon's site is not the morning's.
BASELINE_AGE, RENEW_SAMPLES = 60.0, 20
# Sooner where steps down do not help: the site's feeling may have nothing to do with us.
DOUBTFUL_AGE = 10.0
# Requests come back to rows in memory; so do probes, to so many places.
PLACES = 16
# After so many probes we look who else fills.
LOOK_ROUND = 25
# A lost connection is made anew after so many seconds.
RECONNECT_AFTER = 1.0
# Whether somebody else's session stands behind a session of ours; the parameters are our name,
# twice.
BEHIND = sql.SQL("""
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_stat_activity a
         WHERE a.wait_event_type = 'Lock'
           AND pg_catalog.split_part(a.application_name, ':', 1) <> %s
           AND EXISTS (
               SELECT FROM pg_catalog.pg_stat_activity b
                WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(a.pid))
                  AND pg_catalog.split_part(b.application_name, ':', 1) = %s))""")
# Transactional, so the message makes a transaction to be committed.
COMMIT = sql.SQL("SELECT pg_catalog.pg_logical_emit_message(true, 'playbook', '')")


class Messages(NamedTuple):
    """The probe's messages besides its reads, spelled once."""

    commit: str
    behind: str


class Probe:
    """The probe, which feels the site and tells the pacer.

    Arguments:
        replacement: the replacement to fill.
        table: its table.
        application: the name of our own sessions (see `batch.application_name`).
        pacer: of the workers.
        stopping: ends the probe.
    """

    def __init__(
        self,
        replacement: Replacement,
        table: Table,
        application: str,
        pacer: Pacer,
        stopping: threading.Event,
    ) -> None:
        self.replacement = replacement
        self.table = table
        self.application = application
        self.pacer = pacer
        self.stopping = stopping
        # Why there is no probe; None while all is well.
        self.impossible: str | None = None
        self._resting_since: float | None = None
        self._samples = 0
        self._renewed = float("-inf")
        self._alone = True

    @property
    def wants_rest(self) -> bool:
        """Whether the site is to be felt without us for a moment."""
        age = DOUBTFUL_AGE if self.pacer.steering.doubtful else BASELINE_AGE
        due = time.monotonic() - self._renewed > age
        return due and self._alone and self.impossible is None

    def rest(self, *, resting: bool) -> None:
        """Say whether our own work rests from now on."""
        if not resting:
            self._resting_since = None
        elif self._resting_since is None:
            self._samples = 0
            self._resting_since = time.monotonic()

    def adopt_baseline(self, connection: BaseDatabaseWrapper) -> None:
        """See who else fills, on any host.

        Their workers do not rest for us, so their baseline is ours; and the steps of all add up.

        Lock: none.
        """
        others = read_baselines(connection, self.application)
        steering = self.pacer.steering
        steering.processes = 1 + len(others)
        steering.baseline.told = min(others, default=None)
        self._alone = not others

    def run(self, connection: BaseDatabaseWrapper) -> None:
        """Probe until the end; a failure here is no reason to end the backfill."""
        while not self.stopping.is_set():
            try:
                self._probe_on(connection)
            except DatabaseError as error:
                if not is_connection_lost(error):
                    self.impossible = primary_message(error)
                    return
                connection.close()
                self.stopping.wait(RECONNECT_AFTER)

    def _probe_on(self, connection: BaseDatabaseWrapper) -> None:
        reads = self._spell_reads(connection)
        messages = Messages(spell_message(connection, COMMIT), spell_message(connection, BEHIND))
        voice = Voice(connection, self.application, PROBES)
        for number in itertools.count():
            if self.stopping.wait(EVERY if self._resting_since is None else EVERY_AT_REST):
                return
            self._probe(connection, reads[number % len(reads)], messages)
            if number % LOOK_ROUND == 0:
                self.adopt_baseline(connection)
                if self.pacer.steering.baseline.known:
                    self._publish(voice)

    def _probe(self, connection: BaseDatabaseWrapper, read: str, messages: Messages) -> None:
        since = self._resting_since
        began = time.monotonic()
        run_message(connection, read)
        between = time.monotonic()
        run_message(connection, messages.commit)
        ended = time.monotonic()
        (waits,) = run_message(connection, messages.behind, [self.application] * 2)
        felt = Felt((between - began) * 1000, (ended - between) * 1000, behind_us=bool(waits))
        # Neither at rest nor at work: a batch may have been under way, or begun since.
        if since is not self._resting_since or (since and began - since < SETTLE_AT_REST):
            return
        self.pacer.feel(felt, at_rest=since is not None, now=ended)
        if since is not None:
            self._samples += 1
            if self._samples >= RENEW_SAMPLES and self.pacer.steering.baseline.known:
                self._renewed = ended
                self.pacer.steering.renew(self.pacer.pace.max_added_ms)

    def _publish(self, voice: Voice) -> None:
        """Say the baseline in the session's name, where the probes of other processes read it."""
        reads, commits = self.pacer.steering.baseline.felt
        voice.say(f"{BASELINE}{reads:.1f} {commits:.1f}")

    def _spell_reads(self, connection: BaseDatabaseWrapper) -> list[str]:
        """Spell reads of a row by its key, with the key found by a place of the table.

        So no key travels to this process: a key may be as secret as a token.
        """
        leaves = [leaf for leaf in read_leaves(connection, self.table) if leaf.blocks]
        weights = [leaf.blocks for leaf in leaves]
        chosen = random.choices(leaves, weights, k=PLACES) if leaves else []  # noqa: S311
        reads = [self._compose_read(leaf) for leaf in chosen] or [sql.SQL("SELECT 1").format()]
        return [spell_message(connection, read) for read in reads]

    def _compose_read(self, leaf: Leaf) -> sql.Composed:
        block = random.randrange(leaf.blocks)  # noqa: S311
        key: Any = sql.SQL(", ").join(map(sql.Identifier, self.replacement.key))
        return sql.SQL("""
            SELECT count({live}) FROM {table} WHERE ({key}) = (
                SELECT {key} FROM ONLY {leaf}
                 WHERE ctid >= {begin}::tid AND ctid < {end}::tid LIMIT 1)""").format(
            table=self.table.identifier,
            leaf=leaf.identifier,
            key=key,
            live=sql.Identifier(self.replacement.live),
            begin=f"({block},0)",
            end=f"({block + 1},0)",
        )


def read_baselines(connection: BaseDatabaseWrapper, application: str) -> list[tuple[float, float]]:
    """Read the baselines in the sessions' names of other processes' probes.

    Lock: none.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT said[1]::float, said[2]::float
              FROM pg_catalog.pg_stat_activity,
                   pg_catalog.regexp_match(application_name, ': rest ([0-9.]+) ([0-9.]+)$') AS said
             WHERE pg_catalog.split_part(application_name, ':', 1) = %s
               AND said IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()"""),
        [application],
    )
    return [(float(reads), float(commits)) for reads, commits in rows]
