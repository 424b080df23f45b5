"""The settings: limits that a team wants everywhere, `PLAYBOOK_MAX_LAG = 10` say.

Each is named after the option of the commands that has the same meaning. The flag goes before the
setting, and so does the argument of a function; the setting goes before the default. Settings are
read when a play begins, not when the code is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from migrations_playbook.errors import PlaybookError
from migrations_playbook.units import (
    parse_count,
    parse_duty,
    parse_folder,
    parse_number,
    parse_query,
    parse_share,
    parse_size,
)

PREFIX = "PLAYBOOK_"
# A name of a setting without our prefix that is so much like one of ours is meant for ours.
LIKE = 0.9
# How long a batch should take while nobody else is at work on the server, in milliseconds.
ALONE_MS = 50.0


@dataclass(frozen=True)
class Setting:
    """A limit, for which commands have an option and a project may have a setting.

    Arguments:
        option: the option without its dashes: "max-lag".
        parse: checks a value, and gives it its type and unit; see `units`.
        default: the value where neither is given; None where the engine finds it out.
        unit: what the value is, as the help of the option names it.
        meaning: the option's help, without a full stop.
        otherwise: what a default of None means, in words.
    """

    option: str
    parse: Callable[[object], Any]
    default: Any
    unit: str
    meaning: str
    otherwise: str = "no bound"

    @property
    def name(self) -> str:
        """The name in the project's settings."""
        return PREFIX + self.option.replace("-", "_").upper()

    def read(self) -> Any:
        """Read the setting now, or its default.

        Raises:
            PlaybookError: the setting has a value that it cannot have.
        """
        given = getattr(settings, self.name, None)
        if given is None:
            return self.default
        try:
            return self.parse(given)
        except ValueError as error:
            raise PlaybookError(f"The setting {self.name} is wrong: {error}.") from None

    @property
    def standard(self) -> str:
        """The default in words."""
        return self.otherwise if self.default is None else str(self.default)


SETTINGS = {
    each.option: each
    for each in (
        Setting(
            "workers",
            parse_count,
            None,
            "N",
            "Threads, each with a connection of its own",
            "one for every four cores of the server and ten free connections, 1 to 4",
        ),
        # Five is less than a person, or a chart of a site's latency, can tell.
        Setting(
            "max-added-ms",
            parse_number,
            5.0,
            "MS",
            "By how much the 99th percentile of the site's requests may grow, in ms",
        ),
        Setting(
            "target-ms",
            parse_number,
            None,
            "MS",
            "How long a batch should take, in ms",
            f"{ALONE_MS:g}, and what --max-added-ms allows while others are at work on the server",
        ),
        Setting(
            "batch-size",
            parse_count,
            None,
            "ROWS",
            "Rows in one transaction",
            "as many as --target-ms allows",
        ),
        Setting(
            "max-rows-per-second",
            parse_number,
            None,
            "ROWS",
            "The most that this process fills in a second",
        ),
        Setting(
            "duty",
            parse_duty,
            None,
            "SHARE",
            "The share of the time that a worker is at work",
            "all of it, and what --max-added-ms allows while others are at work on the server",
        ),
        Setting("max-lag", parse_number, 5.0, "SECONDS", "Wait while a replica is further behind"),
        Setting(
            "max-slot-wal",
            parse_size,
            None,
            "SIZE",
            "Wait while a slot retains more WAL",
            "half of max_slot_wal_keep_size, or 8 times max_wal_size",
        ),
        Setting(
            "max-archive-backlog",
            parse_count,
            64,
            "FILES",
            "Wait while more WAL files wait to be archived",
        ),
        Setting(
            "max-waiting-ms",
            parse_number,
            200.0,
            "MS",
            "Wait when a session has stood behind us for longer",
        ),
        Setting(
            "max-active",
            parse_count,
            None,
            "SESSIONS",
            "Wait while more sessions of others are at work",
            "twice the cores, and at least 4",
        ),
        Setting(
            "max-wal-rate",
            parse_size,
            None,
            "SIZE",
            "Wait while the server writes more WAL a second",
        ),
        Setting(
            "throttle-query",
            parse_query,
            None,
            "SQL",
            "Wait while this query's one value is anything but 0 or false",
            "none",
        ),
        Setting(
            "vacuum-every",
            parse_share,
            0.1,
            "SHARE",
            "VACUUM after every so much of the rows; 0 for never",
        ),
        Setting(
            "max-wal",
            parse_size,
            None,
            "SIZE",
            "End when the server has written so much WAL meanwhile",
        ),
        Setting(
            "lock-timeout",
            parse_count,
            100,
            "MS",
            "How long one request for the lock may wait, in ms",
        ),
        Setting("attempts", parse_count, 30, "N", "How often to ask for the lock"),
        Setting(
            "max-hold-ms",
            parse_count,
            None,
            "MS",
            "Roll back instead of committing when the lock was held longer",
            "never",
        ),
        Setting(
            "report",
            parse_folder,
            None,
            "DIR",
            "Write report.json and report.html there; the admin's page shows them",
            "no report",
        ),
    )
}


def setting(option: str) -> Any:
    """Make a dataclass's field whose default is a setting, read as each instance is made."""
    return field(default_factory=SETTINGS[option].read)


@dataclass(frozen=True)
class Mistake:
    """A setting that would be of no effect, or of a wrong one.

    Arguments:
        name: as the project has it.
        problem: what is wrong, in a sentence.
        remedy: what to write instead, in a sentence.
    """

    name: str
    problem: str
    remedy: str


def find_mistakes() -> Iterator[Mistake]:
    """Find the project's settings of ours that are misspelt, or have a wrong type or range."""
    ours = {each.name: each for each in SETTINGS.values()}
    for name in dir(settings):
        if name in ours:
            try:
                ours[name].read()
            except PlaybookError as error:
                remedy = f"Correct {name}, or leave it out: the default is {ours[name].standard}."
                yield Mistake(name, str(error), remedy)
        elif name.startswith(PREFIX) or difflib.get_close_matches(name, ours, cutoff=LIKE):
            yield Mistake(name, f"There is no setting {name}.", f"Write {_nearest(name, ours)}.")


def _nearest(name: str, ours: Iterable[str]) -> str:
    """Name the setting that a misspelt name is most like, or all, where none is like."""
    tails = {each.removeprefix(PREFIX): each for each in ours}
    like = difflib.get_close_matches(name.removeprefix(PREFIX), tails, n=1)
    return tails[like[0]] if like else f"one of {', '.join(sorted(tails.values()))}"
