"""What the environment sets, and what is said when it is wrong."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.nursery import Program

ROOT = Path(__file__).resolve().parent.parent.parent

OTHERS = "DATABASE_URL", "DJANGO_SECRET_KEY", "DJANGO_DEBUG", "DJANGO_ALLOWED_HOSTS"


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in OTHERS}
    return Program(arguments, cwd=ROOT, env=inherited | environment).complete(timeout=60)


def setting(name: str, **environment: str) -> str:
    done = python("-c", f"from app import settings; print(settings.{name})", **environment)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///db.sqlite3",
        "mysql://user:hidden@host/name",
        "postgres://user:hidden@host:port/name",
        "postgres://[hidden/name",
        "hidden",
        "://",
    ],
)
def test_what_is_not_postgresql_is_refused_without_repeating_the_address(url: str) -> None:
    done = python("manage.py", "migrate", DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "manage.py: DATABASE_URL is not the address of a PostgreSQL database, "
        "such as postgres://user:password@host:5432/name.\n"
    )


def test_a_server_out_of_reach_is_one_sentence(tmp_path: Path) -> None:
    url = f"postgres://user:hidden@{str(tmp_path).replace('/', '%2F')}/name"
    # By the check of the tables, which comes first, and as something that may pass.
    done = python("manage.py", "migrate", DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.startswith('CommandError: The database "default" cannot be reached (')
    assert done.stderr.count("\n") == 1
    assert "hidden" not in done.stderr
    # By manage.py, of a command that checks nothing.
    done = python("manage.py", "showmigrations", "--skip-checks", DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("manage.py: connection ")
    assert done.stderr.count("\n") == 1
    assert "hidden" not in done.stderr


def test_a_server_that_is_too_old_is_one_sentence(tmp_path: Path) -> None:
    newer_django = (
        "import sys, manage;"
        "from django.db.backends.postgresql.features import DatabaseFeatures;"
        "DatabaseFeatures.minimum_database_version = (99,);"
        "sys.argv = ['manage.py', 'migrate'];"
        "manage.main()"
    )
    done = python("-c", newer_django, EMBEDDED_POSTGRES_DATA=str(tmp_path / "pg"))
    assert done.returncode == 1
    assert done.stderr.startswith("manage.py: PostgreSQL 99 or later is required (found ")
    assert done.stderr.count("\n") == 1


def test_traceback_shows_what_the_sentence_leaves_out() -> None:
    done = python("manage.py", "migrate", "--traceback", DATABASE_URL="hidden")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


@pytest.mark.parametrize("version", ["17", "eighteen", "-1"])
def test_the_embedded_server_has_two_versions(version: str) -> None:
    done = python("manage.py", "migrate", EMBEDDED_POSTGRES_VERSION=version)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f'manage.py: EMBEDDED_POSTGRES_VERSION must be 18 or 16, not "{version}".\n'
    )


def test_the_secret_key_is_the_environments_or_the_processes_own() -> None:
    assert setting("SECRET_KEY", DJANGO_SECRET_KEY="given") == "given"  # noqa: S106
    assert setting("SECRET_KEY") != setting("SECRET_KEY")


def test_nothing_is_shown_or_served_that_was_not_asked_for() -> None:
    assert setting("DEBUG") == "False"
    assert setting("DEBUG", DJANGO_DEBUG="1") == "True"
    assert setting("ALLOWED_HOSTS") == "['localhost', '127.0.0.1', '[::1]']"
    assert setting("ALLOWED_HOSTS", DJANGO_ALLOWED_HOSTS="a.example,b.example") == (
        "['a.example', 'b.example']"
    )
