"""A project with the migrations of every release, and a database of its first one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.database import Database
from tests.fixtures.project import BEFORE, DECLARED, Project


@pytest.fixture(scope="session")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Release N+1: the shadow is declared, and its expand is written."""
    project = Project.make(tmp_path_factory.mktemp("declared"))
    project.manage(None, "makemigrations", "shop")
    project.write_models(DECLARED)
    project.manage(None, "playbook", "expand")
    return project


@pytest.fixture(scope="session")
def contracted(declared: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Release N+3: the models have forgotten the shadow, and the contract is written."""
    project = declared.copy(tmp_path_factory.mktemp("contracted") / "project")
    project.write_models(BEFORE)
    project.manage(None, "playbook", "forget")
    project.manage(None, "playbook", "contract")
    return project


@pytest.fixture
def old(contracted: Project) -> Iterator[Database]:
    """A database of release N, with three rows."""
    for database in Database.temporary():
        contracted.manage(database, "migrate", "shop", "0001")
        database.run(
            "INSERT INTO shop_voucher (code) "
            "SELECT left(md5(i::text), 16) FROM generate_series(1, 3) AS i"
        )
        yield database
