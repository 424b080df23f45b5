"""What a replacement under way is bound to is not renamed, retyped or moved by a migration."""

from __future__ import annotations

import pytest
from django.core.management import CommandError
from django.db import migrations, models
from django.db.migrations.operations.base import Operation

from migrations_playbook.operations import WithTableLock
from tests.contract.test_guard import migrate_with
from tests.fixtures.database import Database
from tests.fixtures.tickets import Phase, bring_to
from tickets.models import Ticket

RENAME = migrations.RenameField("ticket", "token", "secret")
CHANGES: dict[str, list[Operation]] = {
    "a rename of the live field": [RENAME],
    "a rename of the shadow": [migrations.RenameField("ticket", "new_token", "fresh")],
    "a rename under a lock": [WithTableLock("ticket", [RENAME])],
    "another type": [migrations.AlterField("ticket", "token", models.TextField(unique=True))],
    "another table": [migrations.AlterModelTable("ticket", "vouchers")],
    "another schema": [migrations.AlterModelTable("ticket", 'other"."tickets_ticket')],
}


@pytest.mark.parametrize("phase", ["expanded", "swapped"])
@pytest.mark.parametrize("what", CHANGES)
def test_it_is_stopped_before_it_runs(
    database: Database, monkeypatch: pytest.MonkeyPatch, what: str, phase: Phase
) -> None:
    Ticket.objects.create()
    bring_to(phase)
    before = database.dump()
    with pytest.raises(CommandError, match=r"Finish it first, to its contract") as caught:
        migrate_with(monkeypatch, CHANGES[what])
    assert '"public.tickets_ticket' in str(caught.value)
    assert database.dump() == before


def test_what_the_database_need_not_be_told_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = models.UUIDField(unique=True, editable=False, help_text="a secret")
    migrate_with(monkeypatch, [migrations.AlterField("ticket", "token", field)])


def test_another_column_is_none_of_its_business(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate_with(monkeypatch, [migrations.RenameField("ticket", "redeemed_at", "used_at")])
    assert database.value("SELECT count(used_at) FROM tickets_ticket") == 0
