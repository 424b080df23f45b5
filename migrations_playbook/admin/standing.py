"""A replacement's standing in words: what the templates show, and no value of a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db import Error as DatabaseError
from django.utils import timezone
from django.utils.timesince import timesince

from migrations_playbook.admin.places import Place
from migrations_playbook.admin.sight import LOOK_EVERY, Host, Sight, watch_place
from migrations_playbook.backfill.pacing.control import Control
from migrations_playbook.backfill.roster import FILLS, WAITS
from migrations_playbook.errors import PlaybookError
from migrations_playbook.phase import Phase
from migrations_playbook.postgres.failures import explain_failure
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.status import ShadowStatus, read_one

PLAYS = ("expand", "backfill", "swap", "contract")
# The play that comes next in each phase.
NEXT = {Phase.NONE: 0, Phase.EXPANDED: 1, Phase.FILLED: 2, Phase.SWAPPED: 3}
# What there is to say of a phase in which nothing is going on.
SAID = {
    Phase.NONE: "There is no shadow column here.",
    Phase.FILLED: "Every row is filled: the swap comes next.",
    Phase.SWAPPED: "Swapped: the live column has its new values.",
}
ALL, TENTH = 100, 10  # per cent
# Between two looks of a browser while nobody is at work, in seconds.
REST_EVERY = 10.0


@dataclass(frozen=True)
class Standing:
    """What a page says of a replacement in a database.

    Arguments:
        place: the place.
        sight: what was seen there; None where nothing could be.
        problem: why not, in a sentence.
    """

    place: Place
    sight: Sight | None
    problem: str | None

    @property
    def name(self) -> str:
        """The place's name, for the admin's addresses."""
        return str(self.place)

    @property
    def exchange(self) -> str:
        """Say which exchange comes next: the swap, or its revert."""
        return "revert" if self.phase is Phase.SWAPPED else "swap"

    @property
    def phase(self) -> Phase | None:
        """The phase, where known."""
        return None if self.sight is None else self.sight.state.phase

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts at work."""
        return self.sight.hosts if self.sight else ()

    @property
    def fillable(self) -> bool:
        """Whether there is something to fill, so that it can be paused, resumed and retuned."""
        return self.phase is Phase.EXPANDED

    @property
    def every(self) -> float:
        """After how many seconds a browser should ask again."""
        return LOOK_EVERY if self.hosts else REST_EVERY

    @property
    def plays(self) -> list[tuple[str, str]]:
        """The four plays, each with where it stands."""
        if self.phase is None:
            return []
        coming = NEXT[self.phase]
        words = ["done"] * coming + ["at work" if self.hosts else "next"]
        return list(zip(PLAYS, [*words, *["to come"] * len(PLAYS)], strict=False))

    @property
    def percent(self) -> int | None:
        """How much is filled, in per cent, rounded down; None where nobody knows."""
        if self.phase in (Phase.FILLED, Phase.SWAPPED):
            return ALL
        left = self.sight and self.sight.left
        if not left or not left.rows:
            return None
        return min(ALL - 1, ALL * (left.rows - left.nulls) // left.rows)

    @property
    def rows_left(self) -> str:
        """The rows to fill."""
        if self.phase in (Phase.FILLED, Phase.SWAPPED):
            return "none"
        left = self.sight and self.sight.left
        if not left:
            return "unknown"
        if left.exact:
            return f"{left.nulls:,}"
        if not left.nulls:
            return "none in a sample of the table; the status command looks at all rows"
        return f"about {round_off(left.nulls):,} of {round_off(left.rows):,}"

    @property
    def seen(self) -> str:
        """How old the number of rows is."""
        if self.sight is None or self.sight.left is None:
            return ""
        how = "counted" if self.sight.left.exact else "sampled"
        return f"{how} {self.sight.age:.0f} s ago"

    @property
    def rate(self) -> str:
        """The rows updated a second."""
        if self.sight is None or not self.hosts:
            return "nobody is at work"
        if self.sight.rate is None:
            return "being measured"
        return f"{round_off(self.sight.rate):,} rows a second"

    @property
    def time_left(self) -> str:
        """How long the rest will take."""
        seconds = self.sight and self.sight.seconds_left
        if not seconds:
            return "none" if self.percent == ALL else "unknown"
        now = timezone.now()
        try:
            shown = timesince(now, now + timedelta(seconds=seconds), depth=1)
        except OverflowError:
            return "unknown"
        # A space that does not break, from Django; the smallest unit is a minute.
        return "less than a minute" if seconds < timedelta(minutes=1).seconds else f"about {shown}"

    @property
    def settings(self) -> Control:
        """The settings for every worker everywhere."""
        return self.sight.control if self.sight else Control()

    @property
    def control(self) -> str:
        """The settings, for a person."""
        return "each worker's own" if self.settings == Control() else str(self.settings)

    @property
    def summary(self) -> str:
        """Say in a sentence where it stands; read out when it changes, so it changes rarely."""
        if self.sight is None or self.problem is not None:
            return self.problem or ""
        state = self.sight.state
        if state.table is None:
            return "The table is not in this database."
        if state.phase in SAID:
            return SAID[state.phase]
        doing = self._doing()
        if self.percent is None:
            return f"{doing}."
        done = f"about {self.percent // TENTH * TENTH}" if self.percent >= TENTH else "less than 10"
        return f"{doing}: {done} % done."

    def _doing(self) -> str:
        whats = {worker.what for host in self.hosts for worker in host.workers}
        if self.settings.paused:
            return "Paused"
        if not self.hosts:
            return "No backfill is at work"
        return "Waiting" if WAITS in whats and FILLS not in whats else "Filling"


def read_standing(place: Place) -> Standing:
    """Look at a place; where that is impossible, say why."""
    try:
        sight = watch_place(place).look()
    except (PlaybookError, DatabaseError) as error:
        return Standing(place, None, explain(error))
    return Standing(place, sight, sight.state.problem)


def read_details(standing: Standing) -> tuple[ShadowStatus | None, str | None]:
    """Read what changes with the phase alone: the next command, what the swap would find.

    Returns:
        The status, or None and why not, in a sentence.
    """
    sight, place = standing.sight, standing.place
    if sight is None:
        return None, standing.problem
    left = (None, False) if sight.left is None else (sight.left.nulls, sight.left.exact)
    try:
        connection = postgresql(place.using)
        details = read_one(
            connection, place.replacement, sight.state, place.remembered, count=lambda *_: left
        )
    except (PlaybookError, DatabaseError) as error:
        return None, explain(error)
    return details, None


@dataclass(frozen=True)
class NextStep:
    """What comes next.

    Arguments:
        command: the command to copy; empty where something else must be done.
        remark: when to run it, or what to do instead.
    """

    command: str
    remark: str

    @classmethod
    def of(cls, text: str) -> NextStep:
        """Take the status's word for it apart: a command, and perhaps a remark after a comma."""
        command, _, remark = text.partition(", ")
        return cls(command, remark) if command.startswith("manage.py ") else cls("", text)


def explain(error: PlaybookError | DatabaseError) -> str:
    """Say what is wrong in a sentence, and what mends it."""
    return str(error if isinstance(error, PlaybookError) else explain_failure(error))


def round_off(number: float) -> int:
    """Round a number to two digits: a sample knows no more."""
    return int(float(f"{number:.2g}"))
