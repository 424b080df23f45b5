import uuid

from django.db import models


class Ticket(models.Model):
    """The ticket whose table has no shadow column any more."""

    id = models.BigAutoField(primary_key=True)
    token = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    redeemed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        app_label = "tickets"

    def __str__(self) -> str:
        return f"Ticket {self.pk}"
