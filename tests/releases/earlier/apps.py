from django.apps import AppConfig


class TicketsConfig(AppConfig):
    name = "tests.releases.earlier"
    label = "tickets"
