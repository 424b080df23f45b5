from django.apps import AppConfig


class TicketsConfig(AppConfig):
    name = "tests.releases.n2"
    label = "tickets"
