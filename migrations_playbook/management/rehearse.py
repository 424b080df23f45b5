"""The rehearsal as a command: options in, a verdict out."""

from __future__ import annotations

import importlib.util
import json as jsonlib
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.status import Status
from rich.table import Table

from migrations_playbook.errors import PlaybookError, Stopped
from migrations_playbook.management.base import (
    ShadowCommand,
    Target,
    Terminal,
    add_limits,
    add_number,
)
from migrations_playbook.management.interrupts import GracefulStop
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.rehearsal import happenings
from migrations_playbook.rehearsal.happenings import Happening
from migrations_playbook.rehearsal.play import Rehearsal
from migrations_playbook.rehearsal.runner import StepFailed
from migrations_playbook.rehearsal.script import RehearsalOptions, Script
from migrations_playbook.rehearsal.verdict import Verdict
from migrations_playbook.replacement import Replacement
from migrations_playbook.units import parse_number


class RehearseCommand(ShadowCommand):
    """A rehearsal of a declared shadow column.

    A subclass may take the place of the options `--stamp`, `--row` and `--read`.
    """

    play = "rehearse"
    help = (
        "Rehearse the whole migration in a scratch database, under the traffic of two releases "
        "at a time, and say whether it passed."
    )
    stamp: str | None = None
    row: str | None = None
    read: str | None = None

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the rehearsal's options."""
        super().add_arguments(parser)
        usual = RehearsalOptions
        add_number(parser, "--rows", usual.rows, "Rows in the table")
        number = partial(add_number, parser, kind=parse_number)
        number("--rate", usual.rate, "Requests a second, of all clients together")
        number("--seconds", usual.seconds, "How long the traffic goes on in each phase at least")
        stalled = "A request that takes longer fails the rehearsal"
        number("--max-stall-ms", usual.max_stall_ms, stalled, metavar="MS")
        add_limits(parser, "max-added-ms")
        parser.add_argument(
            "--template",
            metavar="DB",
            help="Copy this database of the same server instead of making rows.",
        )
        add_limits(parser, "report")
        self.add_client_arguments(parser)

    def add_client_arguments(self, parser: CommandParser) -> None:
        """Add the options for a project's own rows."""
        parser.add_argument(
            "--stamp",
            default=self.stamp,
            metavar="FIELD",
            help="The field that the clients write (default: the first date with time, or else "
            "the first text or integer, that is neither unique nor has choices).",
        )
        parser.add_argument(
            "--row",
            default=self.row,
            metavar="CALLABLE",
            help="The dotted path of what makes a row: it takes the model, and returns the fields "
            "that it sets (default: the model's defaults).",
        )
        parser.add_argument(
            "--read",
            default=self.read,
            metavar="CALLABLE",
            help="The dotted path of what reads rows: it takes a query set and a live value, and "
            "returns a query set (default: a page of the newest rows).",
        )

    def handle(
        self,
        *,
        database: str,
        rows: int,
        rate: float,
        seconds: float,
        max_stall_ms: float,
        max_added_ms: float,
        template: str | None,
        report: Path | None,
        json: bool,
        target: Target | None = None,
        **options: Any,
    ) -> None:
        """Rehearse, draw the happenings, and report the verdict."""
        replacement = self.replacement(target, database)
        rehearsal = Rehearsal(
            self.build_script(replacement, **options),
            RehearsalOptions(rows, rate, seconds, max_stall_ms, max_added_ms, template),
            replacement,
            postgresql(database),
        )
        if report is not None:
            refuse_report(report)
        # The raw stream: Django's wrapper would add a newline to every write.
        console = Terminal(file=getattr(self.stdout, "_out", None), highlight=False, quiet=json)
        play_to_end(rehearsal.run(), console)
        verdict = rehearsal.verdict
        self.result = {"replacement": str(replacement), **verdict.as_json()}
        if report is not None:
            (report / "report.json").write_text(jsonlib.dumps(self.result, indent=2) + "\n")
            write_page(report, verdict, str(replacement), max_stall_ms)
        show_verdict(verdict, report, console)
        if not verdict.passed:
            raise CommandError(f"The rehearsal failed: {', '.join(verdict.failed_checks)}.")
        if json:
            self.say_json(self.result)

    def build_script(
        self,
        replacement: Replacement,
        *,
        stamp: str | None,
        row: str | None,
        read: str | None,
        **options: Any,
    ) -> Script:
        """Build the script from the options, and from the subclass."""
        return Script(
            model=replacement.label,
            shadow=replacement.declaration.shadow,
            stamp=stamp,
            row=row,
            read=read,
        )


