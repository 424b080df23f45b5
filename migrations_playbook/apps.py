"""The app, and the check of INSTALLED_APPS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, register
from django.db.models.signals import pre_migrate

from migrations_playbook.settings import find_mistakes


class MigrationsPlaybookConfig(AppConfig):
    """The app, which registers the checks, the receivers and the autodetector."""

    name = "migrations_playbook"
    verbose_name = "Migrations playbook"

    def ready(self) -> None:
        """Register the checks, the receivers of `pre_migrate` and the autodetector."""
        # Imported late: operations must not be loaded before the apps are.
        import migrations_playbook.expand.checks.register  # noqa: F401, PLC0415 - registers them
        from migrations_playbook.contract.changes import refuse_changes  # noqa: PLC0415
        from migrations_playbook.contract.guard import refuse_bare_removals  # noqa: PLC0415
        from migrations_playbook.replacement import declared_replacements  # noqa: PLC0415
        from migrations_playbook.writing.autodetector import (  # noqa: PLC0415
            install_autodetector,
        )

        install_autodetector()
        for replacement in declared_replacements():
            replacement.declaration.follow_saves(replacement.model)

        pre_migrate.connect(
            refuse_bare_removals, dispatch_uid="migrations_playbook.refuse_bare_removals"
        )
        pre_migrate.connect(refuse_changes, dispatch_uid="migrations_playbook.refuse_changes")


@register("migrations_playbook")
def check_installed(app_configs: Sequence[AppConfig] | None, **options: Any) -> list[CheckMessage]:
    """Check INSTALLED_APPS: without these no trigger is ever made, and nothing else says so."""
    from migrations_playbook.meaning.base import ShadowTrigger  # noqa: PLC0415 - as above

    declared = any(
        isinstance(each, ShadowTrigger)
        for model in apps.get_models()
        for each in getattr(model._meta, "triggers", ())
    )
    return [
        Error(
            f'A Shadow is declared, and "{name}" is not in INSTALLED_APPS.',
            hint=f'Write "{name}", in INSTALLED_APPS.',
            id="playbook.E019",
        )
        for name in ("pgtrigger", "migrations_playbook")
        if declared and not apps.is_installed(name)
    ]


@register("migrations_playbook")
def check_settings(app_configs: Sequence[AppConfig] | None, **options: Any) -> list[CheckMessage]:
    """Check the settings of ours: one that is misspelt would bound nothing, and say nothing."""
    return [Error(each.problem, hint=each.remedy, id="playbook.E033") for each in find_mistakes()]
