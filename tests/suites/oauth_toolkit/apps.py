"""A shadow of every token of django-oauth-toolkit that is unique and made when its row is."""

from __future__ import annotations

import django
from django.apps import AppConfig, apps
from django.contrib.postgres.functions import RandomUUID
from django.core.management import call_command

from migrations_playbook import Group, RandomText, Sha256, Shadow

from .settings import STAGE, UNTOUCHED

SHADOWS: dict[str, Group | Shadow] = {
    "oauth2_provider.Application": Shadow("client_id", "new_client_id", RandomText(40)),
    "oauth2_provider.Grant": Shadow("code", "new_code", RandomText(30)),
    # Looked up by its checksum, which its `save()` makes of the token.
    "oauth2_provider.AccessToken": Group(
        Shadow("token", "new_token", RandomText(30)),
        Shadow("token_checksum", "new_token_checksum", Sha256("new_token")),
    ),
    "oauth2_provider.RefreshToken": Shadow("token", "new_token", RandomText(30)),
    "oauth2_provider.IDToken": Shadow("jti", "new_jti", RandomUUID()),
}
TARGETS = [f"{label}.{each.members[0].shadow}" for label, each in SHADOWS.items()]


class TestsConfig(AppConfig):
    """The app of the tests, which attaches the shadows as docs/howto-foreign-models.md says."""

    name = "tests"

    def ready(self) -> None:
        """Attach the shadows, but to what is to stay untouched."""
        for label, shadow in SHADOWS.items() if STAGE != UNTOUCHED else ():
            shadow.attach_to(apps.get_model(label))


def write_migrations() -> None:
    """Write the migration of the tests' own model; then that of each shadow, into our package."""
    django.setup()
    if STAGE == UNTOUCHED:
        call_command("makemigrations", "tests")
        return
    for target in TARGETS:
        call_command("playbook", "expand", target)


if __name__ == "__main__":
    write_migrations()
