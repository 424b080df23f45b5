"""No token, old or new, in any output, log or message, whatever is done and whatever fails."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

from tests.fixtures.database import PROJECT, Database
from tickets.models import Ticket

# Everything that any logger says, with Django's and psycopg's own at their most talkative.
DEBUG_SETTINGS = """
from app.settings import *
DEBUG = True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"all": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["all"], "level": "DEBUG"},
    "loggers": {"django.db.backends": {"level": "DEBUG"}, "psycopg": {"level": "DEBUG"}},
}
"""
TOKEN = re.compile(
    r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE
)


class Listener:
    """Runs `manage.py` with everything logged, and keeps all that is said."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.heard: list[str] = []
        (folder / "loud_settings.py").write_text(textwrap.dedent(DEBUG_SETTINGS))

    def manage(self, *arguments: str, traceback: bool = True) -> int:
        """One command to its end; its exit code."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments, *(["--traceback"] if traceback else [])],
            cwd=PROJECT,
            env={
                **self.database.environment,
                "DJANGO_SETTINGS_MODULE": "loud_settings",
                "PYTHONPATH": os.pathsep.join([str(self.folder), str(PROJECT)]),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.heard += [done.stdout, done.stderr]
        return done.returncode

    def tokens_heard(self) -> set[str]:
        """Everything that looks like a token; the table's own are among them if any leaked."""
        return {uuid.UUID(found).hex for text in self.heard for found in TOKEN.findall(text)} - {
            uuid.UUID(int=0).hex
        }


def all_tokens(database: Database) -> set[str]:
    return {
        value.hex
        for row in database.fetch("SELECT token, new_token FROM tickets_ticket")
        for value in row
        if value is not None
    }


def unfill(
    database: Database, statement: str = "UPDATE tickets_ticket SET new_token = NULL"
) -> None:
    with database.connect(autocommit=True) as session:
        session.execute("SET session_replication_role = replica")
        session.execute(statement)


def test_no_command_and_no_failure_shows_a_token(database: Database, tmp_path: Path) -> None:
    for _ in range(5):
        Ticket.objects.create()
    listener = Listener(database, tmp_path)
    tokens = all_tokens(database)
    unfill(database)
    assert listener.manage("swap_token_columns") == 1  # not filled yet
    assert listener.manage("backfill_new_token") == 0
    tokens |= all_tokens(database)
    assert listener.manage("playbook_status") == 0
    assert listener.manage("playbook_status", "--json") == 0
    assert listener.manage("swap_token_columns", "--dry-run") == 0

    # A unique violation inside the preparation: PostgreSQL quotes the value in its DETAIL.
    unfill(database, "UPDATE tickets_ticket SET new_token = gen_random_uuid() WHERE id < 3")
    unfill(
        database,
        "UPDATE tickets_ticket SET new_token = (SELECT new_token FROM tickets_ticket WHERE id = 1)"
        " WHERE id = 2",
    )
    tokens |= all_tokens(database)
    assert listener.manage("swap_token_columns", "--evidence", str(tmp_path / "swap.json")) == 0
    tokens |= all_tokens(database)
    assert listener.manage("swap_token_columns", "--verify") == 0
    assert listener.manage("swap_token_columns") == 1  # swapped already
    assert listener.manage("backfill_new_token") == 1

    # A proof that fails.
    unfill(
        database,
        "UPDATE tickets_ticket t SET token = o.new_token FROM tickets_ticket o "
        "WHERE t.id = 3 AND o.id = 4",
    )
    tokens |= all_tokens(database)
    assert listener.manage("swap_token_columns", "--verify") == 1
    unfill(database, "UPDATE tickets_ticket SET token = gen_random_uuid() WHERE id = 3")
    assert listener.manage("swap_token_columns", "--revert") == 0
    tokens |= all_tokens(database)

    # A CHECK that fresh values do not pass: "Failing row contains (...)".
    database.run("CREATE TABLE known AS SELECT md5(token::text) AS hash FROM tickets_ticket")
    database.run(
        "CREATE FUNCTION is_known(uuid) RETURNS boolean LANGUAGE plpgsql AS "
        "'BEGIN RETURN EXISTS (SELECT FROM public.known WHERE hash = md5($1::text)); END'"
    )
    database.run("ALTER TABLE tickets_ticket ADD CONSTRAINT fussy CHECK (is_known(token))")
    assert listener.manage("swap_token_columns") == 1
    evidence = (tmp_path / "swap.json").read_text()
    listener.heard.append(evidence)

    assert listener.heard
    assert any("ALTER TABLE" in each for each in listener.heard)  # so the log was heard
    assert not tokens & listener.tokens_heard()


def test_the_log_would_have_shown_one(database: Database, tmp_path: Path) -> None:
    """The other way round: what the test above listens to does carry a token that is said."""
    ticket = Ticket.objects.create()
    listener = Listener(database, tmp_path)
    listener.manage(
        "shell",
        "-c",
        f"from tickets.models import Ticket; Ticket.objects.get(token='{ticket.token}')",
    )
    assert ticket.token.hex in listener.tokens_heard()
    assert logging.getLogger().level != logging.DEBUG
