"""How a project may have set its connections up, and several databases: every play still works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.database import Database, create_database, drop_database
from tests.fixtures.project import DECLARED, SETTINGS, Project

VARIANTS = {
    "pool": """
DATABASES["default"]["OPTIONS"] = {"pool": {"max_size": 4}, "server_side_binding": True}
DATABASES["default"]["ATOMIC_REQUESTS"] = True
""",
    "persistent": """
from psycopg import IsolationLevel

DATABASES["default"]["CONN_MAX_AGE"] = 600
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DATABASES["default"]["OPTIONS"] = {
    "isolation_level": IsolationLevel.SERIALIZABLE,
    "options": "-c search_path=shop,public",
}
""",
}
TWO_DATABASES = """
DATABASES["vouchers"] = {**DATABASES["default"], "NAME": os.environ["VOUCHERS"]}
DATABASE_ROUTERS = ["shop.routers.Vouchers"]
"""
ROUTER = """
class Vouchers:
    def db_for_read(self, model, **hints):
        return "vouchers" if model._meta.app_label == "shop" else None

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, **hints):
        return (db == "vouchers") if app_label == "shop" else None
"""
FRESH = "SELECT bool_and(code NOT LIKE 'code%%') FROM {}"
ADD = "INSERT INTO {} (code) SELECT 'code' || n FROM generate_series(1, 300) AS n"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_rotation_whatever_the_connections_options(
    variant: str, empty_database: Database, tmp_path: Path
) -> None:
    empty_database.run("CREATE SCHEMA shop")
    table = "public.shop_voucher" if variant == "pool" else "shop.shop_voucher"
    project = Project.make(tmp_path / "project")
    project.write("settings.py", SETTINGS + VARIANTS[variant])
    project.manage(empty_database, "makemigrations", "shop")
    project.manage(empty_database, "migrate")
    empty_database.run(ADD.format(table))
    project.write_models(DECLARED)
    project.play(empty_database, "expand")
    project.manage(empty_database, "playbook", "backfill", "--workers", "2")
    project.manage(empty_database, "playbook", "swap")
    project.manage(empty_database, "playbook", "swap", "--verify")
    assert empty_database.value(FRESH.format(table))
    project.manage(empty_database, "playbook", "swap", "--revert")
    assert not empty_database.value(FRESH.format(table))


def test_of_several_databases_only_the_one_that_has_the_table_is_touched(
    empty_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{empty_database.name}_vouchers"
    create_database(name)
    try:
        monkeypatch.setenv("VOUCHERS", name)
        project = Project.make(tmp_path / "project")
        project.write("settings.py", SETTINGS + TWO_DATABASES)
        project.write("shop/routers.py", ROUTER)
        project.manage(empty_database, "makemigrations", "shop")
        project.write_models(DECLARED)
        project.manage(empty_database, "playbook", "expand")
        for alias in ("default", "vouchers"):
            project.manage(empty_database, "migrate", "--database", alias)
        vouchers = Database(name)
        vouchers.run(ADD.format("shop_voucher"))

        _, sentence = project.refusal(empty_database, "playbook", "backfill")
        assert (
            'keep shop.Voucher out of the database "default": say --database vouchers' in sentence
        )
        states = project.manage(empty_database, "playbook", "status", "--json")
        assert json.loads(states)[0]["next"] in sentence

        for arguments in (("backfill",), ("swap",), ("swap", "--verify"), ("status",)):
            project.manage(empty_database, "playbook", *arguments, "--database", "vouchers")
        assert vouchers.value(FRESH.format("shop_voucher"))
        tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'shop%%'"
        assert empty_database.value(tables) == 0
    finally:
        drop_database(name)
