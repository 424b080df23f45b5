from django.apps import AppConfig


class TicketsConfig(AppConfig):
    name = "tests.releases.n3"
    label = "tickets"
