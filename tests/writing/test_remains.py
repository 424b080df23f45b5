"""A shadow that neither the models nor the migrations know: the database still names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.database import Database
from tests.fixtures.dumps import with_columns_sorted
from tests.fixtures.project import BEFORE, CLEAN, SETTINGS, Project

VOUCHERS = "shop.Voucher.new_code"
LEAKED = (
    "SELECT count(*) FROM shop_voucher WHERE code = ANY (ARRAY("
    "SELECT left(md5(i::text), 16) FROM generate_series(1, 3) AS i))"
)


@pytest.fixture
def lost(tmp_path: Path) -> Project:
    """A project whose migrations were written anew: none of them ever had a shadow."""
    project = Project.make(tmp_path)
    project.write_models(BEFORE)
    project.manage(None, "makemigrations", "shop")
    return project


def played(declared: Project, database: Database, *plays: str) -> None:
    """Play in another project that the database comes from."""
    declared.manage(database, "migrate")
    declared.play(database, *plays)


@pytest.mark.parametrize("pruned", [False, True], ids=["triggers", "pruned"])
def test_swapped_it_is_named_until_a_contract_that_a_fresh_database_runs_too(
    declared: Project, lost: Project, old: Database, fresh: Database, *, pruned: bool
) -> None:
    played(declared, old, "backfill", "swap")
    if pruned:
        lost.manage(old, "pgtrigger", "install")
    known = lost.status(old)
    assert (known["model"], known["live"], known["shadow"], known["phase"]) == (
        "shop.Voucher",
        "code",
        "new_code",
        "swapped",
    )
    assert f"manage.py playbook contract {VOUCHERS}" in str(known["next"])
    assert "Verified 3 of 3 rows" in lost.manage(old, "playbook", "swap", VOUCHERS, "--verify")
    lost.manage(old, *CLEAN)
    assert "0002_contract_voucher_new_code.py" in lost.manage(old, "playbook", "contract")
    lost.manage(old, "migrate", "--fake", "shop", "0001")
    lost.manage(old, "migrate")
    assert lost.statuses(old) == []
    assert old.value(LEAKED) == 0
    lost.manage(fresh, "migrate")
    # django-pgtrigger never drops a function of its own, that of a pruned trigger neither.
    for (name,) in old.fetch("SELECT proname FROM pg_proc WHERE proname LIKE '%pgtrigger%'"):
        old.run(f"DROP FUNCTION {name}")
    assert with_columns_sorted(old.dump()) == with_columns_sorted(fresh.dump())


def test_before_the_swap_it_is_filled_and_swapped_as_ever(
    declared: Project, lost: Project, old: Database
) -> None:
    played(declared, old)
    assert lost.status(old)["next"] == f"manage.py playbook backfill {VOUCHERS}"
    lost.manage(old, "playbook", "backfill")
    lost.manage(old, "playbook", "swap")
    assert old.value(LEAKED) == 0
    lost.manage(old, "playbook", "swap", VOUCHERS, "--revert")
    assert old.value(LEAKED) == 3
    assert lost.status(old)["phase"] == "filled"


def test_a_value_that_nothing_knows_is_not_made_up(
    declared: Project, lost: Project, old: Database
) -> None:
    """Of a pruned trigger no text is left: the columns go back, and no row is filled any more."""
    played(declared, old, "backfill", "swap")
    lost.manage(old, "pgtrigger", "install")
    lost.manage(old, "playbook", "swap", VOUCHERS, "--revert")
    assert old.value(LEAKED) == 3
    reverted = old.dump()
    code, complaint = lost.refusal(old, "playbook", "backfill", VOUCHERS)
    assert (code, complaint.count("\n")) == (1, 1)
    assert "Declare the Shadow in the model again" in complaint
    assert old.dump() == reverted


def test_of_a_table_without_a_model_the_column_is_named_too(
    declared: Project, lost: Project, old: Database
) -> None:
    played(declared, old, "backfill", "swap")
    lost.write("settings.py", SETTINGS.replace(', "shop"', ""))
    known = lost.status(old)
    assert (known["model"], known["shadow"]) == ("public.shop_voucher", "new_code")
    statement = str(known["next"]).partition("by hand: ")[2]
    old.run(statement)
    assert lost.statuses(old) == []
    old.run("INSERT INTO shop_voucher (code) VALUES ('written later')")


def test_in_a_tenants_schema_it_is_named_with_the_schema_and_only_where_it_is_unknown(
    declared: Project, lost: Project, old: Database
) -> None:
    played(declared, old)
    old.run("CREATE SCHEMA tenant")
    old.run("ALTER TABLE shop_voucher SET SCHEMA tenant")
    assert lost.status(old)["next"] == f"manage.py playbook backfill {VOUCHERS} --schema tenant"
    lost.manage(old, "playbook", "backfill", VOUCHERS, "--schema", "tenant")
    assert old.value("SELECT count(*) FROM tenant.shop_voucher WHERE new_code IS NULL") == 0
    assert declared.status(old)["phase"] == "none"


def test_columns_and_triggers_of_others_are_none_of_ours(lost: Project, old: Database) -> None:
    lost.manage(old, "migrate")
    old.run("ALTER TABLE shop_voucher ADD new_code varchar(16)")
    old.run(
        "CREATE FUNCTION pgtrigger_fill_x() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN NEW.new_code := NEW.code; RETURN NEW; END$$"
    )
    old.run(
        "CREATE TRIGGER pgtrigger_fill_x BEFORE INSERT ON shop_voucher FOR EACH ROW "
        "WHEN (NEW.new_code IS NULL AND NEW.code IS NOT NULL) EXECUTE FUNCTION pgtrigger_fill_x()"
    )
    assert lost.statuses(old) == []


def test_a_field_that_is_still_there_is_forgotten_first(
    declared: Project, lost: Project, old: Database
) -> None:
    played(declared, old, "backfill", "swap")
    lost.write_models(BEFORE + "    new_code = models.CharField(max_length=16, null=True)\n")
    code, complaint = lost.refusal(old, "playbook", "contract", VOUCHERS)
    assert (code, complaint.count("\n")) == (1, 1)
    assert "Declare its Shadow again" in complaint
