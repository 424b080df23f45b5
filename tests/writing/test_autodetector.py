"""A plain `makemigrations` writes what the playbook would, beside whatever else has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.database import Database
from tests.fixtures.dumps import with_columns_sorted
from tests.fixtures.project import BEFORE, DECLARED, SETTINGS, Project

NOTE = "    note = models.TextField(default='')\n"
ORDERS = ('"pgtrigger", "migrations_playbook"', '"migrations_playbook", "pgtrigger"')


def text_of(project: Project, number: int) -> str:
    (path,) = (project.folder / "shop" / "migrations").glob(f"{number:04d}_*.py")
    return path.read_text()


def begun(folder: Path, order: str = ORDERS[0]) -> Project:
    """A project with its first migration."""
    project = Project.make(folder)
    project.write("settings.py", SETTINGS.replace(ORDERS[0], order))
    project.manage(None, "makemigrations", "shop")
    return project


@pytest.mark.parametrize("order", ORDERS)
def test_whichever_app_comes_first_the_expand_is_under_the_lock_and_the_forget_of_the_state(
    tmp_path: Path, fresh: Database, order: str
) -> None:
    project = begun(tmp_path, order)
    project.write_models(DECLARED.replace("    new_code =", f"{NOTE}    new_code ="))
    project.manage(None, "makemigrations")
    expand = text_of(project, 2)
    under_the_lock = expand[expand.index("WithTableLock") :]
    assert expand.count("WithTableLock") == 1
    assert expand.count("AddField") == 2
    for part in ("new_code", "fill_new_code", "keep_new_code"):
        assert part in under_the_lock
    project.manage(fresh, "migrate")
    expanded = fresh.dump()
    project.write_models(BEFORE)
    project.manage(None, "makemigrations")
    forgotten = text_of(project, 3)
    assert forgotten.count("SeparateDatabaseAndState") == 1
    assert forgotten.count("RemoveTrigger") == 2
    project.manage(fresh, "migrate")
    assert "new_code" in fresh.dump()
    assert "note" not in fresh.dump()
    assert "note" in expanded
    project.manage(None, "makemigrations", "--check")


def test_a_table_that_is_made_with_its_shadow_needs_no_lock(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.write_models(DECLARED)
    project.manage(None, "makemigrations", "shop")
    assert "WithTableLock" not in text_of(project, 1)
    assert "fill_new_code" in text_of(project, 1)


def test_it_writes_what_the_playbook_writes(
    tmp_path: Path, declared: Project, fresh: Database
) -> None:
    project = begun(tmp_path)
    project.write_models(DECLARED)
    project.manage(None, "makemigrations")
    project.manage(fresh, "migrate")
    for other in Database.temporary():
        declared.manage(other, "migrate")
        assert with_columns_sorted(fresh.dump()) == with_columns_sorted(other.dump())


def test_other_triggers_and_fields_are_left_as_they_are(tmp_path: Path) -> None:
    project = begun(tmp_path)
    other = """
        triggers = [pgtrigger.Protect(name="protect", operation=pgtrigger.Delete)]
"""
    project.write_models(
        BEFORE.replace("from django", "import pgtrigger\nfrom django", 1)
        + NOTE
        + "\n    class Meta:"
        + other
    )
    project.manage(None, "makemigrations")
    project.write_models(BEFORE)
    project.manage(None, "makemigrations")
    for number in (2, 3):
        assert "WithTableLock" not in text_of(project, number)
        assert "SeparateDatabaseAndState" not in text_of(project, number)
