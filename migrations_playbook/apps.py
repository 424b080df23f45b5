from django.apps import AppConfig


class MigrationsPlaybookConfig(AppConfig):
    name = "migrations_playbook"
    verbose_name = "Migrations playbook"

    def ready(self) -> None:
        from migrations_playbook import checks  # noqa: F401, PLC0415 - registers them
