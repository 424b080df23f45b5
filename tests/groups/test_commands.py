# ruff: noqa: S608 - the table is the tests' own
"""A group of columns of somebody else's project, by the commands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.database import Database
from tests.fixtures.project import CLEAN, Project

PLAIN = """
from django.db import models
from django.db.models.functions import Left, Upper

from migrations_playbook import Group, HEX, RandomText, Sha256, Shadow


class Voucher(models.Model):
    code = models.CharField(max_length=16, unique=True)
    checksum = models.CharField(max_length=64, unique=True)
"""
FIELD = "    {} = models.CharField(max_length={}, null=True, editable=False)\n"
CODE = 'Shadow(live="code", shadow="new_code", value=RandomText(16, HEX)),'
CHECKSUM = 'Shadow(live="checksum", shadow="a_checksum", value=Sha256("new_code")),'
META = "\n    class Meta:\n        triggers = {}\n"
# The columns stand in another order than the group's members.
FIELDS = FIELD.format("a_checksum", 64) + FIELD.format("new_code", 16)
DECLARED = PLAIN + FIELDS + META.format(f"Group({CODE} {CHECKSUM})")
ALONE = PLAIN + FIELD.format("new_code", 16) + META.format(f"[{CODE}]")
ITS_OWN = "count(*) FILTER (WHERE {} = encode(sha256({}::bytea), 'hex'))"
SHADOWS = f"SELECT {ITS_OWN.format('a_checksum', 'new_code')}, count(*) FROM shop_voucher"
LIVES = f"SELECT {ITS_OWN.format('checksum', 'code')}, count(*) FROM shop_voucher"
OURS = "SELECT proname FROM pg_proc WHERE proname ~ '^(pgtrigger|migrations_playbook)'"


@pytest.fixture
def project(tmp_path: Path, empty_database: Database) -> Project:
    """A project whose table has nine vouchers."""
    project = Project.make(tmp_path)
    project.write_models(PLAIN)
    project.manage(empty_database, "makemigrations", "shop")
    project.manage(empty_database, "migrate")
    empty_database.run(
        "INSERT INTO shop_voucher (code, checksum) "
        "SELECT i::text, encode(sha256(i::text::bytea), 'hex') FROM generate_series(1, 9) AS i"
    )
    return project


def columns_of(database: Database) -> list[str]:
    live = "attnum > 0 AND NOT attisdropped AND attrelid = 'shop_voucher'::regclass"
    rows = database.fetch(f"SELECT attname FROM pg_attribute WHERE {live} ORDER BY attname")
    return [name for (name,) in rows]


def test_a_group_is_expanded_and_filled_as_one(project: Project, empty_database: Database) -> None:
    database = empty_database
    project.write_models(DECLARED)
    assert "0002_expand_voucher_new_code" in project.manage(database, "playbook", "expand")
    project.manage(database, *CLEAN)
    project.manage(database, "migrate")
    status = project.status(database)
    assert (status["phase"], status["rows_remaining"]) == ("expanded", 9)
    assert status["together_with"] == [{"live": "checksum", "shadow": "a_checksum"}]
    assert "code <- new_code, checksum <- a_checksum" in project.manage(
        database, "playbook", "status"
    )
    filled = project.manage(database, "playbook", "backfill", "shop.Voucher.a_checksum")
    assert "Filled 9 rows" in filled
    assert database.fetch(SHADOWS) == [(9, 9)]
    status = project.status(database)
    assert (status["phase"], status["rows_remaining"]) == ("filled", 0)
    assert status["next"] == "manage.py playbook swap shop.Voucher.new_code"
    project.manage(database, "migrate", "shop", "0001")
    assert columns_of(database) == ["checksum", "code", "id"]


def test_a_group_goes_from_its_declaration_to_its_contract(
    project: Project, empty_database: Database
) -> None:
    database = empty_database
    project.write_models(DECLARED)
    project.play(database, "expand", "backfill")

    assert "-- Exchanged together: code <- new_code, checksum <- a_checksum\n" in project.manage(
        database, "playbook", "swap", "--dry-run"
    )
    # Told a member, the whole group is played.
    said = project.manage(database, "playbook", "swap", "shop.Voucher.a_checksum")
    assert "Exchanged code and checksum: the lock was held" in said
    assert database.fetch(LIVES) == [(9, 9)]
    assert "Exchanged back code and checksum" in project.manage(
        database, "playbook", "swap", "--revert"
    )
    swapped = json.loads(project.manage(database, "playbook", "swap", "--json"))
    assert (swapped["passed"], swapped["members"]["checksum"]["astray"]) == (True, 0)
    status = project.status(database)
    assert (status["phase"], status["problems"], status["stale_writes"]) == ("swapped", [], 0)
    assert status["next"].startswith("manage.py playbook forget shop.Voucher.new_code")

    project.write_models(PLAIN)
    project.play(database, "forget")
    project.manage(database, *CLEAN)
    assert "0 not made of their code" in project.manage(
        database, "playbook", "swap", "shop.Voucher.a_checksum", "--verify"
    )
    project.play(database, "contract")
    project.manage(database, *CLEAN)
    assert database.fetch(LIVES) == [(9, 9)]
    assert database.value("SELECT count(*) FROM shop_voucher WHERE length(code) = 16") == 9
    assert database.memory() == []
    assert database.fetch(OURS) == []


def test_makemigrations_expands_forgets_and_drops_a_group_as_one(
    project: Project, empty_database: Database, fresh: Database
) -> None:
    project.write_models(DECLARED)
    project.manage(fresh, "makemigrations")
    project.manage(fresh, "migrate")
    project.manage(fresh, *CLEAN)
    project.write_models(PLAIN)
    project.manage(fresh, "makemigrations")
    project.manage(fresh, *CLEAN)
    project.manage(fresh, "migrate")
    assert columns_of(fresh) == ["a_checksum", "checksum", "code", "id", "new_code"]
    project.manage(fresh, "playbook", "contract", "shop.Voucher.a_checksum")
    project.manage(fresh, *CLEAN)
    project.manage(fresh, "migrate")
    assert columns_of(fresh) == ["checksum", "code", "id"]
    assert fresh.fetch("SELECT proname FROM pg_proc WHERE proname LIKE 'pgtrigger%'") == []
    migrations = project.migrations()
    project.manage(fresh, "migrate", "shop", migrations[-2].partition("_")[0])
    assert columns_of(fresh) == ["a_checksum", "checksum", "code", "id", "new_code"]
    fresh.run("INSERT INTO shop_voucher (code, checksum) VALUES ('a', 'b')")
    assert fresh.fetch(SHADOWS) == [(1, 1)]
    fresh.run("DELETE FROM shop_voucher")
    project.manage(fresh, "migrate")
    # A database that has rows has been swapped before.
    code, complaint = project.refusal(empty_database, "migrate")
    assert (code, complaint.count("\n")) == (1, 1)
    assert "is not swapped" in complaint


def test_a_member_is_not_dropped_alone(project: Project, fresh: Database) -> None:
    project.write_models(DECLARED)
    project.manage(fresh, "playbook", "expand")
    project.write_models(PLAIN)
    project.manage(fresh, "playbook", "forget")
    project.manage(fresh, "playbook", "contract")
    (path,) = (project.folder / "shop" / "migrations").glob("0004*.py")
    group = "DropGroup(\n            model_name='voucher',\n"
    text = path.read_text()
    for live, shadow, other in (
        ("code", "new_code", "a_checksum"),
        ("checksum", "a_checksum", "new_code"),
    ):
        alone = f"DropShadow('voucher', live={live!r}, shadow={shadow!r}),"
        assert group in text.replace('"', "'"), text
        start, end = text.index("migrations_playbook.operations.DropGroup("), text.rindex("]")
        path.write_text(f"{text[:start]}migrations_playbook.operations.{alone}\n    {text[end:]}")
        code, complaint = project.refusal(fresh, "migrate")
        assert (code, complaint.count("\n")) == (1, 1)
        assert f"is filled and exchanged together with {other}" in complaint
    path.write_text(text)
    project.manage(fresh, "migrate")
    assert columns_of(fresh) == ["checksum", "code", "id"]


def test_a_small_table_is_filled_and_swapped_by_migrate(
    project: Project, empty_database: Database
) -> None:
    database = empty_database
    project.write_models(DECLARED)
    project.manage(database, "playbook", "expand")
    project.manage(database, "playbook", "ensure", "shop.Voucher.a_checksum")
    assert "live='code', shadow='new_code'" in "".join(
        path.read_text().replace('"', "'").replace("\n", "").replace("            ", " ")
        for path in (project.folder / "shop" / "migrations").glob("0003*.py")
    )
    database.run("CREATE TABLE was AS SELECT * FROM shop_voucher")
    project.manage(database, "migrate")
    assert database.fetch(LIVES) == [(9, 9)]
    same = "SELECT count(*) FROM was JOIN shop_voucher AS now USING (id) WHERE {0}.{1} = {2}.{1}"
    assert database.value(same.format("was", "code", "now")) == 0
    assert database.value(same.format("was", "checksum", "now")) == 0


REMOVAL = """
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("shop", "{after}")]
    operations = [migrations.RemoveField("voucher", "{field}")]
