"""The report as a single page without other files: to be attached to a change request."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from html import escape

import matplotlib as mpl
from django.utils import timezone
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from migrations_playbook.rehearsal.traffic.measure import ClientRequest, PlayedPhase
from migrations_playbook.rehearsal.verdict import Verdict

INK, FAINT = "#1f2933", "#7b8794"
COLOURS = {"N": "#b45309", "N+1": "#2563eb", "N+2": "#059669", "N+3": "#9333ea"}
SHADES = ("#f1f5f9", "#ffffff")

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff;
       max-width: 68rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; } .faint { color: #616e7c; }
.verdict { display: inline-block; padding: .15rem .8rem; border-radius: 1rem; color: #fff;
           font-weight: 600; margin-left: .6rem; vertical-align: .15rem; font-size: .95rem; }
.passed { background: #15803d; } .failed { background: #b91c1c; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem;
           margin: 1.2rem 0; }
.figure { border: 1px solid #e4e7eb; border-radius: .5rem; padding: .6rem .9rem; }
.figure b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.figure span { color: #616e7c; font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid #e4e7eb; }
th { color: #616e7c; font-weight: 500; } td:first-child, th:first-child { text-align: left; }
.checks { width: auto; } td.bad { color: #b91c1c; font-weight: 600; }
svg { width: 100%; height: auto; }
"""

MEANINGS = {
    "failed_steps": "commands of the play that refused or failed",
    "failed_requests": "requests that ended with an error",
    "slow_requests": "requests that took longer than is allowed",
    "failed_processes": "client processes that ended on their own",
    "lost_rows": "rows that are gone",
    "duplicated_rows": "rows too many, or unique values that more than one row has",
    "told_otherwise": "answers to clients that are not what the rows have",
    "changed_tokens": "rows made after a swap whose value did not outlive the revert",
    "lost_writes": "writes that were acknowledged and are not there",
    "out_of_step": "rows of which one column has not followed the other",
    "unexplained_misses": "values that were told and not found, with no exchange between",
    "unrotated_rows": "rows that still have their leaked value",
    "leaked_values": "leaked values under the live name",
    "schema": "differences from the expected schema",
}


def build_page(verdict: Verdict, label: str, max_stall_ms: float) -> str:
    """Build the page.

    Arguments:
        verdict: of the rehearsal.
        label: the rehearsed column, `tickets.Ticket.new_token`.
        max_stall_ms: the bound of a request, in milliseconds.
    """
    outcome = "passed" if verdict.passed else "failed"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rehearsal of {escape(label)}: {outcome}</title><style>{STYLE}</style></head><body>
