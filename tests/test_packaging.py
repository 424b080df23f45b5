"""What the package asks for, and what it says of itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.fixtures.database import PROJECT

PACKAGE = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
CORE = {each.name: each for each in map(Requirement, PACKAGE["dependencies"])}
DEMO = {
    each.name: each
    for each in map(
        Requirement,
        re.findall(r"^[^#\n].*", (PROJECT / "requirements.txt").read_text(), re.MULTILINE),
    )
}
PAGES = sorted(
    path
    for path in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"))
    if path.name != "CHANGELOG.md"
)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#([^)]*))?\)")


def test_a_web_server_gets_four_packages_and_no_more() -> None:
    assert set(CORE) == {"Django", "django-pgtrigger", "psycopg", "rich"}
    assert not any(each.extras for each in CORE.values())


@pytest.mark.parametrize("name", CORE)
def test_the_demo_runs_on_versions_that_the_package_allows(name: str) -> None:
    bounds = {str(each) for each in CORE[name].specifier}
    assert bounds <= {str(each) for each in DEMO[name].specifier}


@pytest.mark.parametrize("name", ["matplotlib"])
def test_an_extra_has_the_bounds_that_the_demo_is_run_with(name: str) -> None:
    extras = {
        each.name: each
        for group in PACKAGE["optional-dependencies"].values()
        for each in map(Requirement, group)
    }
    assert extras[name].specifier == DEMO[name].specifier


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        path = page.parent / target
        assert path.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(path.read_text()), f"{target} has no heading {anchor}"


def anchors(text: str) -> set[str]:
    """Return the address of each heading of a page, as GitHub and MyST make it."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).strip().replace(" ", "-") for each in headings}
