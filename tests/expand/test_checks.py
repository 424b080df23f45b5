"""Which model may declare a shadow, and where the declaration is found."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import models
from django.db.migrations.state import ModelState
from django.test.utils import isolate_apps

from migrations_playbook import Shadow
from migrations_playbook.expand.checks.register import check_declarations, declaration_errors
from tests.expand.declared import TOKEN, VALUE, errors_of
from tests.fixtures.database import PROJECT
from tickets.models import Ticket


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
    (error,) = check_declarations(None)
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
