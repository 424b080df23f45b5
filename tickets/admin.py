"""Tickets in the admin, without their tokens."""

from django.contrib import admin

from .models import Ticket


@admin.register(Ticket)
class TicketAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in its stubs only
    """Look a ticket up, see whether it is redeemed."""

    list_display = ("id", "redeemed_at")
    list_filter = (("redeemed_at", admin.EmptyFieldListFilter),)
    search_fields = ("=id",)
    # An exact count of all rows for every page of a list is a full scan of a large table.
    show_full_result_count = False
