"""The same table in several schemas, as tenants have it: a command for one, or all in turn."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fixtures.database import Database
from tests.fixtures.project import BEFORE, DECLARED, SETTINGS, Project

TENANTS = ("tenant_a", "tenant_b", "tenant_c")
# As a package for tenants does it: each migration runs once in each schema, by the search_path.
PATH = (
    SETTINGS
    + """
if "TENANT" in os.environ:
    DATABASES["default"]["OPTIONS"] = {"options": f"-c search_path={os.environ['TENANT']},public"}
"""
)


def in_schema(schema: str, statement: str) -> str:
    return statement.format(table=f"{schema}.shop_voucher")


@pytest.fixture
def tenants(empty_database: Database, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose voucher stands in three schemas, expanded, with 300 rows each."""
    project = Project.make(tmp_path / "project")
    project.write("settings.py", PATH)
    project.write_models(BEFORE)
    project.manage(empty_database, "makemigrations", "shop")
    project.write_models(DECLARED)
    for schema in TENANTS:
        empty_database.run(f"CREATE SCHEMA {schema}")
        monkeypatch.setenv("TENANT", schema)
        project.manage(empty_database, "migrate", "shop", "0001")
        empty_database.run(
            in_schema(
                schema,
                "INSERT INTO {table} (code) SELECT 'code' || n FROM generate_series(1, 300) AS n",
            )
        )
        if schema == TENANTS[0]:
            monkeypatch.delenv("TENANT")
            project.manage(empty_database, "playbook", "expand")
            monkeypatch.setenv("TENANT", schema)
        project.manage(empty_database, "migrate", "shop")
    monkeypatch.delenv("TENANT")
    return project


def left(database: Database) -> list[int]:
    """Count the rows that are still to be filled, schema by schema."""
    query = "SELECT count(*) FROM {table} WHERE new_code IS NULL"
    return [database.value(in_schema(schema, query)) for schema in TENANTS]


def fresh(database: Database) -> list[bool]:
    """Tell, schema by schema, whether every live code is a fresh one."""
    query = "SELECT bool_and(code NOT LIKE 'code%%') FROM {table}"
    return [database.value(in_schema(schema, query)) for schema in TENANTS]


def test_one_schema_or_all_of_them_in_turn(tenants: Project, empty_database: Database) -> None:
    done = tenants.manage(empty_database, "playbook", "backfill", "--schema", "tenant_b")
    assert left(empty_database) == [300, 0, 300]
    assert 'Next: "manage.py playbook swap shop.Voucher.new_code --schema tenant_b".' in done

    tenants.manage(empty_database, "playbook", "swap", "--schema", "tenant_b")
    assert fresh(empty_database) == [False, True, False]

    done = tenants.manage(empty_database, "playbook", "backfill", "--schema", "tenant_[ac]")
    assert left(empty_database) == [0, 0, 0]
    assert done.endswith("All 2 schemas are done.\n")

    # The same command for all: a schema that has had its turn has nothing left to do.
    done = tenants.manage(empty_database, "playbook", "swap", "--schema", "tenant_*")
    assert fresh(empty_database) == [True, True, True]
    assert "Schema tenant_b:\nNothing is left to do.\n" in done
    tenants.manage(empty_database, "playbook", "swap", "--verify", "--schema", "*")

    states = json.loads(
        tenants.manage(empty_database, "playbook", "status", "--schema", "*", "--json")
    )
    assert [(each["schema"], each["phase"]) for each in states] == [
        (schema, "swapped") for schema in TENANTS
    ]

    tenants.manage(empty_database, "playbook", "swap", "--revert", "--schema", "*")
    assert fresh(empty_database) == [False, False, False]


def test_a_schema_that_is_refused_or_not_there_keeps_no_other_from_its_turn(
    tenants: Project, empty_database: Database
) -> None:
    tenants.manage(empty_database, "playbook", "backfill", "--schema", "*")
    empty_database.run("ALTER TABLE tenant_b.shop_voucher DISABLE TRIGGER ALL")

    done = tenants.run(empty_database, "playbook", "swap", "--schema", "*", "--json")

    result = json.loads(done.stdout)
    assert done.returncode == 1
    assert fresh(empty_database)[0::2] == [True, True]
    assert result["schemas"]["tenant_a"]["phase"] == "swapped"
    assert "error" in result["schemas"]["tenant_b"]
    assert result["error"].startswith("2 of 3 schemas are done. tenant_b: ")

    code, sentence = tenants.refusal(empty_database, "playbook", "swap", "--schema", "tenant_z")
    assert code == 1
    assert "There are: tenant_a, tenant_b, tenant_c." in sentence
