from migrations_playbook.management.swap import SwapCommand


class Command(SwapCommand):
    model, shadow = "tickets.Ticket", "new_token"
