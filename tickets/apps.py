"""The app's place in the project."""

from django.apps import AppConfig


class TicketsConfig(AppConfig):
    """Tickets, whose tokens have leaked."""

    name = "tickets"
