"""Draw the benchmarks' JSON, as the pictures of docs/benchmarks.md.

`python -m tests.benchmarks.plots docs/benchmarks.json docs/scale.json`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PICTURES = Path(__file__).resolve().parent.parent.parent / "docs" / "pictures"
OURS, THEIRS, INK, LINE = "#2563eb", "#94a3b8", "#1f2933", "#dc2626"


def bars(axes: Axes, title: str, values: dict[str, float], *, mark: float | None = None) -> None:
    """Horizontal bars, from the top down.

    Arguments:
        axes: where to draw.
        title: above them; says what is measured.
        values: by label, in their order.
        mark: where to draw a line across, such as the target.
    """
    usual = any(label.startswith("playbook") for label in values)
    colours = [THEIRS if usual and not label.startswith("playbook") else OURS for label in values]
    drawn = axes.barh(list(values), list(values.values()), color=colours, height=0.7)
    labels = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values.values()]
    axes.bar_label(drawn, labels, padding=4, color=INK)
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.xaxis.set_visible(False)
    axes.tick_params(left=False)
    if mark is not None:
        axes.axvline(mark, color=LINE, linestyle="--", linewidth=1)


def ways(measured: dict[str, Any]) -> dict[str, Figure]:
    """One picture for each thing that was measured of every way."""
    results = measured["results"]
    update = next(each["rate"] for each in results if each["way"] == "update")
    rows = f"{measured['about']['rows']:,} rows"
    rest = measured["about"]["p99_ms_at_rest"]
    found = {}
    for kind, title, values, mark in (
        (
            "rate",
            f"Rate over that of .update() of the whole table ({rows})",
            {each["way"]: each["rate"] / update for each in results},
            1.0,
        ),
        (
            "growth",
            "Heap at the end over the heap before",
            {each["way"]: each["heap_growth"] for each in results if each["heap_growth"]},
            1.0,
        ),
        (
            "hold",
            "Longest transaction that held rows, ms",
            {each["way"]: each["longest_hold_ms"] for each in results},
            None,
        ),
        (
            "p99",
            "p99 of a lookup beside it, ms (the line: at rest)",
            {each["way"]: each["p99_ms"] for each in results},
            rest,
        ),
    ):
        found[kind] = Figure(figsize=(9, 1 + 0.3 * len(values)), layout="constrained")
        bars(found[kind].subplots(), title, values, mark=mark)
    return found


def scale(measured: dict[str, Any]) -> dict[str, Figure]:
    """What changes with the table's size, and what does not."""
    results = measured["results"]
    sizes = [f"{each['rows']:,} rows" for each in results]
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (title, key, unit, mark) in zip(
        figure.subplots(2, 2).flat,
        (
            ("Rate over one UPDATE of the table", "rate_over_update", 1.0, 0.9),
            ("Peak memory, MB", "peak_bytes", 1e6, None),
            ("Swap's lock held, ms", "swap_hold_ms", 1.0, None),
            ("Heap and indexes, over before", "growth", 1.0, None),
        ),
        strict=True,
    ):
        values = {size: each[key] / unit for size, each in zip(sizes, results, strict=True)}
        bars(axes, title, values, mark=mark)
    return {"": figure}


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for argument in sys.argv[1:]:
        source = Path(argument)
        measured = json.loads(source.read_text())
        draw = scale if "swap_hold_ms" in measured["results"][0] else ways
        for kind, figure in draw(measured).items():
            path = PICTURES / ("-".join(filter(None, (source.stem, kind))) + ".svg")
            # Text stays text, and the same figures give the same file.
            with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": source.stem}):
                figure.savefig(path, format="svg", metadata={"Date": None})
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
