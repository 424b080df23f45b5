"""Build the package, install it alone, and play the tutorial with it: `python -m tests.wheel`.

The project that the tutorial makes is somebody else's: an empty environment, a folder of its own,
and a PostgreSQL that knows nothing of this repository. The sdist is tried too: its tests run from
it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import psycopg

from tests.fixtures.database import PROJECT
from tests.fixtures.server import new_server, server_programs
from tests.wheel.tutorial import File, read_tutorial, run_command, write_file

CODE = re.compile(r"[A-Za-z0-9_-]{16}")
# What an installation brings, apart from psycopg's own libpq, which the tutorial asks for.
BROUGHT = {
    "asgiref",
    "django",
    "django-migrations-playbook",
    "django-pgtrigger",
    "markdown-it-py",
    "mdurl",
    "psycopg",
    "pygments",
    "rich",
    "sqlparse",
    "typing-extensions",
}
CHOSEN = {"pip", "psycopg-binary", "setuptools"}
# Beside Django, in MB.
MOST = 40
# Alpine's Pythons, for which no wheel of manylinux is of use.
MUSL = "musllinux_1_2_x86_64"
MUSL_PYTHONS = ("3.11", "3.12", "3.13")
# A few tests of each sort, the whole suite being run elsewhere.
OF_SDIST = ("tests/test_packaging.py", "tests/test_frozen_addresses.py", "tests/test_status.py")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="playbook-wheel-") as name:
        folder = Path(name)
        # The server runs as another user, who must get to its data folder.
        folder.chmod(0o711)
        wheel, sdist = build_package(folder / "dist")
        say(f"built {wheel.name} and {sdist.name}")
        assert files_left_out(wheel) == []
        for python in MUSL_PYTHONS:
            resolve_for_musl(wheel, python)
        say("on musl it needs nothing that is compiled, but for libpq")
        run_tests_of(sdist, folder / "sdist")
        say("the sdist's tests run from it")
        with new_server(folder / "server" / "data", shared_buffers="16MB") as server:
            programs = (
                folder / "site" / ".venv" / "bin",
                Path(sys.executable).parent,
                server_programs(),
            )
            environment = {
                "HOME": name,
                "LANG": "C.UTF-8",
                "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
                "PGHOST": server.host,
                "PGPORT": str(server.port),
                "PGUSER": "postgres",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            }
            play_tutorial(folder / "site", wheel, environment, server.url("shop"))
        say("the tutorial was played, from the declaration to the contract")


def build_package(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it; return the wheel and the sdist."""
    run(sys.executable, "-m", "build", "--outdir", folder, PROJECT, cwd=PROJECT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def files_left_out(wheel: Path) -> list[str]:
    """The package's files that are not in the wheel: a template or a style sheet, say."""
    package = PROJECT / "migrations_playbook"
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    files = (path for path in package.rglob("*") if path.is_file())
    names = (str(path.relative_to(PROJECT)) for path in files if path.suffix != ".pyc")
    return sorted(name for name in names if name not in packed)


def resolve_for_musl(wheel: Path, python: str) -> None:
    """Make sure that pip finds all that the wheel needs for musl, and nothing that is compiled.

    Arguments:
        wheel: the package; its psycopg is the one of pure Python, which loads the system's libpq.
        python: the version of Python.
    """
    report = wheel.parent / f"musl-{python}.json"
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
        *("--only-binary=:all:", "--platform", MUSL, "--python-version", python),
        *("--target", wheel.parent / "nowhere", "--report", report, wheel),
        cwd=wheel.parent,
    )
    found = json.loads(report.read_text())
    urls = [each["download_info"]["url"] for each in found["install"]]
    compiled = [url for url in urls if not url.endswith("-none-any.whl")]
    assert len(urls) > 1
    assert not compiled, compiled


def run_tests_of(sdist: Path, folder: Path) -> None:
    """Unpack the sdist, and run tests from it."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    run(sys.executable, "-m", "pytest", "-q", *OF_SDIST, cwd=unpacked)


def play_tutorial(folder: Path, wheel: Path, environment: dict[str, str], url: str) -> None:
    """Play the tutorial in an empty folder, and look at what came of it.

    Arguments:
        folder: is made.
        wheel: what is installed where the tutorial names the package.
        environment: of its commands.
        url: the address of the database that the tutorial makes.
    """
    folder.mkdir()
    leaked: set[str] = set()
    for step in read_tutorial(PROJECT / "docs" / "tutorial.md"):
        if isinstance(step, File):
            write_file(folder, step)
            continue
        if step.line.endswith("playbook expand"):
            leaked = codes(url)
        line = step.line.replace("django-migrations-playbook", shlex.quote(str(wheel)))
        run_command(folder, replace(step, line=line), environment)
        say(f"$ {step.line}")
    look_at_environment(folder)
    with psycopg.connect(url) as connection:
        columns = connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'shop_voucher'::regclass "
            "AND attnum > 0 AND NOT attisdropped ORDER BY 1"
        ).fetchall()
    assert columns == [("code",), ("id",)]
    fresh = codes(url)
    assert len(fresh) >= len(leaked) > 0
    assert not fresh & leaked
    assert all(CODE.fullmatch(code) for code in fresh)


def codes(url: str) -> set[str]:
    """Return every voucher's code, each of which is another one."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT code FROM shop_voucher").fetchall()
    assert len({code for (code,) in rows}) == len(rows)
    return {code for (code,) in rows}


def look_at_environment(folder: Path) -> None:
    """Make sure that the installation brought what it says, and no more than it may weigh."""
    python = folder / ".venv" / "bin" / "python"
    listed = run(python, "-m", "pip", "list", "--format", "json", cwd=folder)
    brought = {each["name"].lower().replace("_", "-") for each in json.loads(listed)}
    assert brought - CHOSEN <= BROUGHT, sorted(brought - CHOSEN - BROUGHT)
    (packages,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    size = sum(
        path.stat().st_size
        for path in packages.rglob("*")
        if path.is_file() and path.relative_to(packages).parts[0] not in {"django", "pip"}
    )
    say(f"{size / 1e6:.0f} MB beside Django, psycopg's libpq included")
    assert size < MOST * 1e6


def run(*words: str | Path, cwd: Path) -> str:
    """Run a program to its end, and return what it prints.

    Raises:
        SystemExit: it fails; its output is told.
    """
    done = subprocess.run(
        words, cwd=cwd, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}")
    return done.stdout


def say(what: str) -> None:
    sys.stdout.write(f"wheel: {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
