"""From the declaration to the contract in somebody else's project, nothing written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.database import Database
from tests.fixtures.dumps import with_columns_sorted
from tests.fixtures.project import BEFORE, CLEAN, DECLARED, SETTINGS, Project

VOUCHERS = "shop.Voucher.new_code"


def rotated(database: Database) -> int:
    """How many of the three rows have another code than at first."""
    return int(
        database.value(
            "SELECT count(*) FROM shop_voucher WHERE code <> ALL (ARRAY("
            "SELECT left(md5(i::text), 16) FROM generate_series(1, 3) AS i))"
        )
    )


def test_from_the_declaration_to_the_contract(tmp_path: Path, old: Database) -> None:
    project = Project.make(tmp_path)
    project.manage(old, "makemigrations", "shop")
    before = old.dump()
    project.write_models(DECLARED)
    assert f"manage.py playbook expand {VOUCHERS}" in project.manage(old, "playbook", "status")
    assert "0002_expand_voucher_new_code.py" in project.manage(old, "playbook", "expand")
    project.manage(old, *CLEAN)
    assert "manage.py migrate" in project.manage(old, "playbook", "status")
    project.manage(old, "migrate")
    project.manage(old, "playbook", "backfill")
    project.manage(old, "playbook", "swap")
    assert f"manage.py playbook forget {VOUCHERS}" in project.manage(old, "playbook", "status")

    project.write_models(BEFORE)
    assert "0003_forget_voucher_new_code.py" in project.manage(old, "playbook", "forget")
    project.manage(old, *CLEAN)
    project.manage(old, "migrate")
    # No model declares it any more; the database still has the leaked values.
    known = project.status(old)
    assert (known["phase"], known["shadow"]) == ("swapped", "new_code")
    assert f"manage.py playbook contract {VOUCHERS}" in known["next"]
    assert "Verified 3 of 3 rows" in project.manage(old, "playbook", "swap", VOUCHERS, "--verify")

    assert "0004_contract_voucher_new_code.py" in project.manage(old, "playbook", "contract")
    project.manage(old, *CLEAN)
    assert "manage.py migrate" in project.manage(old, "playbook", "status")
    project.manage(old, "migrate")
    assert project.statuses(old) == []
    assert rotated(old) == 3
    # django-pgtrigger keeps one function for all its triggers, and never drops it.
    old.run("DROP FUNCTION _pgtrigger_should_ignore")
    assert with_columns_sorted(old.dump()) == with_columns_sorted(before)


def test_a_database_that_was_left_behind_has_a_way_forward(
    contracted: Project, old: Database
) -> None:
    """It gets release N+3 at once, without the commands of release N+1."""
    code, complaint = contracted.refusal(old, "migrate")
    assert (code, complaint.count("\n")) == (1, 1)
    assert "is not swapped" in complaint
    assert "manage.py playbook status" in complaint
    said = contracted.manage(old, "playbook", "status")
    assert f"manage.py playbook backfill {VOUCHERS}" in said
    # The release's start has pruned the triggers that its models do not declare.
    contracted.manage(old, "pgtrigger", "install")
    assert old.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0
    old.run("INSERT INTO shop_voucher (code) VALUES ('written meanwhil')")
    said = contracted.manage(old, "playbook", "status")
    assert "is missing" in said
    assert f"manage.py playbook backfill {VOUCHERS}" in " ".join(said.split())
    said = contracted.manage(old, "playbook", "backfill", VOUCHERS)
    assert f"manage.py playbook swap {VOUCHERS}" in said
    old.run("INSERT INTO shop_voucher (code) VALUES ('written again...')")
    assert old.value("SELECT count(*) FROM shop_voucher WHERE new_code IS NULL") == 0
    contracted.manage(old, "playbook", "swap")
    contracted.manage(old, "migrate")
    assert rotated(old) == 5
    assert old.value("SELECT count(*) FROM shop_voucher WHERE code LIKE 'written%'") == 0


def test_fresh_squashed_and_lived_through_end_alike(
    contracted: Project, old: Database, fresh: Database, tmp_path: Path
) -> None:
    contracted.refusal(old, "migrate")
    contracted.manage(old, "playbook", "backfill")
    contracted.manage(old, "playbook", "swap")
    contracted.manage(old, "migrate")
    contracted.manage(fresh, "migrate")
    lived = with_columns_sorted(old.dump())
    assert with_columns_sorted(fresh.dump()) == lived

    squashed = contracted.copy(tmp_path / "project")
    squashed.manage(old, "squashmigrations", "shop", "0004", "--noinput")
    squashed.manage(old, *CLEAN)
    squashed.manage(old, "migrate")
    assert with_columns_sorted(old.dump()) == lived
    # django-pgtrigger's one function for all triggers: squashed, no trigger is ever made.
    old.run("DROP FUNCTION _pgtrigger_should_ignore")
    for anew in Database.temporary():
        squashed.manage(anew, "migrate")
        assert with_columns_sorted(anew.dump()) == with_columns_sorted(old.dump())
        squashed.manage(anew, "migrate", "shop", "zero")
    (name,) = [each for each in squashed.migrations() if "squashed" in each]
    text = (squashed.folder / "shop" / "migrations" / f"{name}.py").read_text()
    assert text.count("migrations.") == text.count("migrations.Migration") + 1  # CreateModel


def test_squashed_before_the_contract_the_history_is_known_as_ever(
    contracted: Project, old: Database, fresh: Database, tmp_path: Path
) -> None:
    """The expand and the forgetting become one, in which the contract finds what it needs."""
    lived = contracted.copy(tmp_path / "lived")
    squashed = contracted.copy(tmp_path / "squashed")
    (squashed.folder / "shop/migrations/0004_contract_voucher_new_code.py").rename(tmp_path / "4")
    squashed.manage(old, "squashmigrations", "shop", "0003", "--noinput")
    (name,) = [each for each in squashed.migrations() if "squashed" in each]
    text = (squashed.folder / "shop" / "migrations" / f"{name}.py").read_text()
    assert "SquashedExpand" in text
    squashed.manage(old, *CLEAN)
    for anew in Database.temporary():
        squashed.manage(anew, "migrate")
        lived.manage(fresh, "migrate", "shop", "0003")
        assert with_columns_sorted(anew.dump()) == with_columns_sorted(fresh.dump())
        squashed.play(anew, "contract")
        squashed.manage(anew, "migrate", "shop", name)
        assert with_columns_sorted(anew.dump()) == with_columns_sorted(fresh.dump())
        squashed.manage(anew, "migrate", "shop", "zero")


def test_where_nobody_watches_migrate_does_it_all(
    declared: Project, old: Database, tmp_path: Path
) -> None:
    project = declared.copy(tmp_path / "project")
    project.manage(None, "playbook", "ensure")
    project.write_models(BEFORE)
    project.manage(None, "playbook", "forget")
    project.manage(None, "playbook", "contract")
    project.manage(old, "migrate")
    assert rotated(old) == 3
    # The bounded lock needs a transaction, and this operation none: squashed, it is left out.
    project.manage(old, "squashmigrations", "shop", "0005", "--noinput")
    (squashed,) = [name for name in project.migrations() if "squashed" in name]
    text = (project.folder / "shop" / "migrations" / f"{squashed}.py").read_text()
    assert "EnsureSwapped" not in text
    assert "CreateModel" in text


def test_the_contracts_reverse_is_an_empty_column_and_the_triggers(
    contracted: Project, fresh: Database
) -> None:
    contracted.manage(fresh, "migrate", "shop", "0002")
    expanded = fresh.dump()
    contracted.manage(fresh, "migrate")
    contracted.manage(fresh, "migrate", "shop", "0003")
    assert with_columns_sorted(fresh.dump()) == with_columns_sorted(expanded)


def test_sqlmigrate_shows_what_the_contract_does(contracted: Project, fresh: Database) -> None:
    said = contracted.manage(fresh, "sqlmigrate", "shop", "0004")
    for part in ("LOCK TABLE", "DROP TRIGGER IF EXISTS pgtrigger_fill", 'DROP COLUMN "new_code"'):
        assert part in said


def test_a_reader_of_the_contract_sees_a_model_and_two_columns(contracted: Project) -> None:
    path = contracted.folder / "shop" / "migrations" / "0004_contract_voucher_new_code.py"
    text = path.read_text()
    assert "pgtrigger" not in text
    assert len(text.splitlines()) < 25
    for part in ("model_name='voucher'", "live='code'", "shadow='new_code'"):
        assert part in text.replace('"', "'")


def test_messages_name_an_alias_of_any_app_and_only_of_its_column(
    declared: Project, old: Database, tmp_path: Path
) -> None:
    project = declared.copy(tmp_path / "project")
    alias = "from migrations_playbook.management.{0} import {1}\n\n\nclass Command({1}):\n"
    of_it = '    model, shadow = "shop.voucher", "new_code"\n'
    for name, text in {
        "__init__": "",
        "fill_codes": alias.format("backfill", "BackfillCommand") + of_it,
        "swap_others": alias.format("swap", "SwapCommand") + of_it.replace("new_code", "other"),
        # Neither is an alias, and neither is loaded to find that out.
        "broken": "raise RuntimeError",
    }.items():
        project.write(f"ops/management/commands/{name}.py", text)
    for name in ("ops/__init__.py", "ops/management/__init__.py"):
        project.write(name, "")
    project.write("settings.py", SETTINGS.replace('"shop"', '"shop", "ops"'))
    project.manage(old, "migrate")
    assert "manage.py fill_codes" in project.manage(old, "playbook", "status")
    assert f'"manage.py playbook swap {VOUCHERS}"' in project.manage(old, "fill_codes")


def test_what_the_models_drift_in_otherwise_stays_out_of_it(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    project.manage(None, "makemigrations", "shop")
    drifted = "    note = models.TextField(default='')\n    new_code ="
    project.write_models(DECLARED.replace("    new_code =", drifted))
    said = project.manage(None, "playbook", "expand", "--dry-run")
    assert "new_code" in said
    assert "note" not in said
    assert project.migrations() == ["0001_initial"]


@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "text"])
def test_a_dry_run_shows_what_would_be_written(declared: Project, options: list[str]) -> None:
    names = declared.migrations()
    said = declared.manage(None, "playbook", "ensure", "--dry-run", *options)
    text = json.loads(said)["text"] if options else said
    assert "EnsureSwapped" in text
    assert "atomic = False" in text
    assert declared.migrations() == names


def test_a_value_that_was_edited_is_a_migration_of_the_triggers_alone(
    declared: Project, old: Database, tmp_path: Path
) -> None:
    project = declared.copy(tmp_path / "project")
    project.manage(old, "migrate")
    project.write_models(DECLARED.replace("), 16)", "), 15)"))
    said = project.manage(old, "playbook", "status")
    assert "draws by another value" in " ".join(said.split())
    assert "manage.py playbook expand" in " ".join(said.split())
    project.manage(old, "playbook", "expand")
    text = (project.folder / "shop/migrations/0003_expand_voucher_new_code.py").read_text()
    assert "AddField" not in text
    project.manage(old, *CLEAN)
    project.manage(old, "migrate")
    assert "draws by another value" not in " ".join(
        project.manage(old, "playbook", "status").split()
    )
    project.manage(old, "playbook", "backfill")
    assert old.value("SELECT max(length(new_code)) FROM shop_voucher") == 15


class TestRefusals:
    """One sentence, with the command that is right."""

    def test_expand_twice(self, declared: Project) -> None:
        code, complaint = declared.refusal(None, "playbook", "expand")
        assert code == 1
        assert 'Run "manage.py migrate"' in complaint

    def test_expand_before_the_table(self, tmp_path: Path) -> None:
        project = Project.make(tmp_path)
        project.write_models(DECLARED)
        _, complaint = project.refusal(None, "playbook", "expand")
        assert 'Run "manage.py makemigrations shop" first' in complaint

    def test_forget_while_the_model_has_it(self, declared: Project) -> None:
        _, complaint = declared.refusal(None, "playbook", "forget")
        assert "Take the field and its Shadow out of the model" in complaint

    def test_contract_before_forget(self, declared: Project) -> None:
        _, complaint = declared.refusal(None, "playbook", "contract", VOUCHERS)
        assert f"manage.py playbook forget {VOUCHERS}" in complaint

    def test_forget_and_contract_twice(self, contracted: Project) -> None:
        _, complaint = contracted.refusal(None, "playbook", "forget", VOUCHERS)
        assert "have forgotten shop.Voucher.new_code already" in complaint
        _, complaint = contracted.refusal(None, "playbook", "contract", VOUCHERS)
        assert "A migration drops shop.Voucher.new_code already" in complaint

    def test_what_no_migration_has(self, contracted: Project) -> None:
        _, complaint = contracted.refusal(None, "playbook", "contract", "shop.Voucher.other")
        assert "No migration has a shadow 'other' of shop.Voucher" in complaint
        code, complaint = contracted.refusal(None, "playbook", "contract")
        assert (code, complaint.count("\n")) == (1, 1)

    def test_migrations_that_do_not_fit_together(self, declared: Project, tmp_path: Path) -> None:
        project = declared.copy(tmp_path / "project")
        (project.folder / "shop" / "migrations" / "0001_initial.py").unlink()
        for play in ("forget", "ensure"):
            code, complaint = project.refusal(None, "playbook", play, VOUCHERS)
            assert (code, complaint.count("\n")) == (1, 1)
            assert "do not fit together" in complaint

    def test_two_last_migrations(self, declared: Project, tmp_path: Path) -> None:
        project = declared.copy(tmp_path / "project")
        folder = project.folder / "shop" / "migrations"
        text = (folder / "0002_expand_voucher_new_code.py").read_text()
        (folder / "0002_other.py").write_text(text)
        project.write_models(BEFORE)
        _, complaint = project.refusal(None, "playbook", "ensure", VOUCHERS)
        assert "makemigrations --merge" in complaint


def test_out_of_turn_without_a_name_it_says_what_comes_first(
    declared: Project, contracted: Project, old: Database
) -> None:
    """There is a shadow, so nobody is told to declare one."""
    for project, play, says in (
        (declared, "contract", 'run "manage.py playbook forget shop.Voucher.new_code"'),
        (contracted, "forget", 'run "manage.py playbook contract shop.Voucher.new_code"'),
        (contracted, "contract", "A migration drops shop.Voucher.new_code already"),
    ):
        code, complaint = project.refusal(old, "playbook", play)
        assert (code, complaint.count("\n"), says in complaint) == (1, 1, True)
