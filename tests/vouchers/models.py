"""A voucher: whoever knows its code can spend it."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.db.models.functions import MD5, Cast, Left

from migrations_playbook import Shadow

CODE = 12


class Shop(models.Model):
    name = models.CharField(max_length=40)

    def __str__(self) -> str:
        return self.name


class Voucher(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    shop = models.ForeignKey(Shop, on_delete=models.CASCADE, db_column="Shop")
    code = models.CharField(max_length=CODE, unique=True, db_column="Code")
    new_code = models.CharField(max_length=CODE, null=True, editable=False)  # noqa: DJ001
    note = models.CharField(max_length=20, blank=True)
    spent_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["note"], name="voucher_note")]  # noqa: RUF012
        triggers = Shadow(
            live="code",
            shadow="new_code",
            value=Left(MD5(Cast(RandomUUID(), models.TextField())), CODE),
        ).triggers

    def __str__(self) -> str:
        return f"Voucher {self.pk}"

    def save(self, *args: Any, **options: Any) -> None:
        """Draw the code of a new voucher."""
        self.code = self.code or secrets.token_hex(CODE // 2)
        super().save(*args, **options)
