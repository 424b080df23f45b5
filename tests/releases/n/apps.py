from django.apps import AppConfig


class TicketsConfig(AppConfig):
    name = "tests.releases.n"
    label = "tickets"
