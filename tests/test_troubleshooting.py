"""The page on troubleshooting has every sentence with which a command refuses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError

import migrations_playbook
from migrations_playbook.errors import PlaybookError

ENGINE = Path(migrations_playbook.__file__).parent
PAGE = ENGINE.parent / "docs" / "troubleshooting.md"
# So many words in a row of a sentence are on the page; the rest of it may be dots there.
ENOUGH = 4


def kinds(error: type[Exception]) -> Iterator[str]:
    yield error.__name__
    for each in error.__subclasses__():
        yield from kinds(each)


REFUSALS = {*kinds(PlaybookError), CommandError.__name__}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9_'=-]+", text.lower())


def fixed_parts(node: ast.expr) -> Iterator[str]:
    """What a message says whatever its names and numbers are."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        for each in node.values:
            yield from fixed_parts(each)
    elif isinstance(node, ast.BinOp):
        yield from fixed_parts(node.left)
        yield from fixed_parts(node.right)


def sentences() -> Iterator[tuple[str, list[str]]]:
    """Each refusal of the engine: where it is made, and its fixed parts."""
    for path in sorted(ENGINE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                parts = [*fixed_parts(node.args[0])] if name in REFUSALS else []
                if any(len(words(part)) >= ENOUGH for part in parts):
                    yield f"{path.relative_to(ENGINE)}:{node.lineno}", parts


SENTENCES = dict(sentences())


def test_there_are_sentences_to_look_for() -> None:
    assert len(SENTENCES) > 100


@pytest.mark.parametrize("place", SENTENCES)
def test_the_page_has_it(place: str) -> None:
    page = " ".join(words(PAGE.read_text()))
    said = [words(part) for part in SENTENCES[place]]
    runs = (
        " ".join(part[first : first + ENOUGH])
        for part in said
        for first in range(len(part) - ENOUGH + 1)
    )
    assert any(run in page for run in runs), SENTENCES[place]
