"""Make the pictures again: real commands on a real PostgreSQL, drawn as they looked.

    python docs/pictures.py [ROWS]

It starts a server of its own, gives it ROWS tickets (1000000), runs the commands on a terminal of
its own, interrupts the backfill half-way with a real SIGINT, and writes docs/pictures/*.svg.
"""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

# rich's own frame around the picture asks the network for a font; a page's own will do.
FONT = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)
MOVES = re.compile(r"\x1b\[(\d*)([A-Za-ln-z])|\x1b\[\?\d+[hl]|([\r\n])")
WIDTH = 112
HALF = 50  # percent


def main() -> None:
    """Play the whole job once, and draw it."""
    from app.embedded.server import Cluster  # noqa: PLC0415 - found through the path above

    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with (
        tempfile.TemporaryDirectory(prefix="pictures-") as folder,
        Cluster(Path(folder, "data")) as cluster,
    ):
        os.environ["DATABASE_URL"] = cluster.url()
        for quiet in (["migrate", "tickets", "0001"], ["seed_tickets", str(rows)], ["migrate"]):
            manage(*quiet)
        job = [
            manage("backfill_new_token", stop_when=half_way),
            manage("backfill_new_token"),
            manage("swap_token_columns"),
            manage("playbook_status"),
        ]
        draw("rotation", job)


def half_way(shown: str) -> bool:
    """Whether a progress line says that half of the rows are filled."""
    return any(int(percent) >= HALF for percent in re.findall(r"(\d+) ?%", shown))


def manage(*arguments: str, stop_when: Callable[[str], bool] | None = None) -> str:
    """Run `manage.py` on a terminal; return what stands on its screen in the end.

    Arguments:
        arguments: the command and its options.
        stop_when: given what was shown lately, says when to press Ctrl-C.
    """
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        shown += chunk
        if stop_when is not None and stop_when(chunk.decode(errors="ignore")):
            process.send_signal(signal.SIGINT)
            stop_when = None
    os.close(ours)
    if process.wait() not in (0, 128 + signal.SIGINT):
        sys.exit(f"manage.py {' '.join(arguments)} failed:\n{shown.decode()}")
    return f"\x1b[1m$ python manage.py {' '.join(arguments)}\x1b[0m\n{screen(shown.decode())}"


def screen(written: str) -> str:
    """What a terminal shows in the end, where lines were drawn over. Colours stay."""
    lines, row, end = [""], 0, 0
    for move in MOVES.finditer(written):
        lines[row] += written[end : move.start()]
        end = move.end()
        if move[3] == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif move[2] == "A":
            row = max(0, row - int(move[1] or 1))
        elif move[2] == "K":
            lines[row] = ""
    lines[row] += written[end:]
    return "\n".join(lines).rstrip()


def draw(name: str, screens: list[str]) -> None:
    """Write docs/pictures/<name>.svg."""
    from rich._export_format import CONSOLE_SVG_FORMAT  # noqa: PLC0415

    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for each in screens:
        text = Text.from_ansi(each)
        text.rstrip()
        console.print(text)
        console.print()
    target = PROJECT / "docs" / "pictures" / f"{name}.svg"
    target.parent.mkdir(exist_ok=True)
    picture = console.export_svg(title="manage.py", code_format=FONT.sub("", CONSOLE_SVG_FORMAT))
    target.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n")


if __name__ == "__main__":
    main()
