"""One real PostgreSQL for the run, and a database of its own for every test that asks.

Without DATABASE_URL the server is a throwaway one (one for each worker of `pytest -n 4`, because
some tests change settings of the whole server); with it, the databases are made there.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
from django.core.management import call_command
from django.db import connections

from app.embedded.server import Cluster
from tests.fixtures.database import Database, admin_url, create_database, drop_database
from tests.fixtures.server import describe_server, new_server, server_home

TEMPLATE = f"playbook_template_{os.getpid()}"

_cluster: Cluster | None = None


def pytest_configure(config: pytest.Config) -> None:
    global _cluster  # noqa: PLW0603 - one server for the run, stopped in pytest_unconfigure
    if not os.environ.get("DATABASE_URL"):
        if config.getoption("numprocesses", None):
            return  # each worker has a server of its own
        folder = Path(tempfile.mkdtemp(prefix="playbook-tests-", dir=server_home()))
        _cluster = new_server(folder / "data", max_prepared_transactions="5")
        _cluster.start()
        os.environ["DATABASE_URL"] = _cluster.url()
    os.environ["DJANGO_SETTINGS_MODULE"] = "app.settings"
    # A shell's background job ignores SIGINT, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    django.setup()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _cluster is not None:
        connections.close_all()
        _cluster.stop()
        shutil.rmtree(_cluster.data_dir.parent)


def pytest_report_header(config: pytest.Config) -> str | None:
    if not os.environ.get("DATABASE_URL"):
        return None
    return f"server: {describe_server(admin_url())}; Django {django.__version__}"


@pytest.fixture(scope="session")
def template() -> Iterator[str]:
    """A database that is migrated to the end: what tests start from, copied."""
    create_database(TEMPLATE)
    settings = connections["default"].settings_dict
    usual = settings["NAME"]
    settings["NAME"] = TEMPLATE
    call_command("migrate", verbosity=0)
    connections["default"].close()
    settings["NAME"] = usual
    yield TEMPLATE
    drop_database(TEMPLATE)


@pytest.fixture
def empty_database() -> Iterator[Database]:
    """A database with nothing in it, to which Django's default connection points."""
    yield from Database.temporary()


@pytest.fixture
def fresh() -> Iterator[Database]:
    """A second database, with nothing in it."""
    yield from Database.temporary()


@pytest.fixture
def database(template: str) -> Iterator[Database]:
    """A migrated database, expanded and empty, to which Django's default connection points."""
    yield from Database.temporary(template=template)
