"""What is sold: a ticket, and the secret that lets its bearer in."""

import uuid

from django.contrib.postgres.functions import RandomUUID
from django.db import models

from migrations_playbook import Shadow


class Ticket(models.Model):
    """A ticket. Who knows its token can redeem it, so no list, log or message shows one.

    The tokens have leaked: `new_token` collects the fresh ones until the two are exchanged.
    """

    id = models.BigAutoField(primary_key=True)
    token = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    redeemed_at = models.DateTimeField(null=True, blank=True)
    new_token = models.UUIDField(null=True, editable=False)

    class Meta:
        triggers = Shadow(live="token", shadow="new_token", value=RandomUUID()).triggers

    def __str__(self) -> str:
        return f"Ticket {self.pk}"
