"""The four releases follow from the migrations."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import override_settings

from migrations_playbook.errors import PlaybookError
from migrations_playbook.rehearsal.states import Release, ReleaseStates
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database

OLD, BOTH = {"id", "token", "redeemed_at"}, {"id", "token", "redeemed_at", "new_token"}


def read_states() -> ReleaseStates:
    return ReleaseStates(connection, find_replacement("tickets.Ticket", "new_token"))


@pytest.mark.parametrize(
    ("release", "fields"), [("N", OLD), ("N+1", BOTH), ("N+2", OLD), ("N+3", OLD)]
)
def test_each_release_knows_the_columns_of_its_state(
    database: Database, release: Release, fields: set[str]
) -> None:
    model = read_states().read_model(release)
    assert {field.name for field in model._meta.get_fields()} == fields


def test_release_n_has_every_migration_but_the_expand(empty_database: Database) -> None:
    states = read_states()
    before = dict(states.before())
    assert states.expand == ("tickets", "0002_expand_new_token")
    assert before["tickets"] == "0001_initial"
    assert {"admin", "sessions"} <= before.keys()
    assert states.has_more  # 0003 renews the triggers


@pytest.mark.parametrize(
    "migrations", ["tests.releases.n.migrations", "tests.releases.n3.migrations"]
)
def test_a_column_without_an_expand_is_refused(database: Database, migrations: str) -> None:
    with (
        override_settings(MIGRATION_MODULES={"tickets": migrations}),
        pytest.raises(PlaybookError) as refused,
    ):
        read_states()
    assert str(refused.value) == (
        "By its migrations tickets.Ticket has no 'new_token', so there is nothing to rehearse yet. "
        'Run "manage.py playbook expand tickets.Ticket.new_token" first.'
    )


def test_a_column_that_comes_with_its_table_is_refused(database: Database) -> None:
    with (
        override_settings(MIGRATION_MODULES={"tickets": "tests.rehearsal.squashed.migrations"}),
        pytest.raises(PlaybookError) as refused,
    ):
        read_states()
    assert str(refused.value) == (
        "The migration that adds 'new_token' makes the table of tickets.Ticket too, so there is no "
        "release before it. Rehearse with the migrations as they were before they were squashed."
    )


def test_migrations_that_swap_by_themselves_are_refused(database: Database) -> None:
    with (
        override_settings(MIGRATION_MODULES={"tickets": "tests.rehearsal.ensured.migrations"}),
        pytest.raises(PlaybookError) as refused,
    ):
        read_states()
    assert str(refused.value) == (
        "The migration tickets.0003_ensure_swapped fills and swaps tickets.Ticket by itself "
        "(EnsureSwapped), so nothing would be left to rehearse. Rehearse without that migration."
    )
