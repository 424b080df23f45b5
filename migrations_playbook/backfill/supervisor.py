"""A run of a backfill: the supervisor of the workers from the first batch to the last.

Twice a second the supervisor reads the control settings and the signals, and tells the workers to
go or to wait; a slice is vacuumed when due; the remaining rows are counted now and then. The parts
know nothing of each other, and only the supervisor makes events of their findings.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from migrations_playbook.backfill import vacuum
from migrations_playbook.backfill.batch import application_name
from migrations_playbook.backfill.cost import Meter, predict_cost
from migrations_playbook.backfill.events import (
    Batch,
    Event,
    Finished,
    Note,
    Paced,
    Recounted,
    Started,
    Vacuumed,
    Waiting,
)
from migrations_playbook.backfill.nulls import Remaining, count_nulls
from migrations_playbook.backfill.pacing import control
from migrations_playbook.backfill.pacing.pace import Pace, Pacer
from migrations_playbook.backfill.pacing.probe import Probe
from migrations_playbook.backfill.pacing.throttle import Limits, Reason, Throttle
from migrations_playbook.backfill.roster import LEADS, PROBES, VACUUMS, Voice
from migrations_playbook.backfill.workers import Team
from migrations_playbook.errors import Refused
from migrations_playbook.postgres.sessions import Session, is_connection_lost
from migrations_playbook.postgres.site_triggers import SiteTrigger, say_firing
from migrations_playbook.postgres.tables import Table
from migrations_playbook.replacement import Replacement
from migrations_playbook.settings import setting
from migrations_playbook.units import megabytes

# Between two looks at the signals and the control settings, in seconds.
LOOK_EVERY = 0.5
# A run that is to end sooner than this does not rest first to feel the site: it would do nothing
# else. One that has found nothing to do yet may end so much later. In seconds.
TIME_TO_REST, GRACE = 10.0, 10.0


@dataclass(frozen=True)
class Options:
    """How a backfill goes about its work; see `pace.Pace` and `throttle.Limits` too.

    Without arguments: as the settings say, and the command without options does.

    Arguments:
        workers: threads, each with a connection of its own; None for as many as suit the server.
        pace: how hard to push.
        limits: where to step aside; None never to, as --no-throttle has it.
        vacuum_every: the share of the rows after which to vacuum; 0 for never.
        wait_for_snapshots: whether to wait while an old snapshot makes vacuum useless.
        max_wal: bytes of WAL (the whole server's) after which to end; None for no bound.
        seconds: after which to end, with the batches under way; None for no bound.
        skipped: the triggers of the site to be left out.
    """

    workers: int | None = setting("workers")
    pace: Pace = field(default_factory=Pace)
    limits: Limits | None = field(default_factory=Limits)
    vacuum_every: float = setting("vacuum-every")
    wait_for_snapshots: bool = False
    max_wal: float | None = setting("max-wal")
    seconds: float | None = None
    skipped: tuple[str, ...] = ()

    @classmethod
    def plain(cls) -> Options:
        """Make the options of a single worker that steps aside for nobody and never vacuums.

        For a small table: filled before a signal could be read twice.
        """
        return cls(workers=1, limits=None, vacuum_every=0.0)


class Supervisor:
    """The supervisor of a process's workers.

    Arguments:
        connection: named as our sessions are.
        replacement: the replacement to fill.
        table: its table.
        options: how.
        workers: how many threads fill.
        firing: the triggers of the site that fire.
    """

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        replacement: Replacement,
        table: Table,
        options: Options,
        workers: int,
        firing: Sequence[SiteTrigger] = (),
    ) -> None:
        self.connection = connection
        self.replacement = replacement
        self.table = table
        self.options = options
        self.remaining = Remaining(connection, replacement, table)
        rows = self.remaining.rows
        every = options.vacuum_every
        self.meter = Meter(
            connection, table, predict_cost(connection, table, rows, vacuum_every=every)
        )
        self.meter.refuse_without_room()
        if options.max_wal is not None and self.meter.written() is None:
            raise Refused(
                "The server does not tell how much WAL it has written, so --max-wal would not be "
                "kept; nothing was changed. Leave it out, or GRANT EXECUTE ON FUNCTION "
                "pg_current_wal_lsn() to the role."
            )
        self.team = Team(
            connection.alias, replacement, table, Pacer(options.pace), workers, options.skipped
        )
        name = application_name(replacement)
        self.throttle: Throttle | None = None
        if options.limits is not None:
            self.throttle = Throttle(connection, name, options.limits)
        dead = vacuum.count_dead(connection, table)
        slices = vacuum.Slices(max(rows, int(table.estimate)), every, dead)
        self.clerk = vacuum.Clerk(connection, slices, besides=name, session=self._vacuum_session)
        self.started = Started(rows, self.remaining.exact, workers)
        self.probe: Probe | None = None
        self._probing: Session | None = None
        self.bound_reached: str | None = None
        self.firing = firing
        self._said: set[str] = set()
        self._held: tuple[str, ...] = ()
        self._voice = Voice(connection, name)
        self._looked = time.monotonic()
        self._until = math.inf if options.seconds is None else self._looked + options.seconds
        # Whether a worker has done, or has found that it must wait for a row.
        self._has_begun = False

    def watch(self, stop: Callable[[], bool]) -> Iterator[Event]:
        """Pass the workers' events on, and look after them, until they are done."""
        team = self.team
        yield self.started
        if self.firing and self.started.total:
            yield from self._say(say_firing(self.firing))
        yield from self._survive(self._look())
        team.start()
        while team.at_work:
            try:
                event = team.events.get(timeout=0.1)
            except queue.Empty:
                pass
            else:
                self._has_begun = True
                yield self._count_in(event)
                # At once: each further batch takes new pages rather than freed pages.
                if not team.stopping.is_set():
                    yield from self._survive(self._attend_clerk())
            if self._is_time_up():
                self.bound_reached = f"Stopped at --for: {self.options.seconds:g} s are over."
            if stop() or self.bound_reached:
                team.stopping.set()
            if (lost := team.replace_lost()) is not None:
                yield lost
            if time.monotonic() - self._looked >= LOOK_EVERY and not team.stopping.is_set():
                yield from self._survive(self._look())
        while not team.events.empty():
            yield self._count_in(team.events.get())
        if not (team.stopping.is_set() or team.complete.is_set()) and (lost := team.replace_lost()):
            yield lost

    def end(self) -> None:
        """Wait for the sessions to end. A vacuum that nobody waits for is cancelled."""
        self.team.join()
        self.clerk.end(cancel=not self.team.complete.is_set())
        if self._probing is not None:
            self._probing.join()

    def conclude(self) -> Finished:
        """Tell the result.

        Raises:
            PlaybookError: see `Team.raise_failure`.
        """
        self.team.raise_failure()
        if not self.connection.is_usable():
            self.connection.close()
        done = self.team.complete.is_set()
        valueless = self.team.valueless
        left = valueless if done else count_nulls(self.connection, self.replacement, self.table)
        if not left:
            # So no setting is left at the swap, and in a dump of the schema.
            control.clear_control(self.connection, self.replacement, self.table)
        return Finished(
            left,
            complete=left == 0,
            batch_size=self.team.pacer.rows,
            cost=self.meter.read_cost(),
            reason=self.bound_reached,
            valueless=valueless,
        )

    def conclude_cancelled(self) -> Finished:
        """Tell the result, as far as known, when the batches under way were cut short."""
        left, cost = None, None
        # A statement of the supervisor's own was cut short too, perhaps.
        self.connection.close()
        try:
            left = count_nulls(self.connection, self.replacement, self.table)
            cost = self.meter.read_cost()
        except DatabaseError:
            self.connection.close()
        return Finished(left, complete=False, batch_size=self.team.pacer.rows, cost=cost)

    def _survive(self, looks: Iterator[Event]) -> Iterator[Event]:
        """Pass on the events of looks; without a connection of our own the workers wait."""
        try:
            yield from looks
        except DatabaseError as error:
            if not is_connection_lost(error):
                raise
            self.connection.close()
            self.team.hold(["control"])
            yield Waiting("the server cannot be asked", ("control",), LOOK_EVERY)

    def _look(self) -> Iterator[Event]:
        """Look at the control settings and the signals, and tell the workers to go or to wait."""
        now = time.monotonic()
        since, self._looked = now - self._looked, now
        held = self._read_control()
        if self.throttle is not None:
            for sentence in self.throttle.said:
                yield from self._say(sentence)
            held += self.throttle.look()
            self.team.pacer.shared = self.throttle.shared
        held += yield from self._attend_probe()
        useless = self.clerk.attend()
        if useless and self.options.wait_for_snapshots:
            held.append(Reason("old snapshot", _useless(useless)))
        else:
            yield from self._say_useless(useless)
        signals = tuple(dict.fromkeys(reason.signal for reason in held))
        self.team.hold(signals)
        if held:
            text = "; ".join(reason.text for reason in held)
            yield Waiting(text, signals, since, news=signals != self._held)
        self._held = signals
        self._publish()
        if self.probe is not None:
            self.probe.rest(resting=bool(held) and not self.clerk.busy)
        most = self.options.max_wal
        written = None if most is None else self.meter.written()
        if most is not None and written is not None and written > most and self._may_end():
            self.bound_reached = (
                f"Stopped at --max-wal: the server has written {megabytes(written)}."
            )
        if self.remaining.due and self.remaining.recount():
            yield Recounted(self.remaining.rows, self.remaining.exact)

    def _is_time_up(self) -> bool:
        late = time.monotonic() - self._until
        return late > GRACE or (late > 0 and self._may_end())

    def _may_end(self) -> bool:
        """Tell whether a bound may end the run: something was done, or a signal says stop.

        A job that is run again and again must get on, however small its bound. A rest of our own is
        no such signal.
        """
        return self._has_begun or not {"rest"}.issuperset(self._held)

    def _publish(self) -> None:
        """Say in the session's name how the team is led; the workers say what they wait for."""
        pacer = self.team.pacer
        felt = f"{pacer.steering.felt_ms:.1f}/{pacer.pace.max_added_ms:g}"
        gentle = f"feels {felt}, {pacer.target_ms:.0f} ms"
        self._voice.say(gentle if pacer.gentle and not self._held else LEADS)

    def _read_control(self) -> list[Reason]:
        try:
            settings = control.read_control(self.connection, self.replacement, self.table)
        except DatabaseError:
            self.connection.close()
            return [Reason("control", "the control settings cannot be read")]
        self.team.pacer.pace = settings.over(self.options.pace)
        return [Reason("pause", "paused; --resume goes on")] if settings.paused else []

    def _count_in(self, event: Event) -> Event:
        if isinstance(event, Batch):
            self.remaining.rows -= event.rows
            self.clerk.slices.add(event.rows)
        return event

    def _say(self, sentence: str, about: str | None = None) -> Iterator[Note]:
        """Say a sentence once; `about` stands for the sentence where its numbers change."""
        if (about or sentence) not in self._said:
            self._said.add(about or sentence)
            yield Note(sentence)

    def _attend_probe(self) -> Generator[Event, None, list[Reason]]:
        """Probe the site beside others, report the findings, and rest when the probe wants."""
        pacer = self.team.pacer
        if not pacer.gentle:
            return []
        allowed = pacer.pace.max_added_ms
        if self.probe is None:
            name = application_name(self.replacement)
            self.probe = Probe(self.replacement, self.table, name, pacer, self.team.stopping)
            self.probe.adopt_baseline(self.connection)
            self._probing = self.team.new_session(self.probe.run, PROBES)
            self._probing.start()
            yield from self._say(
                f"Others are at work on the server: their requests may take up to {allowed:g} ms "
                "longer (--max-added-ms), and the pace follows from what a probe feels."
            )
        if self.probe.impossible is not None:
            pacer.steering.give_up()
            yield from self._say(
                f"What the site feels cannot be probed ({self.probe.impossible}), so batches are "
                f"kept at {pacer.target_ms:g} ms."
            )
        elif self._probing is not None and not self._probing.is_alive():
            self.probe.impossible = "the probe has ended"
        elif self.probe.wants_rest and time.monotonic() > self._until - TIME_TO_REST:
            if not pacer.steering.baseline.known:
                yield from self._say(
                    "The time (--for) is too short to feel the site without the backfill first, "
                    f"so batches are kept at {pacer.target_ms:g} ms."
                )
        elif self.probe.wants_rest and not self.clerk.busy:
            return [Reason("rest", "resting for a moment, to feel the site without the backfill")]
        else:
            felt = pacer.steering.felt_ms
            yield Paced(felt, allowed, pacer.target_ms, pacer.duty)
        return []

    def _attend_clerk(self) -> Iterator[Event]:
        yield from self._say_useless(self.clerk.attend())

    def _say_useless(self, holders: list[str]) -> Iterator[Note]:
        if holders and not self.options.wait_for_snapshots:
            text = _useless(holders)
            sentence = text[0].upper() + text[1:] + ". The backfill goes on without it."
            yield from self._say(sentence, "old snapshot")

    def _vacuum_session(self) -> Session:
        return self.team.new_session(self._vacuum, VACUUMS)

    def _vacuum(self, connection: BaseDatabaseWrapper) -> None:
        ran = vacuum.vacuum_table(connection, self.table, gently=self.team.pacer.gentle)
        self.team.put(Vacuumed(ran=ran))


def _useless(holders: list[str]) -> str:
    return f"vacuum would be useless: {'; '.join(holders[:3])}"
