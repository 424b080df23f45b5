"""A group is exchanged, forgotten and contracted in somebody else's project, by commands alone."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fixtures.database import Database
from tests.fixtures.project import CLEAN, Project
from tests.groups.test_commands import DECLARED, ITS_OWN, PLAIN

LIVE = f"SELECT {ITS_OWN.format('checksum', 'code')}, count(*) FROM shop_voucher"  # noqa: S608


def test_a_group_goes_from_its_declaration_to_its_contract(
    tmp_path: Path, empty_database: Database
) -> None:
    project, database = Project.make(tmp_path), empty_database
    project.write_models(PLAIN)
    project.manage(database, "makemigrations", "shop")
    project.manage(database, "migrate")
    database.run(
        "INSERT INTO shop_voucher (code, checksum) "
        "SELECT i::text, encode(sha256(i::text::bytea), 'hex') FROM generate_series(1, 9) AS i"
    )
    project.write_models(DECLARED)
    project.play(database, "expand", "backfill")

    assert "-- Exchanged together: code <- new_code, checksum <- a_checksum\n" in project.manage(
        database, "playbook", "swap", "--dry-run"
    )
    # Told a member, the whole group is played.
    said = project.manage(database, "playbook", "swap", "shop.Voucher.a_checksum")
    assert "Exchanged code and checksum: the lock was held" in said
    assert database.fetch(LIVE) == [(9, 9)]
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
    assert database.fetch(LIVE) == [(9, 9)]
    assert database.value("SELECT count(*) FROM shop_voucher WHERE length(code) = 16") == 9
    assert database.memory() == []
    left = "SELECT proname FROM pg_proc WHERE proname ~ '^(pgtrigger|migrations_playbook)'"
    assert database.fetch(left) == []
