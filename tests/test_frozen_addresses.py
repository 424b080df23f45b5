"""Applied migrations name the operations and the trigger SQL: these addresses never change."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module

import pytest
from django.db import migrations, models
from django.db.migrations.operations.base import Operation
from django.db.migrations.writer import MigrationWriter
from django.db.models import Func
from pgtrigger import compiler
from pgtrigger.migrations import AddTrigger

from migrations_playbook import RandomHexUUID, RandomText, operations
from migrations_playbook.operations import (
    ContractShadow,
    DropGroup,
    DropShadow,
    EnsureSwapped,
    SquashedExpand,
    WithTableLock,
)
from migrations_playbook.trigger_sql import PinnedTriggerSql, SyncTriggerSql

TRIGGER = compiler.Trigger(
    name="fill_new_code",
    sql=PinnedTriggerSql(
        func="RETURN NEW;", hash="0", operation="INSERT", pgid="x", table="t", when="BEFORE"
    ),
)
OPERATIONS = (
    WithTableLock(
        model_name="voucher",
        operations=[
            migrations.AddField("voucher", "new_code", models.TextField(null=True)),
        ],
    ),
    ContractShadow(
        model_name="voucher",
        live="code",
        shadow="new_code",
        field=models.TextField(null=True),
        triggers=[TRIGGER],
    ),
    DropShadow(model_name="voucher", live="code", shadow="new_code"),
    DropGroup(model_name="voucher", columns={"code": "new_code", "mark": "new_mark"}),
    EnsureSwapped(model_name="voucher", live="code", shadow="new_code", up_to=100),
    SquashedExpand(
        model_name="voucher",
        operations=[
            WithTableLock(
                "voucher", [migrations.AddField("voucher", "new_code", models.TextField(null=True))]
            ),
            migrations.SeparateDatabaseAndState(
                state_operations=[migrations.RemoveField("voucher", "new_code")]
            ),
        ],
    ),
)
APPLIED = (
    "tickets.migrations.0002_expand_new_token",
    "tickets.migrations.0003_renew_triggers",
    "tests.releases.n3.migrations.0005_contract_new_token",
)


def written(*operations: Operation) -> str:
    migration = type("Migration", (migrations.Migration,), {"operations": list(operations)})
    return MigrationWriter(migration("0001_initial", "vouchers"), include_header=False).as_string()


def operations_in(source: str) -> str:
    """Return the expression that a migration's `operations` are, whatever its layout."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "operations":
            return ast.unparse(node.value)
    raise AssertionError("the migration has no operations")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: type(operation).__name__)
def test_an_operation_is_written_with_the_address_that_applied_migrations_have(
    operation: Operation,
) -> None:
    source = written(operation)
    assert "import migrations_playbook.operations\n" in source
    assert f" migrations_playbook.operations.{type(operation).__name__}(\n" in source


def test_every_operation_that_migrations_may_name_is_among_these() -> None:
    assert {type(each).__name__ for each in OPERATIONS} == set(operations.__all__)


@pytest.mark.parametrize("value", [RandomText(16), RandomHexUUID()], ids=repr)
def test_a_value_is_written_with_the_address_that_applied_migrations_have(value: Func) -> None:
    field = models.CharField(max_length=32, db_default=value)
    source = written(migrations.AddField("voucher", "code", field))
    assert f"db_default=migrations_playbook.values.{type(value).__name__}(" in source


@pytest.mark.parametrize("kind", [PinnedTriggerSql, SyncTriggerSql])
def test_the_trigger_sql_is_written_with_the_address_that_applied_migrations_have(
    kind: type[PinnedTriggerSql],
) -> None:
    trigger = compiler.Trigger(name="fill_new_code", sql=kind(**TRIGGER.sql.kwargs))
    source = written(AddTrigger("voucher", trigger))
    assert "import migrations_playbook.trigger_sql\n" in source
    assert f"sql=migrations_playbook.trigger_sql.{kind.__name__}(" in source


@pytest.mark.parametrize("module", APPLIED)
def test_an_applied_migration_loads_and_is_written_again_as_it_stands(module: str) -> None:
    applied = import_module(module)
    again = written(*applied.Migration.operations)
    assert operations_in(again) == operations_in(inspect.getsource(applied))
