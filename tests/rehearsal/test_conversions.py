"""A column of another type and a column of another name are rehearsed with four releases each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.fixtures.database import Database
from tests.fixtures.project import Project
from tests.rehearsal.forked import FORKED_COMMANDS

BEFORE = """
from django.db import models
from django.db.models import F

from migrations_playbook import Shadow


class Voucher(models.Model):
    size = models.IntegerField(default=1, db_index=True)
    note = models.CharField(max_length=20, blank=True)
{retyped}

class Parcel(models.Model):
    size = models.IntegerField()
    note = models.CharField(max_length=20, blank=True)
{renamed}
"""
RETYPED = """    size_big = models.BigIntegerField(null=True, editable=False)

    class Meta:
        triggers = Shadow(live="size", shadow="size_big", up=F("size"), down=F("size_big"))
"""
RENAMED = """    amount = models.IntegerField(null=True)

    class Meta:
        triggers = Shadow(live="size", shadow="amount", up=F("size"), down=F("amount"), moves=True)
"""
RETYPE, RENAME = "shop.Voucher.size_big", "shop.Parcel.amount"


@pytest.mark.timeout(240)
def test_a_retype_and_a_rename_pass(tmp_path: Path, empty_database: Database) -> None:
    project, database = Project.make(tmp_path / "project"), empty_database
    project.write_models(BEFORE.format(retyped="", renamed=""))
    project.manage(database, "makemigrations", "shop")
    project.write_models(BEFORE.format(retyped=RETYPED, renamed=RENAMED))
    for target in (RETYPE, RENAME):
        project.manage(database, "playbook", "expand", target)

    # They leave each other alone.
    started = [
        database.start(
            *("playbook", "rehearse", target, "--rows", "1000", "--rate", "80"),
            *("--seconds", "0.2", "--max-stall-ms", "30000"),
            *("--json", "--report", str(tmp_path / target)),
            settings="settings",
            program=FORKED_COMMANDS,
            PYTHONPATH=str(project.folder),
        )
        for target in (RETYPE, RENAME)
    ]
    outputs = [each.communicate() for each in started]
    assert [each.returncode for each in started] == [0, 0], outputs
    retype, rename = (json.loads(printed) for printed, _ in outputs)
    for target in (RETYPE, RENAME):
        page = (tmp_path / target / "report.html").read_text()
        assert "rows of which one column has not followed the other" in page
        assert not re.search("leaked|fresh|token|rotation", page)
    assert (retype["passed"], rename["passed"]) == (True, True)
    exchanged = ["prepare", "swap", "revert", "swap again"]
    for verdict, middle in ((retype, exchanged), (rename, ["roll out", "roll back"])):
        names = [phase["name"] for phase in verdict["phases"]]
        assert names == ["baseline", "expand", "backfill", *middle, "contract"]
        assert all(phase["requests"] for phase in verdict["phases"])
        assert verdict["reasons"] == []
        assert {"out_of_step", "lost_writes", "told_otherwise"} <= set(verdict["checks"])
        assert not {"leaked_values", "unrotated_rows"} & set(verdict["checks"])
    assert set(retype["swap"]) == {"lock_wait_ms", "lock_hold_ms", "attempts"}
    assert rename["swap"] == {}
