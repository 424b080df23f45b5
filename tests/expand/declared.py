"""What the checks say to a declaration, beside right fields."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.postgres.functions import RandomUUID
from django.core.checks import CheckMessage
from django.db import models
from django.test.utils import isolate_apps

from migrations_playbook import Shadow
from migrations_playbook.expand.checks.register import declaration_errors

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
