"""Draw a benchmark's JSON as bars, and write the page that shows them.

    python -m tests.benchmarks.plots docs/benchmarks.json [more.json ...]

Plain SVG, drawn here: a page needs no more, and the project no plotting library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
WIDTH, LEFT, BAR, GAP = 760, 260, 18, 8


def bars(title: str, values: dict[str, float], *, unit: str = "", mark: float | None = None) -> str:
    """Horizontal bars.

    Arguments:
        title: above them; says what is measured.
        values: by label, in their order.
        unit: behind each number.
        mark: where to draw a line across, such as the target.
    """
    top = 44
    height = top + len(values) * (BAR + GAP) + 8
    most = max([*values.values(), mark or 0.0]) or 1.0
    room = WIDTH - LEFT - 90
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            'font-family="system-ui, sans-serif" font-size="13">'
        ),
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for number, (label, value) in enumerate(values.items()):
        y = top + number * (BAR + GAP)
        colour = "#2563eb" if label.startswith("playbook") else "#94a3b8"
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>',
            (
                f'<rect x="{LEFT}" y="{y}" width="{max(room * value / most, 1):.1f}" '
                f'height="{BAR}" fill="{colour}"/>'
            ),
            (
                f'<text x="{LEFT + room * value / most + 6:.1f}" y="{y + 14}">'
                f"{value:,.3g}{unit}</text>"
            ),
        ]
    if mark is not None:
        x = LEFT + room * mark / most
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{height}" stroke="#dc2626" '
            'stroke-dasharray="4 3"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def draw(measured: dict[str, Any], name: str) -> list[Path]:
    """Write the pictures of one run; return where they are."""
    results = measured["results"]
    update = next(each["rate"] for each in results if each["way"] == "update")
    rows = f"{measured['about']['rows']:,} rows"
    pictures = {
        "rate": bars(
            f"Rate, as a ratio to .update() of the whole table ({rows})",
            {each["way"]: each["rate"] / update for each in results},
            mark=1.0,
        ),
        "growth": bars(
            f"Heap at the end, as a ratio to the heap before ({rows})",
            {each["way"]: each["heap_growth"] for each in results if each["heap_growth"]},
            mark=1.0,
        ),
        "hold": bars(
            f"Longest transaction that holds rows ({rows})",
            {each["way"]: each["longest_hold_ms"] for each in results},
            unit=" ms",
        ),
        "p99": bars(
            f"p99 of a lookup beside it ({rows}; the line: at rest)",
            {each["way"]: each["p99_ms"] for each in results},
            unit=" ms",
            mark=measured["about"]["p99_ms_at_rest"],
        ),
    }
    folder = DOCS / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, picture in pictures.items():
        path = folder / f"{name}-{kind}.svg"
        path.write_text(picture)
        paths.append(path)
    return paths


def main() -> None:
    for argument in sys.argv[1:]:
        source = Path(argument)
        for path in draw(json.loads(source.read_text()), source.stem):
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
