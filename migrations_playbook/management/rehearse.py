"""The rehearsal as a command: options in, a verdict out."""

from __future__ import annotations

import json as jsonlib
from functools import partial
from pathlib import Path
from typing import Any, Literal

from django.core.management.base import CommandParser
from rich.console import Console
from rich.status import Status
from rich.table import Table

from migrations_playbook.errors import PlaybookError, Stopped
from migrations_playbook.management.base import PlaybookCommand, add_number, positive_float
from migrations_playbook.management.interrupts import GracefulStop
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.rehearsal import events as happened
from migrations_playbook.rehearsal.events import Result
from migrations_playbook.rehearsal.play import Play, StepFailed
from migrations_playbook.rehearsal.script import Options, Script
from migrations_playbook.replacement import find_replacement


class RehearseCommand(PlaybookCommand):
    """A rehearsal of one script, which a subclass names."""

    help = (
        "Rehearse the whole migration in a scratch database, under the traffic of two releases "
        "at a time, and say whether it passed."
    )
    script: Script

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        usual = Options()
        add_number(parser, "--rows", usual.rows, "Rows in the table")
        number = partial(add_number, parser, kind=positive_float)
        number("--rate", usual.rate, "Requests a second, of all clients together")
        number("--seconds", usual.seconds, "How long the traffic goes on in each phase at least")
        stalled = "A request that takes longer fails the rehearsal"
        number("--max-stall-ms", usual.max_stall_ms, stalled, metavar="MS")
        parser.add_argument(
            "--template",
            metavar="DB",
            help="Copy this database of the same server instead of making rows.",
        )
        parser.add_argument(
            "--report",
            type=Path,
            metavar="DIR",
            help="Write report.json and report.html there (default: no report).",
        )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """As ever, but `--json` takes a file here."""
        parser = super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)
        parser.add_argument(
            "--json", type=Path, metavar="FILE", help="Write the verdict there as one JSON object."
        )
        return parser

    def handle(
        self,
        *,
        database: str,
        rows: int,
        rate: float,
        seconds: float,
        max_stall_ms: float,
        template: str | None,
        report: Path | None,
        json: Path | None,
        **options: Any,
    ) -> None:
        replacement = find_replacement(self.script.model, self.script.shadow)
        rehearsal = Play(
            self.script,
            Options(rows, rate, seconds, max_stall_ms, template),
            replacement,
            postgresql(database),
        )
        for path in (json, report and report / "report.json", report and report / "report.html"):
            if path is not None:
                refuse_unwritable(path)
        # The raw stream: Django's wrapper would add a newline to every write.
        console = Console(file=getattr(self.stdout, "_out", None), highlight=False)
        events = rehearsal.run()
        with GracefulStop(patient=False) as stop:
            try:
                follow(events, console)
            except KeyboardInterrupt:
                events.close()
                raise Stopped(
                    "Stopped: the scratch database is dropped, and nothing else was touched.",
                    stop.exit_code,
                ) from None
            except StepFailed as error:
                raise PlaybookError(f"The stage could not be set: {error}") from None
        result = rehearsal.result
        console.print(phase_table(result))
        console.print(check_table(result))
        for reason in result.reasons:
            console.print(reason, style="red", markup=False)
        if json is not None:
            json.write_text(jsonlib.dumps(result.as_json(), indent=2) + "\n")
        if report is not None:
            # Imported late: the plotting library takes a while.
            from migrations_playbook.rehearsal.report import page  # noqa: PLC0415

            (report / "report.json").write_text(jsonlib.dumps(result.as_json(), indent=2) + "\n")
            (report / "report.html").write_text(page(result, replacement.label, max_stall_ms))
            console.print(f"The report is {report / 'report.html'}.", markup=False)
        if not result.passed:
            failed = ", ".join(name for name, number in result.checks.items() if number)
            raise PlaybookError(f"The rehearsal failed: {failed}.")
        console.print("The rehearsal passed.", style="bold green")


def refuse_unwritable(path: Path) -> None:
    """Make a file's folder, and see that the file can be written, before minutes are spent on it.

    Raises:
        PlaybookError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise PlaybookError(
            f"{path} cannot be written: {error.strerror}. Name another place with --report or "
            "--json."
        ) from None


def follow(events: Any, console: Console) -> None:
    """Draw the events as they come: a live line on a terminal, a line a phase elsewhere."""
    with Status("Setting the stage ...", console=console) as status:
        for event in events:
            match event:
                case happened.Began(name=name):
                    status.update(f"{name} ...")
                    if not console.is_terminal:
                        console.print(f"{name} ...")
                case happened.Going():
                    status.update(
                        f"[bold]{event.name}[/] {event.seconds:4.1f} s: {event.requests:,} "
                        f"requests, {event.errors} failed, longest {event.longest_ms:.0f} ms"
                    )
                case happened.Ended(figures=ended, lock_hold_ms=held):
                    lock = "" if held is None else f", lock held for {held:.1f} ms"
                    console.print(
                        f"[bold]{ended.name}[/]: {ended.seconds:.1f} s, {ended.requests:,} "
                        f"requests, {ended.errors} failed, p99 {ended.p99_ms:.1f} ms, longest "
                        f"{ended.max_ms:.1f} ms{lock}"
                    )
                case happened.Note(text=text):
                    console.print(text, markup=False)
                case happened.Tickets(when=when, rows=rows):
                    shown = ", ".join(f"{key}: {fingerprint}" for key, fingerprint in rows)
                    console.print(f"Fingerprints of three rows {when}: {shown}", markup=False)


def phase_table(result: Result) -> Table:
    """The phases, a row each."""
    table = Table(title=f"{result.rows:,} rows", title_justify="left", padding=0)
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
    for phase, each in zip(result.phases, result.figures, strict=True):
        table.add_row(
            each.name,
            f"{each.seconds:.1f}",
            f"{each.requests:,}",
            str(each.errors),
            f"{each.p50_ms:.1f}",
            f"{each.p99_ms:.1f}",
            f"{each.max_ms:.1f}",
            "" if phase.lock_hold_ms is None else f"{phase.lock_hold_ms:.1f}",
        )
    return table


def check_table(result: Result) -> Table:
    """The checks, a row each."""
    table = Table(title="Checks", title_justify="left")
    table.add_column("what must be zero")
    table.add_column("violations", justify="right")
    for name, number in result.checks.items():
        table.add_row(name.replace("_", " "), str(number), style="red" if number else "")
    return table
