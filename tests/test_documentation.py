"""What the documentation shows is there: each command, option, name, target and module."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class

from migrations_playbook.management.commands.playbook import PLAYS

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
]
PYTHON = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"manage\.py ((?:[\w./=,*-]+ ?|\"[^\"`]*\" ?)+)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def samples(page: Path) -> Iterator[ast.Module]:
    """Parse each Python sample of a page."""
    for _, sample in PYTHON.findall(page.read_text()):
        yield ast.parse(textwrap.dedent(sample))


@every_page
def test_every_python_sample_takes_names_that_are_there_with_arguments_that_they_have(
    page: Path,
) -> None:
    for sample in samples(page):
        ours: dict[str, Any] = {}
        for node in ast.walk(sample):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("migrations_"):
                module = importlib.import_module(node.module or "")
                ours |= {
                    each.asname or each.name: getattr(module, each.name) for each in node.names
                }
        for call in (node for node in ast.walk(sample) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id in ours:
                inspect.signature(ours[call.func.id]).bind_partial(
                    *call.args, **{each.arg: each.value for each in call.keywords if each.arg}
                )


@every_page
def test_every_command_that_a_page_shows_is_there_with_its_options(page: Path) -> None:
    commands = get_commands()
    for shown in COMMAND.findall(page.read_text()):
        name, *words = shown.split()
        if name == "help":
            continue  # of Django's own, which no app has
        assert name in commands, f"{page.name} shows manage.py {name}"
        command = load_command_class(str(commands[name]), name)
        if name == "playbook" and words and words[0] not in ("PLAY", "..."):
            assert words[0] in PLAYS, f"{page.name} shows manage.py playbook {words[0]}"
            command = PLAYS[words[0]]()
        known = command.create_parser("manage.py", name)._option_string_actions
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert option in known, f"{page.name} shows manage.py {name} {option}"


@every_page
def test_every_target_and_module_that_a_page_names_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"[`$] ?make ([a-z-]+)", page.read_text()):
        assert target in targets, f"{page.name} names make {target}"
    for module in re.findall(r"python -m (tests[\w.]+)", page.read_text()):
        assert find_spec(module), f"{page.name} names {module}"


def test_every_page_has_its_place_in_the_site() -> None:
    contents = (PROJECT / "docs" / "_toc.yml").read_text()
    for page in PAGES:
        assert str(page.relative_to(PROJECT).with_suffix("")) in contents.split()