<h1>Rehearsal of {escape(label)}<span class="verdict {outcome}">{outcome}</span></h1>
<p class="faint">{timezone.now():%d %B %Y, %H:%M} UTC. The whole migration in a scratch database,
with processes of the old and the new release at work throughout.</p>
<div class="figures">{_write_tiles(verdict, max_stall_ms)}</div>
{_write_reasons(verdict)}
<p>{escape(str(verdict.added or ""))}</p>
<h2>Every request, by release</h2>
{draw_plot(verdict, max_stall_ms)}
<p class="faint">Latency counts from when a request was due, so a stall shows in full.</p>
<h2>Phases</h2>
{_write_phases(verdict)}
<h2>Checks</h2>
{_write_checks(verdict)}
</body></html>
"""


def draw_plot(verdict: Verdict, max_stall_ms: float) -> str:
    """Draw the latency of every request and the throughput over time, as an SVG element."""
    if not verdict.phases:
        return '<p class="faint">No phase was played.</p>'
    began = verdict.phases[0].began
    requests = [each for each in verdict.requests if each.due >= began]
    # Text stays text, and the same run gives the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rehearsal", "font.size": 9}):
        figure = Figure(figsize=(11, 6.2), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _draw_latency(upper, requests, began, max_stall_ms)
        _draw_throughput(lower, requests, began)
        for axes in (upper, lower):
            _shade_phases(axes, verdict.phases, began)
        _name_phases(upper, verdict.phases, began)
        upper.legend(loc="upper left", markerscale=3, framealpha=0.9, ncols=4, edgecolor="none")
        lower.set_xlabel("seconds since the beginning", color=FAINT)
        lower.set_xlim(0, verdict.phases[-1].ended - began)
        text = io.StringIO()
        figure.savefig(text, format="svg", dpi=150, metadata={"Date": None})
    # An XML prologue has no place inside a page.
    return text.getvalue()[text.getvalue().index("<svg") :]


def _draw_latency(
    axes: Axes, requests: Sequence[ClientRequest], began: float, max_stall_ms: float
) -> None:
    for release, colour in COLOURS.items():
        own = [each for each in requests if each.release == release]
        if own:
            axes.scatter(
                [each.due - began for each in own],
                [max(each.ms, 0.1) for each in own],
                s=3,
                linewidths=0,
                color=colour,
                alpha=0.6,
                label=f"release {release}",
                rasterized=True,
                zorder=3,
            )
    _draw_failed(axes, [each for each in requests if each.wrong], began)
    _draw_bound(axes, max_stall_ms)
    axes.set_yscale("log")
    longest = max((each.ms for each in requests), default=1)
    axes.set_ylim(0.5, 4 * max(max_stall_ms, longest))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("latency in ms", color=FAINT)
    _strip_axes(axes)


def _draw_failed(axes: Axes, failed: Sequence[ClientRequest], began: float) -> None:
    if failed:
        axes.scatter(
            [each.due - began for each in failed],
            [max(each.ms, 0.1) for each in failed],
            s=22,
            marker="x",
            color="#b91c1c",
            label="failed",
            zorder=4,
        )


def _draw_bound(axes: Axes, max_stall_ms: float) -> None:
    axes.axhline(max_stall_ms, color="#b91c1c", linewidth=0.8, linestyle=(0, (4, 3)), zorder=2)
    axes.annotate(
        f"allowed: {max_stall_ms:.0f} ms",
        (1, max_stall_ms),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        color="#b91c1c",
    )


def _draw_throughput(axes: Axes, requests: Sequence[ClientRequest], began: float) -> None:
    """Draw the answers in each second, by release, stacked."""
    answered = Counter(
        (each.release, int(each.due - began + each.ms / 1000))
        for each in requests
        if not each.wrong
    )
    seconds = range(max((second for _, second in answered), default=0) + 1)
    under = [0] * len(seconds)
    for release, colour in COLOURS.items():
        own = [answered[release, second] for second in seconds]
        if any(own):
            axes.bar(
                seconds,
                own,
                bottom=under,
                width=1,
                align="edge",
                color=colour,
                alpha=0.75,
                zorder=3,
            )
        under = [below + more for below, more in zip(under, own, strict=True)]
    axes.set_ylabel("answers a second", color=FAINT)
    _strip_axes(axes)


def _strip_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#cbd2d9")
    axes.tick_params(colors=FAINT)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.6, zorder=1)


def _shade_phases(axes: Axes, phases: Sequence[PlayedPhase], began: float) -> None:
    for number, phase in enumerate(phases):
        axes.axvspan(
            phase.began - began,
            phase.ended - began,
            color=SHADES[number % 2],
            linewidth=0,
            zorder=0,
        )


def _name_phases(axes: Axes, phases: Sequence[PlayedPhase], began: float) -> None:
    for phase in phases:
        axes.annotate(
            phase.name,
            ((phase.began + phase.ended) / 2 - began, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="left",
            va="bottom",
            rotation=35,
            rotation_mode="anchor",
            color=INK,
        )


def _write_tiles(verdict: Verdict, max_stall_ms: float) -> str:
    latencies = [each.ms for each in verdict.requests]
    held = verdict.swap.get("lock_hold_ms")
    added = verdict.added
    tiles = [
        (f"{verdict.rows:,}", "rows at the start"),
        (f"{len(verdict.requests):,}", "requests"),
        (f"{sum(1 for each in verdict.requests if each.wrong):,}", "of them failed"),
        (f"{max(latencies, default=0):.0f} ms", f"longest (at most {max_stall_ms:.0f} ms)"),
        (
            "" if added is None else f"{added.added_ms:+.1f} ms",
            f"p99 in the backfill, over the baseline's (at most {verdict.max_added_ms:+g} ms)",
        ),
    ]
    if held is not None:
        tiles.append((f"{held:.1f} ms", "lock held by the swap"))
    return "".join(_write_tile(*tile) for tile in tiles)


def _write_tile(value: str, meaning: str) -> str:
    return (
        f'<div class="figure"><b>{escape(value) or "none"}</b><span>{escape(meaning)}</span></div>'
    )


def _write_reasons(verdict: Verdict) -> str:
    if not verdict.reasons:
        return ""
    items = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    return f"<h2>Why it failed</h2><ul>{items}</ul>"


def _write_phases(verdict: Verdict) -> str:
    rows = "".join(
        f"<tr><td>{escape(each.name)}</td><td>{each.seconds:.1f}</td><td>{each.requests:,}</td>"
        f"<td{_mark_bad(each.errors)}>{each.errors}</td><td>{each.p50_ms:.1f}</td>"
        f"<td>{each.p99_ms:.1f}</td><td>{each.max_ms:.1f}</td>"
        f"<td>{'' if each.lock_hold_ms is None else f'{each.lock_hold_ms:.1f}'}</td></tr>"
        for each in verdict.figures
    )
    return (
        "<table><tr><th>phase</th><th>seconds</th><th>requests</th><th>errors</th><th>p50 ms</th>"
        f"<th>p99 ms</th><th>longest ms</th><th>lock held ms</th></tr>{rows}</table>"
    )


def _write_checks(verdict: Verdict) -> str:
    rows = "".join(
        f"<tr><td>{escape(MEANINGS.get(name, name))}</td>"
        f"<td{_mark_bad(number)}>{number:,}</td></tr>"
        for name, number in verdict.checks.items()
    )
    return (
        '<table class="checks"><tr><th>what must be zero</th><th>found</th></tr>'
        + rows
        + "</table>"
    )


def _mark_bad(number: int) -> str:
    return ' class="bad"' if number else ""
