from migrations_playbook.management.rehearse import RehearseCommand


class Command(RehearseCommand):
    model, shadow = "tickets.Ticket", "new_token"
