"""What the swap's command prints of a plan and of events: lines for a person, and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from migrations_playbook.postgres.names import spell_names
from migrations_playbook.postgres.steps import Step
from migrations_playbook.swap.play import SwapPlan
from migrations_playbook.swap.reports import (
    Converted,
    Event,
    Exchanged,
    FollowingUp,
    Made,
    Noticed,
    Preparing,
    Resuming,
    Together,
    Verified,
)


def step_result(step: Step) -> dict[str, str]:
    """Build a statement's part of the JSON result."""
    return {"what": step.what, "lock": str(step.lock), "statement": step.text}


def plan_lines(
    planned: SwapPlan, noticed: Noticed, stages: Iterable[tuple[str, Sequence[Step]]]
) -> Iterator[str]:
    """Write a plan for a person: SQL, with comments."""
    if len(planned.members) > 1:
        yield f"-- Exchanged together: {', '.join(planned.members)}"
    yield "-- Bound to the columns"
    for each in planned.dependents:
        why = f": {each.refused}" if each.refused else ""
        yield f"-- {each} ({each.how}): {each.action}{why}"
    for line in notice_lines(noticed):
        yield f"-- {line}"
    for title, steps in stages:
        if not steps and title.startswith("After"):
            continue
        yield f"-- {title}"
        for step in steps:
            yield f"-- {step.what}. Lock: {step.lock}"
            yield step.text
        if not steps:
            yield "-- nothing: it is all there"


def swap_result(event: Event) -> dict[str, Any]:
    """Build an event's part of the JSON result."""
    match event:
        case Exchanged():
            return {
                "phase": str(event.phase),
                "lock_wait_ms": round(event.lock_wait_ms, 2),
                "lock_hold_ms": round(event.lock_hold_ms, 2),
                "attempts": event.attempts,
                "waiters": event.waiters,
                "longest_wait_ms": round(event.longest_wait_ms, 2),
            }
        case Resuming(left=left):
            return {"resumed": list(left)}
        case Verified():
            members = event.members if isinstance(event, Together) else {}
            return {
                **rows_result(event),
                "still_bound": list(event.still_bound),
                "rights_changed": list(event.rights_changed),
                "left": list(event.left),
                "problems": list(event.problems),
                "passed": event.passed,
                **(
                    {"members": {name: rows_result(each) for name, each in members.items()}}
                    if members
                    else {}
                ),
            }
    return {}


def rows_result(verified: Verified) -> dict[str, Any]:
    """Build the part of the JSON result that is about the rows: of all members, or of one."""
    found: dict[str, Any] = {
        "rows": verified.rows,
        "values": verified.values,
        "nulls": verified.nulls,
        "duplicates": verified.duplicates,
        "leaked": verified.leaked,
        "returned": verified.returned,
        "same": verified.same,
        "untriggered": verified.untriggered,
        "views": verified.views,
        "exposed": verified.exposed,
        "unread": dict(verified.unread),
        "exposing": list(verified.exposing),
    }
    match verified:
        case Converted():
            found |= {"out_of_step": verified.out_of_step, "no_way_back": verified.no_way_back}
        case Made():
            found |= {"astray": verified.astray, "own_making": verified.own_making}
    return found


def swap_line(event: Event, *, revert: bool) -> str:
    """Write an event for a person."""
    match event:
        case Exchanged():
            done = "Exchanged back" if revert else "Exchanged"
            together = f" {spell_names(event.columns)}" if len(event.columns) > 1 else ""
            behind = {0: "nobody", 1: "1 session"}.get(event.waiters, f"{event.waiters} sessions")
            longest = f", for {event.longest_wait_ms:.1f} ms at most" if event.waiters else ""
            return (
                f"{done}{together}: the lock was held for {event.lock_hold_ms:.1f} ms, after "
                f"{event.attempts} attempt{'s' if event.attempts > 1 else ''} that waited "
                f"{event.lock_wait_ms:.1f} ms; {behind} stood behind it{longest}."
            )
        case Verified():
            views = f" {event.views} views read through." if event.views else ""
            unread = "".join(
                f" {name} was not read ({why})." if why else f" {name} may not be read."
                for name, why in event.unread.items()
            )
            remarks = "".join(f" {each}" for each in event.remarks)
            return (
                f"Verified {event.values:,} of {event.rows:,} rows: {event.counts}."
                f"{remarks}{views}{unread}"
            )
        case Resuming(left=left):
            return f"Finishing what an interrupted run has left: {', '.join(left)}."
        case Noticed():
            return "\n".join(notice_lines(event))
        case Preparing(what=what):
            return f"Preparing: {what}."
        case FollowingUp(what=what):
            return f"Following up: {what}."


def notice_lines(noticed: Noticed) -> Iterator[str]:
    """Say which things a person should look at first."""
    if noticed.unreadable:
        named = ", ".join(
            f"{name} ({why or 'permission denied'})" for name, why in noticed.unreadable.items()
        )
        yield f"These views cannot be read, and the proof will leave them out: {named}."
    if noticed.copies:
        named = ", ".join(f"{name} ({how} of it)" for name, how in noticed.copies.items())
        yield (
            f"The value is kept a second time, and the swap does not change it there: {named}. "
            "Whoever is let in by that column still gets in by a leaked value. A Group plays both."
        )
