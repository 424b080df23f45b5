"""Run django-oauth-toolkit's tests beside our triggers: `python -m tests.suites`.

Its sdist carries the tests. They are run on PostgreSQL as they are: untouched, with a shadow of
every unique token expanded, and with all of them exchanged. Each test must end alike three times.
What is fetched stays in `.suites`, where the next run finds it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import psycopg

from tests.fixtures.database import PROJECT
from tests.fixtures.server import new_server

# The last version whose tests need no other support than what is beside this file.
SUITE = "django-oauth-toolkit==3.0.1"
# What the tests need beside the suite, and what our settings do.
NEEDED = (
    "dj-database-url<4",
    "djangorestframework<4",
    "psycopg[binary]<4",
    "pytest<10",
    "pytest-django<5",
    "pytest-mock<4",
)
OURS = Path(__file__).parent / "oauth_toolkit"
# Under other names pytest would take them for tests of ours.
CALLED = {"fixtures.py": "conftest.py", "tokens.py": "test_tokens.py"}
# What is fetched, a folder a version.
FETCHED = PROJECT / ".suites" / SUITE
STAGES = ("untouched", "expanded", "exchanged")
# Tests that need more than there is: several databases, one RSA key and no other, models of their
# own in the place of all, a user whose number is 1 (a sequence is not rolled back), the internet.
LEFT_OUT = (
    "test_django_checks.py",
    "test_oidc_views.py::TestJwksInfoView",
    "test_models.py::TestCustomModels",
    "test_authorization_code.py::TestOIDCAuthorizationCodeHSAlgorithm",
    "test_oauth2_validators.py::TestOAuth2ValidatorErrorResourceToken",
)
# Seconds that the tests of a stage may take.
PATIENCE = 600

# How each test ended, by its name.
Outcomes = dict[str, str]


def main() -> None:
    fetch_suite(FETCHED)
    with tempfile.TemporaryDirectory(prefix="playbook-suites-") as name:
        folder = Path(name)
        # The server runs as another user, who must get to its data folder.
        folder.chmod(0o711)
        site = make_site(folder)
        with new_server(folder / "server" / "data", shared_buffers="32MB") as server:
            url = server.url("suite")
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute("CREATE DATABASE suite")
            ended = {stage: run_tests(site, stage, url) for stage in STAGES}
    compare_stages(ended)


def fetch_suite(folder: Path) -> None:
    """Fetch the sdist, and make an environment for its tests, unless both are there.

    Raises:
        SystemExit: the package index cannot be reached.
    """
    if (folder / "complete").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say(f"fetching {SUITE} and what its tests need ...")
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    fetch(sys.executable, *pip, "download", "--no-deps", "--no-binary=:all:", "-d", folder, SUITE)
    fetch(sys.executable, "-m", "venv", folder / "venv")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = (*project["dependencies"], *NEEDED)
    fetch(folder / "venv/bin/python", *pip, "install", *folder.glob("*.tar.gz"), *wanted)
    (folder / "complete").touch()


def fetch(*words: str | Path) -> None:
    """Run a program that asks the package index.

    Raises:
        SystemExit: it fails.
    """
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "it says nothing").splitlines()[-1]
        sys.exit(f"suites: {SUITE} cannot be fetched from the package index: {last}")


def make_site(folder: Path) -> Path:
    """Unpack the tests, with what they import, and write the migration of our shadows.

    Returns:
        The folder from which the tests are run.
    """
    (sdist,) = FETCHED.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (site,) = folder.glob("django_oauth_toolkit-*")
    # What is tested is installed: the tests alone are wanted from here.
    shutil.rmtree(site / "oauth2_provider")
    tests = site / "tests"
    for path in OURS.glob("*.py"):
        shutil.copy(path, tests / CALLED.get(path.name, path.name))
    package = tests / "oauth2_migrations"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from oauth2_provider import migrations\n\n__path__ += migrations.__path__\n"
    )
    return site


def run_tests(site: Path, stage: str, url: str) -> Outcomes:
    """Run the tests in a stage.

    Arguments:
        site: the folder of the tests.
        stage: how far the shadows are played.
        url: the address of a database beside which Django makes the tests' own.

    Returns:
        How each test ended.
    """
    python = FETCHED / "venv" / "bin" / "python"
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONDONTWRITEBYTECODE": "1",
        # The tests' own package is named `tests` too: the current folder comes first.
        "PYTHONPATH": f"{site}{os.pathsep}{PROJECT}",
        "SUITE_STAGE": stage,
    }
    if stage != "exchanged":  # whose migrations are the expanded one's
        run(site, environment, python, "-m", "tests.apps")
    report = site / f"{stage}.xml"
    began = time.monotonic()
    output = run(
        site,
        environment,
        *(python, "-m", "pytest", "tests", "-q", "--create-db", "-p", "no:cacheprovider"),
        # Their settings for pytest ask for plugins that are of no use here.
        *("-c", os.devnull, "--rootdir", site, "--junitxml", report),
        *(f"--deselect=tests/{each}" for each in LEFT_OUT),
        fails=True,
    )
    if not report.exists():
        sys.exit(f"suites: the tests cannot be run {stage}:\n{output}")
    ended = dict(map(read_outcome, ET.parse(report).iter("testcase")))  # noqa: S314 - it is ours
    numbers = ", ".join(f"{number} {how}" for how, number in Counter(ended.values()).items())
    say(f"{stage}: {numbers}, in {time.monotonic() - began:.0f} s")
    if stage == "untouched" and "failed" in ended.values():
        sys.exit(f"suites: they fail without us:\n{output[-4000:]}")
    return ended


def run(folder: Path, environment: dict[str, str], *words: str | Path, fails: bool = False) -> str:
    """Run a program to its end, and return what it prints.

    Raises:
        SystemExit: it fails, and is not one that may.
    """
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
    )
    if done.returncode and not fails:
        sys.exit(f"suites: {' '.join(map(str, words))}\n{done.stdout}")
    return done.stdout


def read_outcome(case: ET.Element) -> tuple[str, str]:
    """Read a test's name, and how it ended."""
    name = f"{case.get('classname')}.{case.get('name')}"
    kinds = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    return name, next((kinds[each.tag] for each in case if each.tag in kinds), "passed")


def compare_stages(ended: dict[str, Outcomes]) -> None:
    """Compare how each test ended with how it ended untouched.

    Raises:
        SystemExit: a test ended otherwise; names it.
    """
    untouched = ended["untouched"]
    others = [
        f"{name}: {untouched.get(name)} untouched, {outcomes.get(name)} {stage}"
        for stage, outcomes in ended.items()
        for name in sorted(untouched.keys() | outcomes.keys())
        if outcomes.get(name) != untouched.get(name)
    ]
    if others:
        sys.exit("suites: these tests end otherwise beside our triggers:\n" + "\n".join(others))
    say(f"the {len(untouched)} tests of {SUITE} end alike in every stage")


def say(what: str) -> None:
    sys.stdout.write(f"suites: {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
