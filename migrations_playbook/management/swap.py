"""The swap as a command: options in, events out."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from json import dumps
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from migrations_playbook.errors import PlaybookError, Refused, Stopped, TryAgain
from migrations_playbook.management.base import add_limits
from migrations_playbook.management.interrupts import GracefulStop
from migrations_playbook.management.schemas import SchemaCommand
from migrations_playbook.management.swap_output import (
    plan_lines,
    step_result,
    swap_line,
    swap_result,
)
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap import play
from migrations_playbook.swap.exchange import describe_unproven
from migrations_playbook.swap.gate import SwapRequest, has_sound_rows, inspect_phase
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.proof.evidence import Evidence
from migrations_playbook.swap.reports import Event, Exchanged


class SwapCommand(SchemaCommand):
    """The command that exchanges the columns, back too, and proves the exchange."""

    play = "swap"
    help = "Exchange the shadow column and the live column, in one short transaction."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the swap's options."""
        super().add_arguments(parser)
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--revert", action="store_true", help="Exchange back.")
        which.add_argument(
            "--verify",
            action="store_true",
            help="After a swap: prove again that no leaked value is reachable; change nothing.",
        )
        which.add_argument(
            "--mend",
            action="store_true",
            help="After a swap: put back what is missing of the quarantine, and verify.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Print what is bound to the columns, the statements and the locks they take; "
            "change nothing.",
        )
        add_limits(parser, "lock-timeout", "attempts", "max-hold-ms")
        parser.add_argument(
            "--redraw",
            action="store_true",
            help="Draw another value for each row that has the same one in both columns.",
        )
        parser.add_argument(
            "--refresh-materialized-views",
            action="store_true",
            help="Build materialized views that hold copies anew, rather than refuse; after an "
            "interrupted run, finish it.",
        )
        parser.add_argument(
            "--evidence",
            type=Path,
            metavar="FILE",
            help="Write what an incident report needs to a new JSON file; it holds no token.",
        )

    def act(
        self,
        replacement: Replacement,
        *,
        database: str,
        revert: bool,
        verify: bool,
        dry_run: bool,
        lock_timeout: int,
        attempts: int,
        max_hold_ms: int | None,
        mend: bool,
        redraw: bool,
        refresh_materialized_views: bool,
        evidence: Path | None,
        json: bool,
        **options: Any,
    ) -> None:
        """Swap, revert, verify, mend, or show the plan."""
        if dry_run:
            request = SwapRequest(
                postgresql(database), replacement, revert, refresh_materialized_views, redraw
            )
            self.show_plan(request, json=json)
            return
        policy = LockPolicy(timeout_ms=lock_timeout, attempts=attempts)
        if verify:
            what, events = "verify", play.verify(replacement, using=database)
        elif mend:
            what, events = "mend", play.mend(replacement, using=database, policy=policy)
        else:
            what = "revert" if revert else "swap"
            events = play.swap(
                replacement,
                using=database,
                revert=revert,
                policy=policy,
                max_hold_ms=max_hold_ms,
                refresh=refresh_materialized_views,
                redraw=redraw,
            )
        if evidence is not None:
            reserve_file(evidence)
            events = testified(events, Evidence(what), evidence, database, replacement)
        with GracefulStop(patient=False) as stop:
            try:
                self.tell(events, revert=revert, json=json)
            except KeyboardInterrupt:
                events.close()
                if not (verify or mend) and play.is_exchanged(
                    replacement, using=database, revert=revert
                ):
                    raise TryAgain(describe_unproven(replacement, revert=revert)) from None
                raise Stopped(
                    "Stopped before the end; nothing was exchanged. "
                    f'"{replacement.command("status")}" shows what comes next.',
                    stop.exit_code,
                ) from None
        if json:
            self.say_json(self.result)

    def tell(self, events: Iterable[Event], *, revert: bool, json: bool) -> None:
        """Play on, and tell each event as it comes; keep all for the JSON result."""
        for event in events:
            self.result |= swap_result(event)
            if not json:
                self.stdout.write(swap_line(event, revert=revert))

    def is_done(self, replacement: Replacement, *, database: str, **options: Any) -> bool:
        """Tell whether the columns are exchanged already, where an exchange is asked for."""
        asked = not (options["dry_run"] or options["verify"] or options["mend"])
        return asked and play.is_exchanged(replacement, using=database, revert=options["revert"])

    def act_in_turn(self, replacements: list[Replacement], **options: Any) -> None:
        """Play for one schema after the other.

        Raises:
            Refused: there is a single file for the evidence of all.
        """
        if options["evidence"] is not None:
            raise Refused(
                f"--evidence is of one schema, and these are {len(replacements)}: name each schema "
                "in a command of its own."
            )
        super().act_in_turn(replacements, **options)

    def show_plan(self, request: SwapRequest, *, json: bool) -> None:
        """Print the plan, and refuse what the swap itself would refuse."""
        planned, noticed = play.plan_swap(inspect_phase(request)), play.notice(request)
        stages = {
            "before": ("Before, while reads and writes go on", planned.index + planned.prove),
            "exchange": ("In one transaction", planned.ready + planned.exchange),
            "after": ("After it, while reads and writes go on", planned.after),
        }
        self.result = {
            "members": list(planned.members),
            "dependents": [each.as_json() for each in planned.dependents],
            "unreadable": dict(noticed.unreadable),
            "copies": dict(noticed.copies),
            **{name: [step_result(step) for step in steps] for name, (_, steps) in stages.items()},
        }
        if not json:
            for line in plan_lines(planned, noticed, stages.values()):
                self.stdout.write(line)
        if any(each.refused for each in planned.dependents):
            raise Refused(
                f"{request.replacement.label} cannot be exchanged while something that is bound to "
                "its columns is refused: see the list above."
            )
        if json:
            self.say_json(self.result)
        if (objection := has_sound_rows(request)) is not None:
            raise objection


def reserve_file(path: Path) -> None:
    """Make an empty file for the evidence, before anything is done.

    Raises:
        PlaybookError: the file exists, so that it would be overwritten, or cannot be written.
    """
    try:
        # Readable by its owner only: the file names roles, tables and times.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise PlaybookError(
            f"{path} exists, and evidence is not overwritten. Name another file."
        ) from None
    except OSError as error:
        raise PlaybookError(
            f"{path} cannot be written ({error.strerror}). Name another file."
        ) from None


def testified(
    events: Generator[Event, None, None],
    evidence: Evidence,
    path: Path,
    database: str,
    replacement: Replacement,
) -> Generator[Event, None, None]:
    """Pass events on, and write the evidence at their end, however they end."""
    connection = postgresql(database)
    outcome = "stopped before the end"
    try:
        if (before := Pair.find(connection, replacement, replacement.identifier)) is not None:
            evidence.before(connection, before)
        for event in events:
            evidence.add(swap_result(event))
            if isinstance(event, Exchanged):
                evidence.add({"carried": list(event.carried)})
            yield event
        if (after := Pair.find(connection, replacement, replacement.identifier)) is not None:
            evidence.after(connection, after)
        outcome = "done"
    except (PlaybookError, CommandError) as error:
        outcome = str(error)
        raise
    finally:
        events.close()
        path.write_text(dumps(evidence.conclude(outcome), indent=2) + "\n")
