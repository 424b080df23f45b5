"""A column of somebody else's project gets another type, by the commands alone."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fixtures.another_type import type_of
from tests.fixtures.database import Database
from tests.fixtures.project import CLEAN, Project
from tests.fixtures.tickets import past_the_triggers

SIZE = "shop.Voucher.size_big"
GARBAGE = "SELECT relname FROM pg_class WHERE relname LIKE 'pgtrigger%'"
RELEASE = """
from django.db import models
from django.db.models import F

from migrations_playbook import Shadow


class Voucher(models.Model):
    code = models.CharField(max_length=16, unique=True)
    size = models.{size}(default=1, db_index=True)
"""
DECLARED = (
    RELEASE.format(size="IntegerField")
    + """    size_big = models.BigIntegerField(null=True, editable=False)

    class Meta:
        triggers = Shadow(
            live="size", shadow="size_big", up=F("size"), down=F("size_big")
        ).triggers
"""
)


# A request that saves one object twice.
TWICE = """
from shop.models import Voucher
voucher = Voucher.objects.get(code="1")
voucher.size = 11
voucher.save()
voucher.code = "first"
voucher.save()
voucher = Voucher.objects.get(pk=voucher.pk)
print(voucher.size, voucher.size_big)
"""


def type_of_size(database: Database) -> str:
    return type_of(database, "shop_voucher", "size")


def test_an_integer_becomes_a_bigint(
    tmp_path: Path, empty_database: Database, fresh: Database
) -> None:
    project, database = Project.make(tmp_path), empty_database
    project.write_models(RELEASE.format(size="IntegerField"))
    project.manage(database, "makemigrations", "shop")
    project.manage(database, "migrate")
    insert = "INSERT INTO shop_voucher (code, size) SELECT i::text, i FROM generate_series(1, 9) i"
    database.run(insert)

    project.write_models(DECLARED)
    assert "0002_expand_voucher_size_big.py" in project.manage(database, "playbook", "expand")
    project.manage(database, *CLEAN)
    database.run(
        "CREATE FUNCTION resize() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.size := abs(NEW.size); RETURN NEW; END $$"
    )
    database.run(
        "CREATE TRIGGER resize BEFORE UPDATE ON shop_voucher FOR EACH ROW EXECUTE FUNCTION resize()"
    )
    code, complaint = project.refusal(database, "migrate")
    assert (code, complaint.count("\n")) == (1, 1)
    assert 'The trigger "resize" on public.shop_voucher fires after the sync triggers' in complaint
    database.run("ALTER TRIGGER resize ON shop_voucher RENAME TO a_resize")
    project.manage(database, "migrate")
    assert "Filled 9 rows" in project.manage(database, "playbook", "backfill")
    planned = project.manage(database, "playbook", "swap", "--dry-run")
    assert (
        "-- Collect statistics of size_big. Lock: SHARE UPDATE EXCLUSIVE\n"
        'ANALYZE "public"."shop_voucher" ("size_big");\n'
        "-- In one transaction\n"
    ) in planned
    assert project.manage(database, "shell", "-v", "0", "-c", TWICE) == "11 11\n"
    assert "Verified 9 of 9 rows: 0 nulls, 0 duplicates, 0 out of step" in project.manage(
        database, "playbook", "swap"
    )
    assert type_of_size(database) == "bigint"
    project.manage(database, "playbook", "swap", "--revert")
    assert type_of_size(database) == "integer"
    project.manage(database, "playbook", "swap")
    evidence = tmp_path / "evidence.json"
    project.manage(database, "playbook", "swap", "--verify", "--evidence", str(evidence))
    facts = json.loads(evidence.read_text())
    assert (facts["outcome"], facts["out_of_step"], facts["no_way_back"]) == ("done", 0, 0)

    database.run("UPDATE shop_voucher SET size = 5000000000 WHERE id = 3")
    assert "1 rows have no way back" in project.manage(database, "playbook", "swap", "--verify")
    for options in (["--revert"], ["--revert", "--dry-run"]):
        code, complaint = project.refusal(database, "playbook", "swap", *options)
        assert (code, complaint.count("\n")) == (1, 1)
        assert "1 rows of shop.Voucher have a size that has no way back to integer" in complaint
        assert "Give each a value that has one" in complaint

    project.write_models(RELEASE.format(size="IntegerField"))
    code, complaint = project.refusal(database, "playbook", "forget", SIZE)
    assert "its column is a bigint since the swap" in complaint
    project.write_models(RELEASE.format(size="BigIntegerField"))
    project.manage(database, "playbook", "forget")
    project.manage(database, *CLEAN)
    project.manage(database, "migrate")
    project.manage(database, "playbook", "contract")
    project.manage(database, *CLEAN)
    project.manage(database, "migrate")
    assert project.statuses(database) == []
    assert database.value("SELECT sum(size) FROM shop_voucher") == 5000000052
    assert database.fetch(GARBAGE) == []
    go_back_and_there_again(project, database, fresh)


def go_back_and_there_again(project: Project, database: Database, fresh: Database) -> None:
    """With rows there is no type to go back to; without, all is as it was."""
    before = database.dump()
    code, complaint = project.refusal(database, "migrate", "shop", "0003")
    assert (code, "'size' of public.shop_voucher is a bigint since" in complaint) == (1, True)
    assert database.dump() == before
    for target, kind in ((), "bigint"), (("0003",), "integer"), ((), "bigint"):
        project.manage(fresh, "migrate", "shop", *target)
        assert type_of_size(fresh) == kind
    project.manage(fresh, "migrate", "shop", "zero")


NAMED = """
from django.db import models
from django.db.models import F

