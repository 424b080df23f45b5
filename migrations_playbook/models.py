"""The models: none but what the admin's page is for, and without the admin none at all.

Django gives permissions and a place in the admin to models only. This one has no table, and no
migration: `migrate` makes its permissions.
"""

from __future__ import annotations

from django.apps import apps
from django.db import models

if apps.is_installed("django.contrib.admin"):

    class NoRows(models.Manager["Playbook"]):
        """A manager that asks no database, so that `dumpdata` looks for no table."""

        def get_queryset(self) -> models.QuerySet[Playbook]:
            """Return no row."""
            return super().get_queryset().none()

    class Playbook(models.Model):
        """A replacement in a database, as the admin's log and permissions know it."""

        name = models.CharField(primary_key=True, max_length=500)

        objects = NoRows()

        class Meta:
            managed = False
            base_manager_name = "objects"
            default_permissions = ("view",)
            permissions = (
                ("pause_playbook", "Can pause a backfill"),
                ("resume_playbook", "Can resume a backfill"),
                ("retune_playbook", "Can retune a backfill"),
            )
            verbose_name = "replacement"

        def __str__(self) -> str:
            return self.name
