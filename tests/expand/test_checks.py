"""What a model may declare; each hint is a command, or a line to write."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.postgres.functions import RandomUUID
from django.core.checks import CheckMessage, run_checks
from django.core.management import CommandError, call_command
from django.db import models
from django.db.migrations.state import ModelState
from django.db.models import F
from django.db.models.functions import Coalesce
from django.test.utils import isolate_apps

from migrations_playbook import Shadow
from migrations_playbook.expand import checks
from migrations_playbook.expand.checks import declaration_errors
from tests.fixtures.database import PROJECT, Database
from tickets.models import Ticket

VALUE = RandomUUID()
TOKEN = Shadow(live="token", shadow="new_token", value=VALUE)


def errors_of(shadow: Shadow = TOKEN, **options: Any) -> Any:
    """The ids and hints for a model with these fields, beside a right token and new_token."""
    return [(each.id, each.hint) for each in checked(shadow, **options)]


def messages_of(shadow: Shadow = TOKEN, **options: Any) -> list[str]:
    return [each.msg for each in checked(shadow, **options)]


def checked(
    shadow: Shadow, *, meta: dict[str, Any] | None = None, **fields: Any
) -> list[CheckMessage]:
    with isolate_apps("tickets"):
        attributes = {
            "__module__": __name__,
            "token": models.UUIDField(unique=True, default=uuid.uuid4),
            "new_token": models.UUIDField(null=True),
            "Meta": type("Meta", (), {"app_label": "tickets", **(meta or {})}),
            **fields,
        }
        model = type("Subject", (models.Model,), {k: v for k, v in attributes.items() if v})
        return list(declaration_errors(model, shadow))


def test_a_right_declaration_has_no_errors() -> None:
    assert errors_of() == []


def test_a_live_column_that_may_be_null_is_right_too() -> None:
    assert errors_of(token=models.UUIDField(null=True, unique=True)) == []


def test_the_project_itself_has_none() -> None:
    assert [each for each in run_checks() if str(each.id).startswith("playbook")] == []


def test_an_unmanaged_model_is_never_expanded() -> None:
    assert errors_of(meta={"managed": False}) == [
        (
            "playbook.E001",
            "Set managed = True, or move the Shadow(...).triggers to a model with a table.",
        )
    ]


def test_an_abstract_model_has_no_table_to_expand() -> None:
    (first, *_) = errors_of(meta={"abstract": True})
    assert first == (
        "playbook.E001",
        "Set managed = True, or move the Shadow(...).triggers to a model with a table.",
    )


def test_a_proxy_has_no_columns_of_its_own() -> None:
    with isolate_apps("tickets"):

        class Origin(models.Model):  # noqa: DJ008
            token = models.UUIDField(default=uuid.uuid4)
            new_token = models.UUIDField(null=True)

            class Meta:
                app_label = "tickets"

        class Proxy(Origin):  # noqa: DJ008
            class Meta:
                app_label = "tickets"
                proxy = True

        found = [(each.id, each.hint) for each in declaration_errors(Proxy, TOKEN)]
    assert found[0] == (
        "playbook.E001",
        "Move the Shadow(...).triggers to the Meta of tickets.Origin.",
    )


def test_a_child_does_not_declare_its_parents_columns() -> None:
    with isolate_apps("tickets"):

        class Origin(models.Model):  # noqa: DJ008
            token = models.UUIDField(default=uuid.uuid4)
            new_token = models.UUIDField(null=True)

            class Meta:
                app_label = "tickets"

        class Heir(Origin):  # noqa: DJ008
            class Meta:
                app_label = "tickets"

        found = {(each.id, each.hint) for each in declaration_errors(Heir, TOKEN)}
    assert found == {
        ("playbook.E003", "Move the Shadow(...).triggers to the Meta of tickets.Origin.")
    }


def test_a_missing_shadow_is_a_line_to_write() -> None:
    assert errors_of(new_token=None) == [
        (
            "playbook.E002",
            (
                "Write new_token = models.UUIDField(null=True, editable=False), "
                'then run "manage.py makemigrations".'
            ),
        )
    ]


def test_a_missing_live_field_is_a_name_to_correct() -> None:
    assert errors_of(token=None) == [
        ("playbook.E002", "Write token = ..., or correct the live of the Shadow.")
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"new_token": models.TextField(null=True)},
            (
                "playbook.E005",
                "Write new_token = models.UUIDField(null=True, editable=False).",
            ),
        ),
        (
            {
                "token": models.CharField(max_length=40, unique=True),
                "new_token": models.CharField(max_length=20, null=True),
            },
            (
                "playbook.E005",
                "Write new_token = models.CharField(max_length=40, null=True, editable=False).",
            ),
        ),
        (
            {"new_token": models.UUIDField()},
            (
                "playbook.E006",
                "Write new_token = models.UUIDField(null=True, editable=False).",
            ),
        ),
        (
            {"new_token": models.UUIDField(null=True, default=uuid.uuid4)},
            ("playbook.E007", "Take the default of new_token away; the trigger fills it."),
        ),
        (
            {"new_token": models.UUIDField(null=True, db_default=RandomUUID())},
            ("playbook.E007", "Take the default of new_token away; the trigger fills it."),
        ),
        (
            {"token": models.UUIDField(primary_key=True)},
            (
                "playbook.E008",
                (
                    "Give tickets.Subject a key of its own, id = "
                    "models.BigAutoField(primary_key=True), and make "
                    "token unique instead; then declare the Shadow."
                ),
            ),
        ),
        (
            {"new_token": models.UUIDField(null=True, db_column="n" * 64)},
            ("playbook.E009", 'Write db_column="..." with a shorter name.'),
        ),
        (
            {"new_token": models.UUIDField(null=True, db_column="100%")},
            ("playbook.E012", 'ALTER TABLE ... RENAME it, and write db_column="..." without one.'),
        ),
        (
            {
                "token": models.CharField(max_length=36, unique=True, db_collation="C"),
                "new_token": models.CharField(max_length=36, null=True),
            },
            (
                "playbook.E005",
                (
                    "Write new_token = models.CharField(max_length=36, db_collation='C', "
                    "null=True, editable=False)."
                ),
            ),
        ),
        (
            {"new_token": models.UUIDField(null=True, unique=True)},
            (
                "playbook.E013",
                (
                    "Write new_token = models.UUIDField(null=True, editable=False), and name it "
                    "in no index or constraint of the Meta."
                ),
            ),
        ),
    ],
)
def test_a_wrong_field_is_a_line_to_write(fields: dict[str, Any], expected: Any) -> None:
    assert errors_of(**fields) == [expected]


@pytest.mark.parametrize(
    ("fields", "meta"),
    [
        ({"new_token": models.UUIDField(null=True, db_index=True)}, {}),
        ({"new_token": models.SlugField(null=True), "token": models.SlugField()}, {}),
        ({}, {"indexes": [models.Index(fields=["-new_token"], name="one")]}),
        ({}, {"constraints": [models.UniqueConstraint(fields=["new_token"], name="one")]}),
        ({}, {"unique_together": [("id", "new_token")]}),
    ],
)
def test_a_shadow_is_in_no_index_that_the_expand_would_build_under_its_lock(
    fields: dict[str, Any], meta: dict[str, Any]
) -> None:
    assert "playbook.E013" in [number for number, _ in errors_of(meta=meta, **fields)]


@pytest.mark.parametrize(
    "live",
    [
        models.SlugField(unique=True),
        models.CharField(max_length=40, db_collation="C", default="x", db_index=True),
        models.DecimalField(max_digits=20, decimal_places=0, unique=True),
        models.EmailField(unique=True, verbose_name="an address"),
        models.BinaryField(max_length=16),
        models.BigIntegerField(db_column="other"),
    ],
    ids=lambda field: type(field).__name__,
)
def test_the_line_of_the_hint_works_when_it_is_pasted(live: models.Field[Any, Any]) -> None:
    wrong: dict[str, Any] = {"token": live, "new_token": None}
    hint = dict(errors_of(**wrong))["playbook.E002"]
    name, line = hint.removeprefix("Write ").split(", then run")[0].split(" = ")
    field = eval(line, {"models": models})  # noqa: S307 - what a user would paste
    found = [each for each, _ in errors_of(token=live.clone(), **{name: field})]
    assert [each for each in found if each not in ("playbook.E015",)] == []


def test_a_collation_is_named_where_it_is_the_difference() -> None:
    errors = messages_of(
        token=models.CharField(max_length=36, db_collation="C"),
        new_token=models.CharField(max_length=36, null=True),
    )
    assert errors == [
        'Shadow: new_token (varchar(36)) is of another type than token (varchar(36) COLLATE "C").'
    ]


def test_a_foreign_key_to_the_live_column_is_named() -> None:
    with isolate_apps("tickets"):

        class Origin(models.Model):  # noqa: DJ008
            token = models.UUIDField(unique=True)
            new_token = models.UUIDField(null=True)

            class Meta:
                app_label = "tickets"

        class Visit(models.Model):  # noqa: DJ008
            ticket = models.ForeignKey(Origin, models.CASCADE, to_field="token")

            class Meta:
                app_label = "tickets"

        del Visit
        (error,) = declaration_errors(Origin, TOKEN)
    assert error.id == "playbook.E018"
    assert error.msg.startswith("Shadow: tickets.Visit.ticket refers to token")
    assert error.hint == (
        "Let tickets.Visit.ticket refer to the primary key: take to_field='token' from it."
    )


@pytest.mark.parametrize("declared", [TOKEN, [TOKEN], TOKEN.triggers])
def test_with_or_without_triggers_behind_it_a_declaration_is_the_same(declared: Any) -> None:
    with isolate_apps("tickets"):

        class Subject(models.Model):  # noqa: DJ008
            token = models.UUIDField(unique=True)
            new_token = models.UUIDField(null=True)

            class Meta:
                app_label = "tickets"
                triggers = declared

    state = ModelState.from_model(Subject)
    for options in (vars(Subject._meta), state.options):
        assert [each.name for each in options["triggers"]] == ["fill_new_token", "keep_new_token"]


@pytest.mark.parametrize(
    "spelled", [lambda each: each, lambda each: [each], lambda each: each.triggers]
)
def test_a_shadow_outside_of_the_meta_is_found(
    monkeypatch: pytest.MonkeyPatch, spelled: Callable[[Shadow], object]
) -> None:
    shadow = Shadow(live="token", shadow="other", value=VALUE)
    monkeypatch.setattr(Ticket, "shadow", spelled(shadow), raising=False)
    (error,) = checks.check_declarations(None)
    assert error.msg.startswith("tickets.Ticket.shadow is a Shadow outside of the Meta")


@pytest.mark.parametrize("names", [(None, 7), ("", "a b"), (uuid.uuid4, Shadow)])
def test_names_that_are_none_are_a_sentence(names: Any) -> None:
    shadow = Shadow(live=names[0], shadow=names[1], value=VALUE)
    assert len(shadow.triggers) == 2
    assert [number for number, _ in errors_of(shadow)] == ["playbook.E002", "playbook.E002"]


@pytest.mark.parametrize("app", ["pgtrigger", "migrations_playbook"])
def test_an_app_that_is_not_installed_is_a_line_to_write(app: str, tmp_path: Path) -> None:
    """A project's first try: the declaration is there, and settings lack an app."""
    (tmp_path / "partly.py").write_text(
        f"from app.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS]\n"
        f"INSTALLED_APPS.remove({app!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=PROJECT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "partly",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT)]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f'(playbook.E019) A Shadow is declared, and "{app}" is not in INSTALLED_APPS.' in (
        done.stderr
    )
    assert "Traceback" not in done.stderr


