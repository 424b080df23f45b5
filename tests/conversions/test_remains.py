"""A conversion that neither the models nor the migrations know: the database still says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conversions.test_commands import DECLARED, MOVING, NAMED, NEW, OLD, RELEASE, type_of_size
from tests.fixtures.database import Database
from tests.fixtures.project import Project

BIG = "shop.Voucher.size_big"
AMOUNT = "shop.Voucher.amount"
GARBAGE = "SELECT relname FROM pg_class WHERE relname LIKE 'pgtrigger%'"


def come_from_elsewhere(
    folder: Path, database: Database, *, declared: str, models: str, plays: tuple[str, ...]
) -> Project:
    """Play in a project, then make another whose only migration makes the models as they are.

    Arguments:
        declared: the models that the database is of.
        models: those of the project that has the database now.
        plays: what was played before.
    """
    elsewhere = Project.make(folder / "elsewhere")
    elsewhere.write_models(declared)
    elsewhere.manage(None, "makemigrations", "shop")
    elsewhere.manage(database, "migrate")
    database.run(
        "ALTER TABLE shop_voucher DISABLE TRIGGER USER; "
        "INSERT INTO shop_voucher (code, size) SELECT i::text, i FROM generate_series(1, 3) AS i; "
        "ALTER TABLE shop_voucher ENABLE TRIGGER USER"
    )
    elsewhere.play(database, *plays)
    project = Project.make(folder / "project")
    project.write_models(models)
    project.manage(None, "makemigrations", "shop")
    return project


def contract(project: Project, database: Database) -> None:
    """Write the contract, and migrate a database that has had all before."""
    project.manage(database, "playbook", "contract")
    project.manage(database, "migrate", "--fake", "shop", "0001")
    project.manage(database, "migrate")
    assert project.statuses(database) == []
    assert database.fetch(GARBAGE) == []


def test_before_the_swap_it_is_filled_and_swapped_back_and_forth(
    tmp_path: Path, empty_database: Database
) -> None:
    database = empty_database
    release = RELEASE.format(size="IntegerField")
    lost = come_from_elsewhere(tmp_path, database, declared=DECLARED, models=release, plays=())
    known = lost.status(database)
    assert (known["live"], known["shadow"], known["rows_remaining"]) == ("size", "size_big", 3)
    assert known["next"] == f"manage.py playbook backfill {BIG}"
    lost.manage(database, "playbook", "backfill")
    for option, kind in (((), "bigint"), (("--revert",), "integer"), ((), "bigint")):
        lost.manage(database, "playbook", "swap", BIG, *option)
        assert type_of_size(database) == kind
        database.run("UPDATE shop_voucher SET size = size + 1")
        assert database.value("SELECT count(*) FROM shop_voucher WHERE size = size_big") == 3


def test_swapped_it_is_named_until_its_contract(tmp_path: Path, empty_database: Database) -> None:
    database = empty_database
    lost = come_from_elsewhere(
        tmp_path,
        database,
        declared=DECLARED,
        models=RELEASE.format(size="BigIntegerField"),
        plays=("backfill", "swap"),
    )
    assert lost.status(database)["phase"] == "swapped"
    # A trigger that somebody has dropped is made anew as it was, with the types as they were.
    named = "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgtrigger_zz_sync_new%'"
    trigger = database.value(named)
    text = "SELECT prosrc FROM pg_proc WHERE proname = %s"
    before = database.value(text, trigger)
    database.run(f"DROP TRIGGER {trigger} ON shop_voucher")
    lost.manage(database, "playbook", "swap", BIG, "--mend")
    assert database.value(text, trigger) == before
    assert "0 out of step" in lost.manage(database, "playbook", "swap", BIG, "--verify")
    database.run("INSERT INTO shop_voucher (code, size) VALUES ('large', 5000000000)")
    code, complaint = lost.refusal(database, "playbook", "swap", BIG, "--revert")
    assert (code, "1 rows of shop.Voucher have a size that has no way" in complaint) == (1, True)
    contract(lost, database)
    assert database.value("SELECT sum(size) FROM shop_voucher") == 5000000006


def test_a_column_that_moves_is_named_by_whoever_knows_the_new_name(
    tmp_path: Path, empty_database: Database
) -> None:
    database = empty_database
    lost = come_from_elsewhere(
        tmp_path, database, declared=NAMED + OLD + NEW + MOVING, models=NAMED + NEW, plays=()
    )
    known = lost.status(database)
    assert (known["live"], known["shadow"], known["rows_remaining"]) == ("size", "amount", 3)
    lost.manage(database, "playbook", "backfill")
    database.run("INSERT INTO shop_voucher (code, size) VALUES ('d', 4)")
    assert f"manage.py playbook contract {AMOUNT}" in lost.status(database)["next"]
    contract(lost, database)
    assert database.value("SELECT sum(amount) FROM shop_voucher") == 10


@pytest.mark.parametrize("removed", ["size", "size_big"])
def test_a_removal_by_hand_is_stopped_before_the_swap(
    tmp_path: Path, empty_database: Database, removed: str
) -> None:
    database, project = empty_database, Project.make(tmp_path)
    project.write_models(DECLARED)
    project.manage(None, "makemigrations", "shop")
    project.manage(database, "migrate")
    database.run("INSERT INTO shop_voucher (code, size) VALUES ('a', 1)")
    project.write(
        "shop/migrations/0002_habit.py",
        "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
        "    dependencies = [('shop', '0001_initial')]\n"
        f"    operations = [migrations.RemoveField('voucher', '{removed}')]\n",
    )
    before = database.dump()
    code, complaint = project.refusal(database, "migrate")
    assert (code, complaint.count("\n"), f"shop_voucher.{removed}" in complaint) == (1, 1, True)
    assert database.dump() == before
