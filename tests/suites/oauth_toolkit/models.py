"""The application that the tests put in the place of django-oauth-toolkit's own."""

from __future__ import annotations

from oauth2_provider.models import AbstractApplication


class SampleApplication(AbstractApplication):  # type: ignore[misc]
    """An application as it comes, under another name."""
