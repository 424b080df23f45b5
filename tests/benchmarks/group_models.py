# ruff: noqa: DJ001, DJ008 - a shadow is null, and nobody reads these models
"""Four tables of one shape, which `groups` measures side by side."""

from __future__ import annotations

from django.apps.registry import Apps
from django.db import models

from migrations_playbook import HEX, Group, RandomText, Sha256, Shadow

registry = Apps()


class Measured(models.Model):
    """A row with a token, what is made of it, and another token."""

    token = models.TextField()
    checksum = models.CharField(max_length=64)
    code = models.TextField()
    note = models.TextField()
    new_token = models.TextField(null=True)
    new_checksum = models.CharField(max_length=64, null=True)
    new_code = models.TextField(null=True)

    class Meta:
        abstract = True
        app_label = "bench"
        apps = registry


class Alone(Measured):
    """With a shadow of the token alone."""


class Checked(Measured):
    """With a group of the token and its checksum."""


class Twice(Measured):
    """With a group of the two tokens."""


class Apart(Measured):
    """With a shadow of either token."""


TOKEN = Shadow("token", "new_token", RandomText(32, HEX))
CHECKSUM = Shadow("checksum", "new_checksum", Sha256("new_token"))
CODE = Shadow("code", "new_code", RandomText(32, HEX))
# What is filled in turn: a group by its first member.
SHADOWS: dict[type[models.Model], tuple[Shadow, ...]] = {
    Alone: (TOKEN,),
    Checked: Group(TOKEN, CHECKSUM).members[:1],
    Twice: Group(TOKEN, CODE).members[:1],
    Apart: (TOKEN, CODE),
}
