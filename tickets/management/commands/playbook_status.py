from migrations_playbook.management.status_report import StatusCommand


class Command(StatusCommand):
    pass
