from django.apps import AppConfig


class MigrationsPlaybookConfig(AppConfig):
    name = "migrations_playbook"
    verbose_name = "Migrations playbook"
