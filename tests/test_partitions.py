"""Partitioned tables: what a table has, what a partition has of its own, and what comes and goes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, models

from migrations_playbook import catalog, contract
from migrations_playbook.catalog import Phase
from migrations_playbook.proof import Verified
from migrations_playbook.shadow import BoundShadow
from migrations_playbook.swap import swap, verify
from tests.fixtures.database import Database
from tests.fixtures.releases import with_columns_sorted
from tests.models_partitioned import STATEMENTS, Hashes, Levels, Ranges, expand
from tests.models_zoo import fill

APP = "partitions_app"
shapes = pytest.mark.parametrize("model", STATEMENTS, ids=lambda model: model.__name__)


@pytest.fixture
def app(database: Database) -> Iterator[Database]:
    database.run(f"CREATE ROLE {APP}")
    yield database
    database.run(f"DROP OWNED BY {APP} CASCADE")
    database.run(f"DROP ROLE {APP}")


def tokens(model: type[models.Model]) -> set[Any]:
    return set(model._default_manager.values_list("token", flat=True))


def play(bound: BoundShadow, *, revert: bool = False) -> Verified:
    """Swap to the end; the proof."""
    last = list(swap(bound, using="default", revert=revert))[-1]
    assert isinstance(last, Verified)
    return last


@shapes
def test_a_partitioned_table_is_swapped_and_reverted_and_swapped_again(
    model: type[models.Model], database: Database
) -> None:
    bound = expand(database, model)
    leaked = tokens(model)
    fill(bound)
    before = database.dump()
    for _ in range(2):
        assert play(bound).passed
        assert catalog.state(connection, bound).phase is Phase.SWAPPED
        assert len(tokens(model)) == 90
        assert not tokens(model) & leaked
        assert play(bound, revert=True).passed
        assert tokens(model) == leaked
        assert database.dump() == before
