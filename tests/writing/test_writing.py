"""From the declaration to the contract in somebody else's project, nothing written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.database import Database
from tests.fixtures.dumps import with_columns_sorted
from tests.fixtures.project import BEFORE, DECLARED, Project

VOUCHERS = "shop.Voucher.new_code"
CLEAN = ("makemigrations", "--check", "--dry-run")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.make(tmp_path)


@pytest.fixture
def fresh() -> Iterator[Database]:
    """A second database, with nothing in it."""
    yield from Database.temporary()


def begin(project: Project, database: Database, rows: int = 3) -> None:
    """Release N, with rows."""
    project.manage(database, "makemigrations", "shop")
    project.manage(database, "migrate")
    database.run(
        "INSERT INTO shop_voucher (code) "
        "SELECT left(md5(i::text), 16) FROM generate_series(1, %s) AS i",
        rows,
    )


def test_from_the_declaration_to_the_contract(
    project: Project, empty_database: Database, fresh: Database
) -> None:
    old = empty_database
    begin(project, old)
    before = old.dump()
    project.write_models(DECLARED)
    assert f"manage.py playbook expand {VOUCHERS}" in project.manage(old, "playbook", "status")
    assert "0002_expand_voucher_new_code.py" in project.manage(old, "playbook", "expand")
    project.manage(old, *CLEAN)
    assert "manage.py migrate" in project.manage(old, "playbook", "status")
    project.manage(old, "migrate")
    project.manage(old, "playbook", "backfill")
    project.manage(old, "playbook", "swap")
    assert f"manage.py playbook forget {VOUCHERS}" in project.manage(old, "playbook", "status")

    project.write_models(BEFORE)
    assert "0003_forget_voucher_new_code.py" in project.manage(old, "playbook", "forget")
    project.manage(old, *CLEAN)
    project.manage(old, "migrate")
    # No model declares it any more; the database still has the leaked values.
    (known,) = json.loads(project.manage(old, "playbook", "status", "--json"))
    assert (known["phase"], known["shadow"]) == ("swapped", "new_code")
    assert f"manage.py playbook contract {VOUCHERS}" in known["next"]
    assert "Verified 3 rows" in project.manage(old, "playbook", "swap", VOUCHERS, "--verify")

    assert "0004_contract_voucher_new_code.py" in project.manage(old, "playbook", "contract")
    project.manage(old, *CLEAN)
    assert "manage.py migrate" in project.manage(old, "playbook", "status")
    project.manage(old, "migrate")
    assert json.loads(project.manage(old, "playbook", "status", "--json")) == []

    project.manage(fresh, "migrate")
    assert with_columns_sorted(fresh.dump()) == with_columns_sorted(old.dump())
    # django-pgtrigger keeps one function for all its triggers, and never drops it.
    old.run("DROP FUNCTION _pgtrigger_should_ignore")
    assert with_columns_sorted(old.dump()) == with_columns_sorted(before)
