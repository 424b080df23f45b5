"""What is sold: a ticket, and the secret that lets its bearer in."""

import uuid

from django.db import models


class Ticket(models.Model):
    """A ticket. Who knows its token can redeem it, so no list, log or message shows one."""

    id = models.BigAutoField(primary_key=True)
    token = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    redeemed_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"Ticket {self.pk}"
