"""A model of an installed package, rotated by the page docs/howto-foreign-models.md alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.database import PROJECT, Database
from tests.fixtures.dumps import with_columns_sorted
from tests.fixtures.project import SETTINGS, Project

PAGE = (PROJECT / "docs" / "howto-foreign-models.md").read_text()
INVITATIONS = "invitations.Invitation.new_key"
# What django-invitations needs in a project's settings, with a drift that is none of ours.
NEEDED = """
INSTALLED_APPS += [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sites",
    "invitations",
]
SITE_ID = 1
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
"""


def block(heading: str) -> str:
    """The first block of Python beneath a heading of the page."""
    after = PAGE.split(f"## {heading}\n")[1]
    return after.split("```python\n")[1].split("```")[0]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.make(tmp_path)
    project.write("settings.py", SETTINGS + NEEDED)
    return project


def follow_the_page(project: Project) -> None:
    """Declare the shadow as the page says, in the app `shop`."""
    project.write("shop/apps.py", block("Declare it from an app of yours"))
    project.write("shop/invitations_migrations/__init__.py", block("Keep the migrations in yours"))
    project.write(
        "settings.py",
        SETTINGS + NEEDED + block("Name the package in the settings"),
    )


def test_from_the_page_to_the_contract(
    project: Project, empty_database: Database, fresh: Database
) -> None:
    old = empty_database
    project.manage(old, "migrate")
    old.run(
        "INSERT INTO invitations_invitation (email, accepted, created, key) "
        "SELECT i || '@example.org', false, now(), md5(i::text) FROM generate_series(1, 20) AS i"
    )
    before = old.dump()
    follow_the_page(project)
    assert "shop/invitations_migrations" in project.manage(old, "playbook", "expand")
    project.manage(old, "makemigrations", "invitations", "--check", "--dry-run")
    project.manage(old, "migrate")
    project.manage(old, "playbook", "backfill")
    project.manage(old, "playbook", "swap")
    leaked = (
        "SELECT count(*) FROM invitations_invitation WHERE key = md5(split_part(email, '@', 1))"
    )
    assert old.value(leaked) == 0
    assert old.value("SELECT min(length(key)) FROM invitations_invitation") == 64

    project.write("shop/apps.py", "")
    assert "shop/invitations_migrations" in project.manage(old, "playbook", "forget")
    project.manage(old, "migrate")
    assert INVITATIONS in project.manage(old, "playbook", "status")
    project.play(old, "contract")
    assert old.value(leaked) == 0
    old.run("DROP FUNCTION _pgtrigger_should_ignore")
    assert with_columns_sorted(old.dump()) == with_columns_sorted(before)
    project.manage(fresh, "migrate")


def test_without_a_package_of_ones_own_nothing_is_written_into_theirs(project: Project) -> None:
    project.write("shop/apps.py", block("Declare it from an app of yours"))
    code, complaint = project.refusal(None, "playbook", "expand")
    assert (code, complaint.count("\n")) == (1, 1)
    assert 'MIGRATION_MODULES = {"invitations": ' in complaint


@pytest.mark.parametrize(
    ("live", "said"),
    [("kode", "has no such field"), ("id", "is the primary key")],
)
def test_a_field_that_cannot_be_shadowed_is_said_by_the_check(
    project: Project, live: str, said: str
) -> None:
    declared = block("Declare it from an app of yours").replace('live="key"', f'live="{live}"')
    project.write("shop/apps.py", declared)
    for command in (["check"], ["playbook", "expand"]):
        _, complaint = project.refusal(None, *command)
        assert said in complaint
