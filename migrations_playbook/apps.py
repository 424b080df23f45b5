from django.apps import AppConfig
from django.db.models.signals import pre_migrate


class MigrationsPlaybookConfig(AppConfig):
    name = "migrations_playbook"
    verbose_name = "Migrations playbook"

    def ready(self) -> None:
        # Imported late: operations must not be loaded before the apps are.
        from migrations_playbook.contract.guard import refuse_bare_removals  # noqa: PLC0415
        from migrations_playbook.expand import checks  # noqa: F401, PLC0415 - registers them

        pre_migrate.connect(
            refuse_bare_removals, dispatch_uid="migrations_playbook.refuse_bare_removals"
        )
