from migrations_playbook.management.base import SwapCommand


class Command(SwapCommand):
    model, shadow = "tickets.Ticket", "new_token"
