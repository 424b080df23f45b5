# ruff: noqa: DJ008 - nobody reads these models
"""Three tables of one shape, which `conversions` measures side by side."""

from __future__ import annotations

from django.apps.registry import Apps
from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.db.models import F

from migrations_playbook import Shadow

registry = Apps()


class Measured(models.Model):
    """A row with a column for either meaning."""

    size = models.IntegerField()
    token = models.UUIDField()
    note = models.TextField()
    size_big = models.BigIntegerField(null=True)
    new_token = models.UUIDField(null=True)

    class Meta:
        abstract = True
        app_label = "bench"
        apps = registry


class Plain(Measured):
    """With a conversion whose triggers are gone, once it is filled."""


class Rotated(Measured):
    """With a rotation."""


class Converted(Measured):
    """With a conversion."""


WIDER = Shadow(live="size", shadow="size_big", up=F("size"), down=F("size_big"))
SHADOWS: dict[type[models.Model], Shadow] = {
    Rotated: Shadow(live="token", shadow="new_token", value=RandomUUID()),
    Converted: WIDER,
    Plain: WIDER,
}
