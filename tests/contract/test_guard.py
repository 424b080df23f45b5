"""A habit must not hurt: a bare RemoveField of a shadow column is stopped before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pgtrigger.migrations
import pytest
from django.apps import AppConfig
from django.core.management import CommandError, call_command
from django.db import connection, migrations
from django.db.backends.postgresql.schema import DatabaseSchemaEditor
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ModelState, ProjectState
from django.db.models.signals import pre_migrate

from migrations_playbook.contract.guard import refuse_bare_removals
from migrations_playbook.expand.table_lock import WithTableLock
from tests.fixtures.database import Database
from tests.fixtures.models_zoo import UUIDS, Quoted, expand
from tests.fixtures.tickets import Phase, add_old_tickets, bring_to

REMOVAL = migrations.RemoveField("ticket", "new_token")
# What makemigrations writes when the field and the triggers are gone from the model.
HABIT: list[Operation] = [
    pgtrigger.migrations.RemoveTrigger("ticket", "fill_new_token"),
    pgtrigger.migrations.RemoveTrigger("ticket", "keep_new_token"),
    REMOVAL,
]


DROP = "ALTER TABLE %(table)s DROP COLUMN %(column)s"


def migrate_with(monkeypatch: pytest.MonkeyPatch, operations: Sequence[Operation]) -> None:
    """Run `migrate` with one more migration of the app."""
    further = type(
        "Migration",
        (migrations.Migration,),
        {"dependencies": [("tickets", "0003_renew_triggers")], "operations": operations},
    )("0004_remove", "tickets")
    original = MigrationExecutor.__init__

    def with_further(self: MigrationExecutor, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.loader.disk_migrations["tickets", further.name] = further
        graph = self.loader.graph
        graph.add_node(("tickets", further.name), further)
        graph.add_dependency(further, ("tickets", further.name), ("tickets", "0003_renew_triggers"))

    with monkeypatch.context() as patch:
        patch.setattr(MigrationExecutor, "__init__", with_further)
        call_command("migrate", verbosity=0)


def has_column(database: Database) -> bool:
    return bool(
        database.value(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 'tickets_ticket'::regclass "
            "AND attname = 'new_token'"
        )
    )


@pytest.mark.parametrize("phase", ["expanded", "filled", "reverted"])
@pytest.mark.parametrize(
    "operations",
    [
        HABIT,
        [WithTableLock("ticket", HABIT)],
        [migrations.SeparateDatabaseAndState(HABIT, HABIT)],
        [migrations.SeparateDatabaseAndState([WithTableLock("ticket", [REMOVAL])], HABIT)],
    ],
    ids=["bare", "under a lock", "separated", "nested twice"],
)
def test_the_habit_is_stopped_before_the_swap(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    phase: Phase,
    operations: list[Operation],
) -> None:
    add_old_tickets(database, 3)
    bring_to(phase)
    before = database.dump()
    with pytest.raises(CommandError) as caught:
        migrate_with(monkeypatch, operations)
    assert str(caught.value) == (
        'Migration tickets.0004_remove drops "public.tickets_ticket.new_token", which holds the '
        "fresh values: the columns are not swapped, so the leaked ones would stay. Delete "
        'that migration and run "manage.py playbook forget tickets.Ticket.new_token" instead, '
        "after the swap; nothing was changed."
    )
    assert database.dump() == before


def test_after_the_swap_it_may_run_where_django_drops_what_is_bound_to_a_column(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DatabaseSchemaEditor, "sql_delete_column", DROP + " CASCADE")
    add_old_tickets(database, 3)
    bring_to("swapped")
    migrate_with(monkeypatch, HABIT)
    assert not has_column(database)


def test_after_the_swap_it_is_stopped_where_django_does_not(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As since Django 6.1: PostgreSQL would refuse, because of the quarantine."""
    monkeypatch.setattr(DatabaseSchemaEditor, "sql_delete_column", DROP)
    add_old_tickets(database, 3)
    bring_to("swapped")
    before = database.dump()
    with pytest.raises(CommandError) as caught:
        migrate_with(monkeypatch, HABIT)
    assert str(caught.value) == (
        'Migration tickets.0004_remove drops "public.tickets_ticket.new_token", to which the '
        "quarantine is bound, and this Django drops no column with what is bound to it. Delete "
        'that migration and run "manage.py playbook forget tickets.Ticket.new_token" instead; '
        "nothing was changed."
    )
    assert database.dump() == before


def test_an_empty_table_has_nothing_to_lose(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate_with(monkeypatch, HABIT)
    assert not has_column(database)


def test_a_fresh_database_is_migrated_straight_through(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate_with(monkeypatch, HABIT)
    assert not has_column(empty_database)


def test_what_leaves_the_state_alone_is_none_of_its_business(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_old_tickets(database, 3)
    migrate_with(monkeypatch, [migrations.SeparateDatabaseAndState([], HABIT)])
    assert has_column(database)


def test_other_columns_go_as_ever(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    add_old_tickets(database, 3)
    migrate_with(monkeypatch, [migrations.RemoveField("ticket", "redeemed_at")])
    assert has_column(database)
    connection.close()


def test_a_quoted_column_is_known_by_its_name(database: Database) -> None:
    expand(Quoted, UUIDS)
    Quoted._default_manager.create()
    state = ProjectState()
    state.add_model(ModelState.from_model(Quoted))
    removal = migrations.RemoveField("quoted", "new_token")
    further = type("Migration", (migrations.Migration,), {"operations": [removal]})("0002", "zoo")
    with pytest.raises(CommandError, match="which holds the fresh values"):
        refuse_bare_removals(
            AppConfig("zoo", sys.modules[__name__]),
            using="default",
            plan=[(further, False)],
            apps=state.apps,
        )


def test_it_is_connected_once() -> None:
    assert pre_migrate.has_listeners()
