from migrations_playbook.management.base import BackfillCommand


class Command(BackfillCommand):
    model, shadow = "tickets.Ticket", "new_token"
