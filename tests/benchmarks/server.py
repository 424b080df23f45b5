"""A PostgreSQL to measure on, with a seeded table to copy from, and processes that work on it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql

from app.embedded.server import Cluster
from tests.fixtures.server import server_programs, server_version

PROJECT = Path(__file__).resolve().parent.parent.parent
TEMPLATE = "bench_template"
WORK = "bench"


@dataclass(frozen=True)
class Server:
    """A server that is measured on.

    Arguments:
        admin: its address, with a database that is only connected to.
    """

    admin: str

    def url(self, name: str = WORK) -> str:
        """The address of another database, as DATABASE_URL takes it."""
        base, question, query = self.admin.partition("?")
        return base.rsplit("/", 1)[0] + "/" + name + question + query

    def connect(self, name: str = WORK) -> psycopg.Connection[Any]:
        return psycopg.connect(conninfo.make_conninfo(self.url(name)), autocommit=True)

    def value(self, query: str, name: str = WORK) -> Any:
        with self.connect(name) as connection:
            row = connection.execute(query).fetchone()
        return row and row[0]

    def seed(self, rows: int) -> None:
        """Make the template: `rows` tickets that were there before the expand, vacuumed."""
        self._replace(TEMPLATE, "template0")
        self.manage("migrate", "tickets", "0001", name=TEMPLATE)
        self.manage("seed_tickets", str(rows), name=TEMPLATE)
        self.manage("migrate", name=TEMPLATE)
        with self.connect(TEMPLATE) as connection:
            connection.execute("VACUUM (ANALYZE) tickets_ticket")

    def empty(self) -> None:
        """Put an empty database in the place of the last measurement's."""
        self._replace(WORK, "template0")

    def reset(self) -> None:
        """Put a fresh copy of the template in the place of the last measurement's database."""
        self._replace(WORK, TEMPLATE)
        with self.connect() as connection:
            connection.execute("CHECKPOINT")

    def wal_position(self) -> float:
        """The end of the write-ahead log, in bytes since its beginning."""
        return float(self.value("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"))

    def about(self, *settings: str) -> dict[str, Any]:
        """What is measured on, and how busy it is; with these of the server's settings."""
        return {
            "server": self.value("SELECT version()", "postgres"),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "load_before": round(os.getloadavg()[0], 2),
            "settings": {name: self.value(f"SHOW {name}", "postgres") for name in settings},
        }

    def environment(self, name: str = WORK) -> dict[str, str]:
        return {
            **os.environ,
            "DATABASE_URL": self.url(name),
            "DJANGO_SETTINGS_MODULE": "app.settings",
        }

    def manage(self, *arguments: str, name: str = WORK) -> str:
        return self.python("manage.py", *arguments, name=name)

    def python(self, *arguments: str, name: str = WORK) -> str:
        """Run Python in a process of its own on the database; return what it printed."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=PROJECT,
            env=self.environment(name),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def _replace(self, name: str, template: str) -> None:
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )


@contextlib.contextmanager
def running(**options: str) -> Iterator[Server]:
    """A throwaway server with the stock settings but for `options`; or that of DATABASE_URL.

    `TEST_POSTGRES_BIN` names other programs than the embedded ones, as for the tests.
    """
    if url := os.environ.get("DATABASE_URL"):
        yield Server(url)
        return
    with tempfile.TemporaryDirectory(
        prefix="playbook-bench-", ignore_cleanup_errors=True
    ) as folder:
        data = Path(folder) / "data"
        cluster = Cluster(data, server_version(), bin_path=server_programs(), options=options)
        with cluster:
            yield Server(cluster.url())
