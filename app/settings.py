"""Django's settings. They read the environment, and start nothing.

DATABASE_URL                A PostgreSQL, such as postgres://user:password@host:5432/name.
                            Without it the project brings its own: see app/embedded.
EMBEDDED_POSTGRES_DATA      That server's data folder (.postgres/<major version>).
EMBEDDED_POSTGRES_VERSION   Its major version: 18 (the default) or 16.
DJANGO_SECRET_KEY           Signs sessions. Set it wherever the site is served.
DJANGO_DEBUG                1 shows errors in full, and serves the admin's style sheets.
DJANGO_ALLOWED_HOSTS        Host names that the site answers to, separated by commas.
"""

import os
import sys
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent


def _databases(url: str) -> dict[str, Any]:
    """Return DATABASES for a DATABASE_URL; an empty one selects the embedded server."""
    if not url:
        if sys.platform == "win32":
            raise ImproperlyConfigured("The embedded PostgreSQL needs Unix: set DATABASE_URL.")
        return {"default": {"ENGINE": "app.embedded", "NAME": "tickets"}}
    try:
        default: dict[str, Any] = {**dj_database_url.parse(url)}
    except ValueError:
        default = {}
    if default.get("ENGINE") != "django.db.backends.postgresql":
        # The address is not repeated: it may hold a password.
        raise ImproperlyConfigured(
            "DATABASE_URL is not the address of a PostgreSQL database, "
            "such as postgres://user:password@host:5432/name."
        )
    return {"default": default}


def _embedded_version(text: str) -> int:
    """Return the embedded server's major version."""
    if text not in ("16", "18"):
        raise ImproperlyConfigured(f'EMBEDDED_POSTGRES_VERSION must be 18 or 16, not "{text}".')
    return int(text)


# Without a key of one's own every process has another: commands work and nothing secret is in the
# repository, but a session is good for one process only, so that a forgotten key is soon noticed.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or get_random_secret_key()
DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "pgtrigger",
    "migrations_playbook",
    "tickets",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
ROOT_URLCONF = "app.urls"
WSGI_APPLICATION = "app.wsgi.application"
STATIC_URL = "static/"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

DATABASES = _databases(os.environ.get("DATABASE_URL", ""))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
EMBEDDED_POSTGRES_VERSION = _embedded_version(os.environ.get("EMBEDDED_POSTGRES_VERSION", "18"))
EMBEDDED_POSTGRES_DATA = Path(
    os.environ.get("EMBEDDED_POSTGRES_DATA")
    or BASE_DIR / ".postgres" / str(EMBEDDED_POSTGRES_VERSION)
)

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
