from migrations_playbook.management.backfill import BackfillCommand


class Command(BackfillCommand):
    model, shadow = "tickets.Ticket", "new_token"
