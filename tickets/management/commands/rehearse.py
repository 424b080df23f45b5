from migrations_playbook.management.rehearse import RehearseCommand


class Command(RehearseCommand):
    model, shadow = "tickets.Ticket", "new_token"
    backfill, swap = ("backfill_new_token",), ("swap_token_columns",)
