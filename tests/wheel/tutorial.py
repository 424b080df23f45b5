"""The tutorial as a script: its files are written, its commands are run, its outputs are compared.

What the page says and nothing else. A Python block is the file that the text before it has named
last, or the end of it ("At the end of `mysite/settings.py`"). A console block is commands, each
with what it prints.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(At the end of )?`([\w/]+\.py)`")
# Times, sizes and numbers of rows are another machine's.
NUMBER = re.compile(r"\d[\d.,]*")
# Seconds that a command of the tutorial may take.
PATIENCE = 120


@dataclass(frozen=True)
class File:
    """A file to write.

    Arguments:
        path: where, in the project's folder.
        text: what is in it, or what is added at its end.
        at_the_end: whether the file is there already.
    """

    path: str
    text: str
    at_the_end: bool


@dataclass(frozen=True)
class Command:
    """A command to run.

    Arguments:
        line: what is typed.
        output: the lines that the page shows; one may be cut off with "...", and the command may
            print more of them.
    """

    line: str
    output: tuple[str, ...]


def read_tutorial(page: Path) -> Iterator[File | Command]:
    """Yield the steps of a page, in order.

    Arguments:
        page: a Markdown file.
    """
    # Alternately what is said, a block's language, and the block.
    said, *blocks = BLOCK.split(page.read_text())
    for language, text, then in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
        if language == "console":
            yield from read_commands(text)
        else:
            at_the_end, path = FILE.findall(said)[-1]
            yield File(path, text, bool(at_the_end))
        said += then


def read_commands(text: str) -> Iterator[Command]:
    """Yield the commands of a console block, each with the lines beneath it."""
    for each in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, *output = each.rstrip("\n").split("\n")
        yield Command(line, tuple(output))


def write_file(folder: Path, file: File) -> None:
    """Write a file of the tutorial into the project's folder."""
    path = folder / file.path
    before = path.read_text() if file.at_the_end else ""
    path.write_text(before + file.text)


def run_command(folder: Path, command: Command, environment: dict[str, str]) -> None:
    """Run a command of the tutorial, and compare what it prints.

    Arguments:
        folder: the project.
        command: what is typed, and what the page shows beneath it.
        environment: of the process.

    Raises:
        AssertionError: a command fails that should not, or a line of the page is not printed.
    """
    done = subprocess.run(
        ["/bin/bash", "-c", command.line],
        cwd=folder,
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
    )
    expected_to_fail = any(line.startswith("CommandError") for line in command.output)
    assert bool(done.returncode) is expected_to_fail, f"$ {command.line}\n{done.stdout}"
    printed = [without_numbers(line) for line in done.stdout.splitlines()]
    for line in command.output:
        shown = without_numbers(line.removesuffix("..."))
        whole = not line.endswith("...")
        assert any(each == shown or (not whole and each.startswith(shown)) for each in printed), (
            f"$ {command.line}\ndoes not print\n{line}\nbut\n{done.stdout}"
        )


def without_numbers(line: str) -> str:
    """Return a line with its numbers, and the room that they take in a table, made alike."""
    return re.sub(r"[\s─]+", " ", NUMBER.sub("0", line)).strip()