def play_to_end(events: Generator[Happening, None, None], console: Console) -> None:
    """Play a rehearsal, and draw the happenings.

    Raises:
        Stopped: a signal came.
        PlaybookError: the rehearsal could not be started.
    """
    with GracefulStop(patient=False) as stop:
        try:
            follow_rehearsal(events, console)
        except KeyboardInterrupt:
            events.close()
            raise Stopped(
                "Stopped: the scratch database is dropped, and nothing else was touched.",
                stop.exit_code,
            ) from None
        except StepFailed as error:
            raise PlaybookError(f"The stage could not be set: {error}") from None


def refuse_report(folder: Path) -> None:
    """Make the report's folder, and try to write there, before minutes are spent.

    Raises:
        PlaybookError: the folder cannot be written, or the plotting library is not there.
    """
    if not _can_import("matplotlib"):
        raise PlaybookError(
            "The report needs matplotlib, which is not installed. Run 'pip install "
            '"django-migrations-playbook[report]"\', or leave --report out.'
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("report.json", "report.html"):
            (folder / name).open("a").close()
    except OSError as error:
        raise PlaybookError(
            f"{folder} cannot be written: {error.strerror}. Name another place with --report."
        ) from None


def _can_import(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # how Python says it of a module that was ruled out in sys.modules
        return False


def write_page(folder: Path, verdict: Verdict, label: str, max_stall_ms: float) -> None:
    """Write report.html.

    Arguments:
        folder: an existing, writable folder.
        verdict: of the rehearsal.
        label: the rehearsed column, `tickets.Ticket.new_token`.
        max_stall_ms: the bound of a request, in milliseconds.
    """
    # Imported late: the plotting library takes a while, and need not be installed.
    from migrations_playbook.rehearsal.report import build_page  # noqa: PLC0415

    (folder / "report.html").write_text(build_page(verdict, label, max_stall_ms))


def follow_rehearsal(events: Generator[Happening, None, None], console: Console) -> None:
    """Draw the happenings as they come: a live line on a terminal, a line a phase elsewhere."""
    with Status("Setting the stage ...", console=console) as status:
        for event in events:
            match event:
                case happenings.PhaseBegan(name=name):
                    status.update(f"{name} ...")
                    if not console.is_terminal:
                        console.print(f"{name} ...")
                case happenings.PhaseGoing():
                    status.update(
                        f"[bold]{event.name}[/] {event.seconds:4.1f} s: {event.requests:,} "
                        f"requests, {event.errors} failed, longest {event.longest_ms:.0f} ms"
                    )
                case happenings.PhaseEnded(figures=ended):
                    held = ended.lock_hold_ms
                    lock = "" if held is None else f", lock held for {held:.1f} ms"
                    console.print(
                        f"[bold]{ended.name}[/]: {ended.seconds:.1f} s, {ended.requests:,} "
                        f"requests, {ended.errors} failed, p99 {ended.p99_ms:.1f} ms, longest "
                        f"{ended.max_ms:.1f} ms{lock}"
                    )
                case happenings.Remark(text=text):
                    console.print(text, markup=False)
                case happenings.Fingerprints(when=when, rows=rows):
                    shown = ", ".join(f"{key}: {fingerprint}" for key, fingerprint in rows)
                    console.print(f"Fingerprints of three rows {when}: {shown}", markup=False)


def show_verdict(verdict: Verdict, report: Path | None, console: Console) -> None:
    """Print the tables, each reason for a failure, and the last line of a passed rehearsal."""
    console.print(build_phase_table(verdict))
    console.print(build_check_table(verdict))
    for reason in verdict.reasons:
        console.print(reason, style="red", markup=False)
    if verdict.added is not None:
        console.print(str(verdict.added), markup=False)
    if report is not None:
        console.print(f"The report is {report / 'report.html'}.", markup=False)
    if verdict.passed:
        console.print("The rehearsal passed.", style="bold green")


def build_phase_table(verdict: Verdict) -> Table:
    """Build the table of the phases, a row each."""
    table = Table(title=f"{verdict.rows:,} rows", title_justify="left", padding=0)
    for heading in (
        "phase",
        "seconds",
        "requests",
        "errors",
        "p50 ms",
        "p99 ms",
        "longest",
        "lock ms",
    ):
        justify: Literal["left", "right"] = "left" if heading == "phase" else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for each in verdict.figures:
        table.add_row(
            each.name,
            f"{each.seconds:.1f}",
            f"{each.requests:,}",
            str(each.errors),
            f"{each.p50_ms:.1f}",
            f"{each.p99_ms:.1f}",
            f"{each.max_ms:.1f}",
            "" if each.lock_hold_ms is None else f"{each.lock_hold_ms:.1f}",
        )
    return table


def build_check_table(verdict: Verdict) -> Table:
    """Build the table of the checks, a row each."""
    table = Table(title="Checks", title_justify="left")
    table.add_column("what must be zero")
    table.add_column("violations", justify="right")
    for name, number in verdict.checks.items():
        table.add_row(name.replace("_", " "), str(number), style="red" if number else "")
    return table
