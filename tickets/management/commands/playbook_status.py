from migrations_playbook.management.status import StatusCommand


class Command(StatusCommand):
    pass
