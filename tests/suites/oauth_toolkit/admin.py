"""The classes that the tests name in the settings."""

from __future__ import annotations

from django.contrib.admin import ModelAdmin


class CustomApplicationAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Of an application."""


class CustomAccessTokenAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Of an access token."""


class CustomGrantAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Of a grant."""


class CustomIDTokenAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Of an ID token."""


class CustomRefreshTokenAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Of a refresh token."""
