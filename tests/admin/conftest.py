"""The page begins anew with each test: what a process remembers is of another database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connections

from tests.fixtures.database import Database


@pytest.fixture(autouse=True)
def forgetful() -> None:
    """Forget what the last test's page has seen."""
    # Imported late: a conftest is loaded before Django is set up.
    from migrations_playbook.admin.sight import forget_watches  # noqa: PLC0415

    forget_watches()


@pytest.fixture
def other(database: Database, template: str) -> Iterator[Database]:
    """A second migrated database, as the alias "other"; "default" is the test's own."""
    usual = connections["default"].settings_dict
    name = usual["NAME"]
    for second in Database.temporary(template=template):
        connections.settings["other"] = {**usual, "NAME": second.name}
        usual["NAME"] = name
        try:
            yield second
        finally:
            connections["other"].close()
            del connections["other"], connections.settings["other"]
