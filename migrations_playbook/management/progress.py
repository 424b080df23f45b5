"""Draws events: a live line on a terminal, plain lines where the output is piped.

Knows events only, and no database.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any, TextIO

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from migrations_playbook.backfill.cost import Cost
from migrations_playbook.backfill.events import (
    Batch,
    Event,
    Finished,
    Lost,
    Note,
    Paced,
    Recounted,
    Started,
    Vacuumed,
    Waiting,
)
from migrations_playbook.management.base import Terminal

# The window of the moving average behind the rate and the remaining time, in seconds.
AVERAGE_OVER = 30.0
# Between two plain lines, in seconds.
PLAIN_EVERY = 5.0


class Tally:
    """The sum of the events, for the result at the end."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.rows = 0
        self.batches = 0
        self.remaining: int | None = None
        self.complete = False
        self.valueless = 0
        self.batch_size = 0
        self.vacuums = 0
        self.reason: str | None = None
        self.workers: int | None = None
        self.cost: Cost | None = None
        self.paced: Paced | None = None
        self.felt_most = 0.0
        # Seconds waited, by the signal's name.
        self.waited: dict[str, float] = {}
        self.notes: list[str] = []
        self.workers_lost = 0

    def add(self, event: Event) -> None:
        """Take an event into account."""
        if isinstance(event, Batch):
            self.rows += event.rows
            self.batches += 1
        elif isinstance(event, Started):
            self.workers = event.workers
        elif isinstance(event, Waiting):
            for name in event.signals:
                self.waited[name] = self.waited.get(name, 0.0) + event.seconds
        elif isinstance(event, Paced):
            self.paced = event
            self.felt_most = max(self.felt_most, event.felt_ms)
        elif isinstance(event, Vacuumed):
            self.vacuums += event.ran
        elif isinstance(event, Note):
            self.notes.append(event.text)
        elif isinstance(event, Lost):
            self.workers_lost += event.number
            self.notes.append(str(event))
        elif isinstance(event, Finished):
            self.remaining = event.rows_remaining
            self.complete = event.complete
            self.valueless = event.valueless
            self.batch_size = event.batch_size
            self.reason = event.reason
            self.cost = event.cost

    def as_json(self) -> dict[str, Any]:
        """Build the result's form for --json."""
        return {
            "rows_filled": self.rows,
            "rows_remaining": self.remaining,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rate, 1),
            "batches": self.batches,
            "batch_size": self.batch_size,
            "vacuums": self.vacuums,
            "waited": {name: round(seconds, 1) for name, seconds in self.waited.items()},
            "notes": self.notes,
            "workers": self.workers,
            "workers_lost": self.workers_lost,
            "pace": self.paced
            and {**self.paced.as_json(), "felt_ms_at_most": round(self.felt_most, 2)},
            "cost": self.cost and self.cost.as_json(),
        }

    @property
    def left(self) -> str:
        """Say how many rows are left, as far as is known."""
        return "some are left" if self.remaining is None else f"{self.remaining:,} are left"

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Rows a second over the whole run."""
        return self.rows / self.seconds if self.rows else 0.0


class Live(Progress):
    """The progress line; on a line below, lest they be cut off, the waits or the pace."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if text := _below(task):
                yield Text(text, style="yellow", overflow="ellipsis", no_wrap=True)


class RateColumn(ProgressColumn):
    """Rows a second, as a moving average."""

    def get_table_column(self) -> Column:
        return Column(no_wrap=True)

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s", style="progress.data.speed")


class RowsColumn(ProgressColumn):
    """Done / total."""

    def get_table_column(self) -> Column:
        return Column(no_wrap=True)

    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else f"{task.total:,.0f}"
        return Text(f"{task.completed:,.0f} / {total}", style="progress.download")


class TimesColumn(ProgressColumn):
    """The elapsed time, and the time left."""

    def get_table_column(self) -> Column:
        return Column(no_wrap=True)

    def render(self, task: Task) -> Text:
        return Text(", ".join(describe_times(task)), style="progress.elapsed")


