"""The suite on other versions, pairwise: `make matrix`, or `nox -l` to see them.

Each two of a Python, a Django and a PostgreSQL stand together in one cell, but for the oldest
PostgreSQL, which has one. A cell whose Python or PostgreSQL is not there is skipped, and says so.
"""

import os
import shutil
import subprocess
from pathlib import Path

import nox

# Django 6.0 and 6.1 need Python 3.12.
CELLS = [
    nox.param("3.11", "5.2", "14"),
    nox.param("3.11", "5.2", "18"),
    nox.param("3.11", "5.2", "16"),
    nox.param("3.11", "5.2", "15"),
    nox.param("3.12", "5.2", "18"),
    nox.param("3.12", "6.0", "15"),
    nox.param("3.12", "6.1", "16"),
    nox.param("3.13", "5.2", "16"),
    nox.param("3.13", "6.0", "18"),
    nox.param("3.13", "6.1", "15", tags=["small"]),
    nox.param("3.14", "5.2", "15"),
    nox.param("3.14", "6.0", "16"),
    nox.param("3.14", "6.1", "18"),
]
# The embedded PostgreSQL's; others are Debian's.
EMBEDDED = {"16", "18"}

nox.needs_version = ">=2025"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
# A server that is started for the tests as root runs as another user, who must read its programs.
os.umask(0o022)
if pyenv := shutil.which("pyenv"):
    # pyenv has every Python at hand that is named here.
    versions = subprocess.run(
        [pyenv, "versions", "--bare"], check=True, capture_output=True, text=True
    )
    os.environ["PYENV_VERSION"] = ":".join(versions.stdout.split())


@nox.session
@nox.parametrize(("python", "django", "postgres"), CELLS)
def suite(session: nox.Session, django: str, postgres: str) -> None:
    """Run the tests, or those that are named after `--`."""
    programs = Path("/usr/lib/postgresql", postgres, "bin")
    if postgres not in EMBEDDED and not programs.exists():
        session.skip(f"PostgreSQL {postgres} is not in {programs}")
    groups = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "test")
    session.install("-r", "requirements.txt", *groups, f"Django=={django}.*")
    server = (
        {"EMBEDDED_POSTGRES_VERSION": postgres}
        if postgres in EMBEDDED
        else {"TEST_POSTGRES_BIN": str(programs)}
    )
    session.run("pytest", "-q", "-n", "3", "--dist", "worksteal", *session.posargs, env=server)