"""


def test_a_group_is_swapped_forgotten_and_contracted_and_no_member_is_removed_before(
    project: Project, empty_database: Database
) -> None:
    database = empty_database
    project.write_models(DECLARED)
    project.play(database, "expand", "backfill")
    removal = "shop/migrations/0003_removal.py"
    said = []
    for swapped in (False, True):
        if swapped:
            project.manage(database, "playbook", "swap")
        for field in ("new_code", "a_checksum"):
            after = "0002_expand_voucher_new_code"
            project.write(removal, REMOVAL.format(after=after, field=field))
            code, complaint = project.refusal(database, "migrate")
            assert (code, complaint.count("\n")) == (1, 1)
            said.append(complaint)
        (project.folder / removal).unlink()
    assert all("holds the fresh values" in each for each in said[:2])
    assert all("is filled and exchanged together with others" in each for each in said[2:])
    assert database.fetch(LIVES) == [(9, 9)]
    project.write_models(PLAIN)
    project.manage(database, "playbook", "forget", "shop.Voucher.a_checksum")
    project.manage(database, *CLEAN)
    project.manage(database, "migrate")
    status = project.status(database)
    assert "playbook contract shop.Voucher.new_code" in status["next"]
    project.play(database, "contract")
    assert columns_of(database) == ["checksum", "code", "id"]
    assert database.fetch(LIVES) == [(9, 9)]
    assert database.fetch(OURS) == []
    assert project.statuses(database) == []


def test_a_follower_joins_a_shadow_that_is_filled_already(
    project: Project, empty_database: Database
) -> None:
    database = empty_database
    project.write_models(ALONE)
    project.play(database, "expand", "backfill")
    database.run("CREATE TABLE was AS SELECT id, new_code FROM shop_voucher")
    project.write_models(DECLARED)
    project.manage(database, "playbook", "expand")
    project.manage(database, *CLEAN)
    project.manage(database, "migrate")
    assert "Filled 9 rows" in project.manage(database, "playbook", "backfill")
    assert database.fetch(SHADOWS) == [(9, 9)]
    same = "SELECT count(*) FROM was NATURAL JOIN shop_voucher"
    assert database.value(same) == 9


def test_a_follower_does_not_join_a_shadow_that_is_swapped(
    project: Project, empty_database: Database
) -> None:
    database = empty_database
    project.write_models(ALONE)
    project.play(database, "expand", "backfill", "swap")
    project.write_models(DECLARED)
    project.manage(database, "makemigrations", "shop")
    before = database.dump()
    code, complaint = project.refusal(database, "migrate")
    assert (code, complaint.count("\n")) == (1, 1)
    assert "a_checksum would not be exchanged with new_code any more" in complaint
    assert database.dump() == before
    for path in (project.folder / "shop" / "migrations").glob("0003*.py"):
        path.unlink()
    project.write_models(ALONE)
    project.manage(database, "playbook", "swap", "--revert")
    project.write_models(DECLARED)
    project.play(database, "expand", "backfill", "swap")
    live = ITS_OWN.format("checksum", "code")
    assert database.value(f"SELECT {live} FROM shop_voucher WHERE length(code) = 16") == 9


def test_a_group_that_only_migrations_or_the_database_know_is_played_on(
    project: Project, empty_database: Database
) -> None:
    database = empty_database
    project.write_models(DECLARED)
    project.play(database, "expand")
    project.write_models(PLAIN)
    project.play(database, "forget")
    for (name,) in database.fetch("SELECT tgname FROM pg_trigger WHERE tgname ~ '^pgtrigger'"):
        database.run(f"DROP TRIGGER {name} ON shop_voucher")
    database.run("INSERT INTO shop_voucher (code, checksum) VALUES ('pruned', 'pruned')")
    filled = project.manage(database, "playbook", "backfill", "shop.Voucher.a_checksum")
    assert "Filled 10 rows" in filled
    database.run("INSERT INTO shop_voucher (code, checksum) VALUES ('restored', 'restored')")
    assert database.fetch(SHADOWS) == [(11, 11)]

    for path in (project.folder / "shop" / "migrations").glob("000[23]*.py"):
        path.unlink()
    status = project.status(database)
    assert (status["shadow"], status["phase"]) == ("new_code", "filled")
    assert status["together_with"] == [{"live": "checksum", "shadow": "a_checksum"}]
    project.manage(database, "playbook", "swap", "shop.Voucher.a_checksum")
    assert database.fetch(LIVES) == [(11, 11)]
    project.play(database, "contract")
    assert columns_of(database) == ["checksum", "code", "id"]


def test_a_group_that_only_its_quarantines_know_is_exchanged_back_whole(
    project: Project, empty_database: Database
) -> None:
    database = empty_database
    project.write_models(DECLARED)
    project.play(database, "expand", "backfill", "swap")
    project.write_models(PLAIN)
    for path in (project.folder / "shop" / "migrations").glob("0002*.py"):
        path.unlink()
    for (name,) in database.fetch("SELECT tgname FROM pg_trigger WHERE tgname ~ '^pgtrigger'"):
        database.run(f"DROP TRIGGER {name} ON shop_voucher")

    status = project.status(database)
    assert (status["shadow"], status["phase"]) == ("new_code", "swapped")
    assert status["together_with"] == [{"live": "checksum", "shadow": "a_checksum"}]
    project.manage(database, "playbook", "swap", "--verify")
    contract = project.manage(
        database, "playbook", "contract", "--dry-run", "shop.Voucher.a_checksum"
    )
    assert "DropGroup" in contract
    assert "new_code" in contract
    was = "SELECT array_agg(code ORDER BY id), array_agg(checksum ORDER BY id) FROM shop_voucher"
    shadows = was.replace("code", "new_code").replace("checksum", "a_checksum")
    leaked, fresh = database.fetch(shadows), database.fetch(was)
    project.manage(database, "playbook", "swap", "--revert", "shop.Voucher.a_checksum")
    assert (database.fetch(was), database.fetch(shadows)) == (leaked, fresh)

    # The remembering triggers know it, too.
    status = project.status(database)
    assert (status["shadow"], status["phase"]) == ("new_code", "expanded")
    assert status["together_with"] == [{"live": "checksum", "shadow": "a_checksum"}]


def test_a_member_does_not_leave_the_group(project: Project, empty_database: Database) -> None:
    database = empty_database
    project.write_models(DECLARED)
    project.play(database, "expand")
    project.write_models(ALONE)
    project.manage(database, "makemigrations", "shop")
    code, complaint = project.refusal(database, "migrate")
    assert (code, complaint.count("\n")) == (1, 1)
    assert "a_checksum of public.shop_voucher is filled together with new_code" in complaint
    code, complaint = project.refusal(database, "playbook", "contract", "shop.Voucher.a_checksum")
    assert (code, complaint.count("\n")) == (1, 1)
    assert "The migrations still have shop.Voucher.new_code" in complaint
    project.write_models(DECLARED)
    for path in (project.folder / "shop" / "migrations").glob("0003*.py"):
        path.unlink()
    project.manage(database, *CLEAN)
    project.manage(database, "migrate")
    project.manage(database, "playbook", "backfill")
    assert database.fetch(SHADOWS) == [(9, 9)]