def test_the_package_is_imported_where_no_settings_are() -> None:
    """As a tool does that asks for its version, or a settings file itself."""
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", "import migrations_playbook"],
        cwd=PROJECT,
        env=environment,
        check=True,
    )


def test_a_column_is_not_its_own_shadow() -> None:
    shadow = Shadow(live="token", shadow="token", value=VALUE)
    assert errors_of(shadow) == [("playbook.E004", "Name two fields.")]


def test_a_python_function_is_no_value() -> None:
    shadow = Shadow(live="token", shadow="new_token", value=uuid.uuid4)  # type: ignore[arg-type]
    assert errors_of(shadow) == [
        ("playbook.E010", "Write value=RandomUUID(), or another database function.")
    ]


def test_a_value_that_converts_a_column_would_carry_the_leak_over() -> None:
    shadow = Shadow(live="token", shadow="new_token", value=Coalesce(F("token"), RandomUUID()))
    assert errors_of(shadow) == [
        ("playbook.E011", "Write value=RandomUUID(), or another expression without F().")
    ]


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (
            (
                "DROP TABLE tickets_ticket CASCADE; CREATE TABLE tickets_ticket "
                "(id bigint, token uuid, redeemed_at timestamptz) PARTITION BY HASH (token)"
            ),
            "its table is partitioned by token, whose value says in which partition a row is",
        ),
        ("CREATE TABLE vip () INHERITS (tickets_ticket)", "its table is inherited by vip"),
    ],
)
def test_a_table_of_an_unsound_kind_is_refused_before_it_is_expanded(
    statements: str, why: str, empty_database: Database
) -> None:
    call_command("migrate", "tickets", "0001", verbosity=0)
    for statement in statements.split("; "):
        empty_database.run(statement)
    before = empty_database.dump()
    done = empty_database.manage("migrate")
    assert done.returncode == 1
    assert "(playbook.E020)" in done.stderr
    assert why in done.stderr
    assert empty_database.dump() == before


def test_without_the_checks_the_migration_itself_refuses_what_could_not_be_swapped(
    empty_database: Database,
) -> None:
    call_command("migrate", "tickets", "0001", verbosity=0)
    empty_database.run("CREATE TABLE vip () INHERITS (tickets_ticket)")
    before = empty_database.dump()
    done = empty_database.manage("migrate", "tickets", "--skip-checks")
    assert done.returncode == 1
    assert "tickets_ticket is inherited by" in done.stderr
    assert "nothing was changed" in done.stderr
    assert empty_database.dump() == before


def test_a_refused_declaration_stops_the_commands(database: Database) -> None:
    database.run("CREATE TABLE vip () INHERITS (tickets_ticket)")
    with pytest.raises(CommandError, match=r"inherited by public\.vip"):
        call_command("swap_token_columns")