from migrations_playbook import Shadow


class Voucher(models.Model):
    code = models.CharField(max_length=16, unique=True)
"""
OLD = "    size = models.IntegerField(default=1)\n"
NEW = "    amount = models.IntegerField(null=True)\n"
BOTH = "SELECT size, amount FROM shop_voucher ORDER BY code"
MOVING = """
    class Meta:
        triggers = Shadow(
            live="size", shadow="amount", up=F("size"), down=F("amount"), moves=True
        ).triggers
"""


def test_a_column_is_renamed_with_both_names_served(
    tmp_path: Path, empty_database: Database
) -> None:
    project, database = Project.make(tmp_path), empty_database
    project.write_models(NAMED + OLD)
    project.manage(database, "makemigrations", "shop")
    project.manage(database, "migrate")
    database.run("INSERT INTO shop_voucher (code, size) VALUES ('a', 1), ('b', 2), ('c', 3)")
    project.write_models(NAMED + OLD + NEW + MOVING)
    project.play(database, "expand", "backfill")
    assert "in the release that uses amount alone" in project.status(database)["next"]
    code, complaint = project.refusal(database, "playbook", "swap")
    assert (code, "both names are served, and nothing is exchanged" in complaint) == (1, True)
    assert "0 out of step" in project.manage(database, "playbook", "swap", "--verify")

    project.write_models(NAMED + NEW)
    project.manage(database, "playbook", "forget")
    project.manage(database, *CLEAN)
    project.manage(database, "migrate")
    # The release that knows the new name alone, beside the one that knows the old.
    database.run("INSERT INTO shop_voucher (code, amount) VALUES ('d', 4)")
    database.run("INSERT INTO shop_voucher (code, size) VALUES ('e', 5)")
    database.run("UPDATE shop_voucher SET amount = 6 WHERE code = 'a'")
    assert database.fetch(BOTH) == [(6, 6), (2, 2), (3, 3), (4, 4), (5, 5)]
    assert "playbook contract shop.Voucher.amount" in project.status(database)["next"]
    project.manage(database, "playbook", "contract", "shop.Voucher.amount")
    past_the_triggers(database, "UPDATE shop_voucher SET amount = NULL WHERE code = 'b'")
    code, complaint = project.refusal(database, "migrate")
    assert "1 rows of public.shop_voucher have a 'size' of which no 'amount' was made" in complaint
    past_the_triggers(database, "UPDATE shop_voucher SET amount = 7 WHERE code = 'b'")
    code, complaint = project.refusal(database, "migrate")
    assert "1 rows of public.shop_voucher have a 'size' that is out of step" in complaint
    project.manage(database, "playbook", "swap", "--mend")
    assert database.fetch(BOTH) == [(6, 6), (2, 2), (3, 3), (4, 4), (5, 5)]
    project.manage(database, "migrate")
    project.manage(database, *CLEAN)
    assert project.statuses(database) == []
    amounts = database.fetch("SELECT amount FROM shop_voucher ORDER BY code")
    assert amounts == [(6,), (2,), (3,), (4,), (5,)]
    assert database.fetch(GARBAGE) == []
    move_back_and_there_again(project, database)


def move_back_and_there_again(project: Project, database: Database) -> None:
    """The old name is served as before, until the contract is run again."""
    database.run("UPDATE shop_voucher SET amount = NULL WHERE code = 'c'")
    code, complaint = project.refusal(database, "migrate", "shop", "0003")
    assert "1 rows of public.shop_voucher have a 'amount' of which no 'size' can" in complaint
    database.run("UPDATE shop_voucher SET amount = 3 WHERE code = 'c'")
    assert "SET NOT NULL" in project.manage(database, "sqlmigrate", "shop", "0004", "--backwards")
    project.manage(database, "migrate", "shop", "0003")
    database.run("UPDATE shop_voucher SET size = 7 WHERE code = 'a'")
    database.run("UPDATE shop_voucher SET amount = 8 WHERE code = 'b'")
    database.run("INSERT INTO shop_voucher (code, size) VALUES ('f', 9)")
    assert database.fetch(BOTH) == [(7, 7), (8, 8), (3, 3), (4, 4), (5, 5), (9, 9)]
    assert project.status(database)["next"] == "manage.py migrate"
    assert "0 out of step" in project.manage(
        database, "playbook", "swap", "shop.Voucher.amount", "--verify"
    )
    project.manage(database, "migrate")
    assert database.value("SELECT sum(amount) FROM shop_voucher") == 36
    database.run(
        "INSERT INTO shop_voucher (code, amount) SELECT -i, i FROM generate_series(1, 1e4) i"
    )
    before = database.dump()
    code, complaint = project.refusal(database, "migrate", "shop", "0003")
    assert (code, complaint.count("\n"), "more than 10,000 rows" in complaint) == (1, 1, True)
    assert database.dump() == before
    assert database.fetch(GARBAGE) == []
