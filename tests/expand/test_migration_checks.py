"""Migrations that would stop the site, found by `manage.py check` before anybody runs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.test import override_settings

Write = Callable[[str], list[str]]

FIRST = """
from django.db import migrations, models
from migrations_playbook.operations import ContractShadow, EnsureSwapped, WithTableLock

ADDED = migrations.AddField("ticket", "new_token", models.UUIDField(null=True))

class Migration(migrations.Migration):
    dependencies = []
"""


@pytest.fixture
def errors_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """What the checks say of the tickets' migrations, when this is the only one."""
    package = f"written_{tmp_path.name}".replace("-", "_")
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(body: str) -> list[str]:
        (folder / "0002_written.py").write_text(FIRST + body)
        with override_settings(MIGRATION_MODULES={"tickets": package}):
            found = [each for each in run_checks() if str(each.id) > "playbook.E029"]
        for name in [each for each in sys.modules if each.startswith(package)]:
            del sys.modules[name]
        return [f"{each.id}: {each.msg} {each.hint}" for each in found]

    return write


def test_a_plain_add_field_of_a_declared_shadow_is_found(errors_of: Write) -> None:
    (error,) = errors_of("    operations = [ADDED]")
    assert error.startswith(
        "playbook.E031: Migration tickets.0002_written adds new_token without a bounded lock"
    )
    assert 'Delete it and run "manage.py playbook expand tickets.Ticket.new_token"' in error
    assert 'migrations_playbook.operations.WithTableLock(model_name="ticket"' in error


@pytest.mark.parametrize(
    "operations",
    [
        '[WithTableLock("ticket", [ADDED])]',
        '[migrations.SeparateDatabaseAndState([WithTableLock("ticket", [ADDED])])]',
        "[migrations.SeparateDatabaseAndState([], [ADDED])]",
        '[migrations.CreateModel("Ticket", []), ADDED]',
        '[migrations.AddField("ticket", "other", models.UUIDField(null=True))]',
        "[migrations.RunPython(migrations.RunPython.noop)]",
    ],
)
def test_what_stops_nobody_is_not_complained_of(operations: str, errors_of: Write) -> None:
    assert errors_of(f"    operations = {operations}") == []


def test_a_plain_add_field_is_found_inside_other_operations(errors_of: Write) -> None:
    (error,) = errors_of("    operations = [migrations.SeparateDatabaseAndState([ADDED])]")
    assert error.startswith("playbook.E031")


@pytest.mark.parametrize(
    "operation",
    [
        'WithTableLock("ticket", [ADDED])',
        'migrations.SeparateDatabaseAndState([WithTableLock("ticket", [ADDED])])',
        (
            'ContractShadow("ticket", live="token", shadow="new_token", '
            "field=models.UUIDField(null=True), triggers=[])"
        ),
    ],
)
def test_ours_without_a_transaction_is_found(operation: str, errors_of: Write) -> None:
    (error,) = errors_of(f"    atomic = False\n    operations = [{operation}]")
    assert error.startswith("playbook.E030: Migration tickets.0002_written has atomic = False")
    assert "Take atomic = False out of it" in error


ENSURE = 'EnsureSwapped("ticket", live="token", shadow="new_token")'


def test_what_commits_as_it_goes_on_needs_to_be_without_one(errors_of: Write) -> None:
    assert errors_of(f"    atomic = False\n    operations = [{ENSURE}]") == []
    (error,) = errors_of(f"    operations = [{ENSURE}]")
    assert error.startswith("playbook.E032: Migration tickets.0002_written is one transaction")


def test_others_may_be_without_a_transaction(errors_of: Write) -> None:
    ensured = 'EnsureSwapped("ticket", live="token", shadow="new_token")'
    for operation in ('migrations.RunSQL("SELECT 1")', ensured):
        assert errors_of(f"    atomic = False\n    operations = [{operation}]") == []


@pytest.mark.parametrize("body", ["    operations = [", "    operations = [absent]", "raise 1"])
def test_a_migration_that_cannot_be_read_is_djangos_to_complain_of(
    body: str, errors_of: Write
) -> None:
    assert errors_of(body) == []