def draw_progress(
    events: Generator[Event, None, None], tally: Tally, *, what: str, stream: TextIO | None
) -> None:
    """Draw events as they come, and add them up.

    Arguments:
        events: the events of a backfill.
        tally: where the events are added up.
        what: the name in front of the bar.
        stream: the raw stream to draw on; None draws nothing. Django's OutputWrapper adds a newline
            to every write, which would print a line a frame.

    Raises:
        KeyboardInterrupt: after the backfill has told its result.
    """
    picture = None if stream is None else Picture(stream, what)
    with picture or nullcontext():

        def show(event: Event) -> None:
            tally.add(event)
            if picture is not None:
                picture.draw(event)

        try:
            for event in events:
                show(event)
        except KeyboardInterrupt:
            # Between two events the backfill has not met the interrupt; the last event is to come.
            with suppress(KeyboardInterrupt):
                show(events.throw(KeyboardInterrupt()))
            raise
        finally:
            events.close()


class Picture:
    """The drawn progress: a live line on a terminal, plain lines elsewhere.

    Arguments:
        stream: where to draw.
        what: the name in front of the bar.
    """

    def __init__(self, stream: TextIO, what: str) -> None:
        self.console = Terminal(file=stream)
        self.live = self.console.is_terminal
        self.progress = Live(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            RowsColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            RateColumn(),
            TimesColumn(),
            console=self.console,
            expand=True,
            speed_estimate_period=AVERAGE_OVER,
            disable=not self.live,
        )
        self.progress.add_task(what, total=None, note="", pace="", exact=False)
        self.task = self.progress.tasks[0]
        self._said = time.monotonic()

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *error: object) -> None:
        self.progress.update(self.task.id, note="", pace="")
        self.progress.stop()

    def draw(self, event: Event) -> None:
        """Draw the changes by an event."""
        _advance(self.progress, self.task, event)
        if isinstance(event, Note | Lost):
            self.console.print(str(event), soft_wrap=True, highlight=False)
        if not self.live and time.monotonic() - self._said >= PLAIN_EVERY:
            self._said = time.monotonic()
            self.console.print(plain_line(self.task), soft_wrap=True, highlight=False)


def plain_line(task: Task) -> str:
    """Write a line of progress."""
    total = "?" if task.total is None else f"{task.total:,.0f}"
    parts = [f"{task.description}: {task.completed:,.0f} / {total} rows"]
    if task.total:
        parts[0] += f" ({task.percentage:.0f} %)"
    if task.speed:
        parts.append(f"{task.speed:,.0f} rows/s")
    parts += describe_times(task)
    note = _below(task)
    return ", ".join(parts) + (f"; {note}" if note else "")


def _below(task: Task) -> str:
    """Say the reason of the wait, or else the pace."""
    return str(task.fields["note"] or task.fields["pace"])


def describe_times(task: Task) -> list[str]:
    """Say which time has elapsed, and which is left once there is a basis for the estimate."""
    times = [f"{_clock(task.finished_time or task.elapsed or 0)} elapsed"]
    if task.time_remaining:
        times.append(f"{_clock(task.time_remaining)} left")
    return times


def _clock(seconds: float) -> str:
    """Write minutes and seconds, with the hours in front if any."""
    return str(timedelta(seconds=int(seconds))).removeprefix("0:").removeprefix("0")


def _advance(progress: Progress, task: Task, event: Event) -> None:
    match event:
        case Started(total=total, exact=exact):
            progress.update(task.id, total=total, exact=exact)
        case Batch(rows=rows):
            done: float = task.completed + rows
            counted = task.total or 0
            # An estimate may have been too low. A count is not, for null rows never become more: a
            # batch beyond the count was in the last count already.
            if task.fields["exact"]:
                done = min(done, counted)
            progress.update(task.id, completed=done, total=max(done, counted), note="")
        case Recounted(remaining=remaining, exact=exact):
            # Rows filled by others since count too.
            known = max(task.total or 0, task.completed + remaining)
            progress.update(task.id, completed=known - remaining, total=known, exact=exact)
        case Waiting(reason=reason):
            progress.update(task.id, note=reason)
        case Paced():
            progress.update(task.id, pace=str(event))
        case Finished(complete=complete):
            if complete:
                progress.update(task.id, total=task.completed)
