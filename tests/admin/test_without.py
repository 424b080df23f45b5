"""What the page asks of a project: an admin, or nothing; and what it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command

from migrations_playbook.models import Playbook
from tests.fixtures.database import PROJECT, Database

# The project's settings with these apps taken away, and what is loaded of the page then.
LOADED = """
import json, sys
from django.conf import settings
from app import settings as usual

urlpatterns = []
without = set(sys.argv[1:])
given = {name: getattr(usual, name) for name in dir(usual) if name.isupper()}
apps = [each for each in usual.INSTALLED_APPS if each not in without]
settings.configure(**given | {"INSTALLED_APPS": apps, "ROOT_URLCONF": "__main__"})

import django
django.setup()
from django.apps import apps
from django.urls import get_resolver

from migrations_playbook import operations, status
from migrations_playbook.management.commands import playbook
from django.core.management import call_command

call_command("check")
print(json.dumps({
    "admin": sorted(name for name in sys.modules if "playbook.admin" in name),
    "contrib": "django.contrib.admin" in sys.modules,
    "models": [each.__name__ for each in apps.get_app_config("migrations_playbook").get_models()],
}))
"""


def loaded(*without: str) -> dict[str, object]:
    """What a process without these apps has loaded of the page."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADED, *without],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_without_the_admin_nothing_of_the_page_is_loaded() -> None:
    assert loaded("django.contrib.admin", "django.contrib.auth", "tickets") == {
        "admin": [],
        "contrib": False,
        "models": [],
    }


def test_with_the_admin_the_page_is_there() -> None:
    found = loaded()
    assert found["models"] == ["Playbook"]
    assert "migrations_playbook.admin.pages" in str(found["admin"])


def test_the_page_needs_no_table_and_no_migration(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("makemigrations", check=True, dry_run=True)
    assert "No changes detected" in capsys.readouterr().out
    assert database.value("SELECT to_regclass(%s)", Playbook._meta.db_table) is None


def test_migrate_makes_its_four_permissions(database: Database) -> None:
    found = Permission.objects.filter(content_type__app_label="migrations_playbook")
    assert sorted(found.values_list("codename", flat=True)) == [
        "pause_playbook",
        "resume_playbook",
        "retune_playbook",
        "view_playbook",
    ]


@pytest.mark.parametrize("options", [{}, {"use_base_manager": True}])
def test_a_dump_of_the_whole_project_looks_for_no_table(
    database: Database, options: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("dumpdata", **options)
    assert "migrations_playbook.playbook" not in capsys.readouterr().out.split('"fields"')[0]
