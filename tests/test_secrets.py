"""No token, old or new, in any output, log or message, whatever is done and whatever fails."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fixtures.database import Database
from tests.fixtures.listener import Listener
from tests.fixtures.tickets import past_the_triggers
from tickets.models import Ticket


def all_tokens(database: Database) -> set[str]:
    return {
        value.hex
        for row in database.fetch("SELECT token, new_token FROM tickets_ticket")
        for value in row
        if value is not None
    }


def token_of(database: Database) -> uuid.UUID:
    value = database.value("SELECT token FROM tickets_ticket ORDER BY id LIMIT 1")
    assert isinstance(value, uuid.UUID)
    return value


@pytest.fixture
def listener(database: Database, tmp_path: Path) -> Listener:
    """Over a table of five filled tickets. (With --traceback every failure's exit code is 1.)"""
    for _ in range(5):
        Ticket.objects.create()
    return Listener(database, tmp_path)


def heard(listener: Listener, part: str) -> bool:
    """Whether it was said at all: otherwise a test would pass because of silence."""
    return any(part in each for each in listener.heard)


def test_no_backfill_shows_a_token(database: Database, listener: Listener) -> None:
    tokens = all_tokens(database)
    past_the_triggers(database, "UPDATE tickets_ticket SET new_token = NULL")
    assert listener.manage("swap_token_columns") == 1
    assert heard(listener, "still has 5 null rows")
    # "invalid input syntax for type integer", and then the value.
    asks = "SELECT token::text::int FROM tickets_ticket LIMIT 1"
    assert listener.manage("backfill_new_token", "--dry-run", "--throttle-query", asks) == 0
    assert heard(listener, "cannot be read: invalid text representation (SQLSTATE 22P02")
    with a_unique_violation_in_the_backfill(database) as complaint:
        assert listener.manage("backfill_new_token") == 1
    assert heard(listener, f"PostgreSQL says: {complaint}")
    assert listener.manage("backfill_new_token") == 0
    assert listener.manage("playbook_status") == 0
    assert listener.manage("playbook_status", "--json") == 0
    tokens |= all_tokens(database)
    assert len(tokens) == 15
    assert not tokens & listener.tokens_heard()


def test_no_swap_and_no_proof_shows_a_token(
    database: Database, listener: Listener, tmp_path: Path
) -> None:
    # A unique violation inside the preparation: PostgreSQL quotes the value in its DETAIL.
    past_the_triggers(
        database,
        "UPDATE tickets_ticket SET new_token = (SELECT new_token FROM tickets_ticket WHERE id = 1)"
        " WHERE id = 2",
    )
    tokens = all_tokens(database)
    assert listener.manage("swap_token_columns", "--dry-run") == 0
    path = tmp_path / "swap.json"
    assert listener.manage("swap_token_columns", "--evidence", str(path)) == 0
    assert heard(listener, "Draw duplicates again")
    listener.heard.append(path.read_text())
    tokens |= all_tokens(database)
    assert listener.manage("swap_token_columns", "--verify") == 0
    assert listener.manage("swap_token_columns") == 1
    assert listener.manage("backfill_new_token") == 1

    # A view that cannot be read through, because its function quotes what it is given.
    database.run(
        "CREATE FUNCTION talks(uuid) RETURNS uuid LANGUAGE plpgsql AS "
        "$$BEGIN RAISE 'what is %?', $1; END$$"
    )
    database.run("CREATE VIEW says AS SELECT talks(token) AS token FROM tickets_ticket")
    assert listener.manage("swap_token_columns", "--verify") == 0
    assert heard(listener, "public.says was not read")
    assert heard(listener, "raise exception (SQLSTATE P0001")
    database.run("DROP VIEW says")

    # A proof that fails.
    past_the_triggers(
        database,
        "UPDATE tickets_ticket t SET token = o.new_token FROM tickets_ticket o "
        "WHERE t.id = 3 AND o.id = 4",
    )
    assert listener.manage("swap_token_columns", "--verify") == 1
    assert heard(listener, "1 with another row's retired value")
    past_the_triggers(database, "UPDATE tickets_ticket SET token = gen_random_uuid() WHERE id = 3")
    # Behind somebody whose query has a token in it.
    with database.connect() as blocker:
        blocker.execute(f"SELECT FROM tickets_ticket WHERE token = '{token_of(database)}'")
        bounds = ("--attempts", "1", "--lock-timeout", "20")
        assert listener.manage("swap_token_columns", "--revert", *bounds) == 1
    assert heard(listener, "idle in transaction")
    assert listener.manage("swap_token_columns", "--revert") == 0
    tokens |= all_tokens(database)
    assert heard(listener, "ALTER TABLE")  # so the log was heard
    assert len(tokens) >= 11
    assert not tokens & listener.tokens_heard()


def test_no_swap_that_ends_half_way_shows_a_token(
    database: Database, listener: Listener, tmp_path: Path
) -> None:
    tokens = all_tokens(database)
    # A CHECK that fresh values do not pass: "Failing row contains (...)".
    database.run("CREATE TABLE known AS SELECT md5(token::text) AS hash FROM tickets_ticket")
    database.run(
        "CREATE FUNCTION is_known(uuid) RETURNS boolean LANGUAGE plpgsql AS "
        "'BEGIN RETURN EXISTS (SELECT FROM public.known WHERE hash = md5($1::text)); END'"
    )
    database.run("ALTER TABLE tickets_ticket ADD CONSTRAINT fussy CHECK (is_known(token))")
    path = tmp_path / "fussy.json"
    assert listener.manage("swap_token_columns", "--evidence", str(path)) == 1
    assert heard(listener, "do not pass the check fussy")
    listener.heard.append(path.read_text())
    database.run("ALTER TABLE tickets_ticket DROP CONSTRAINT fussy")

    # A materialized view that cannot be renewed.
    same = "CREATE OR REPLACE FUNCTION same(uuid) RETURNS uuid LANGUAGE plpgsql AS "
    database.run(same + "'BEGIN RETURN $1; END'")
    database.run("CREATE MATERIALIZED VIEW copies AS SELECT same(token) AS t FROM tickets_ticket")
    database.run(same + "$$BEGIN RAISE 'who is %?', $1; END$$")
    path = tmp_path / "interrupted.json"
    refresh = ("--refresh-materialized-views", "--evidence", str(path))
    assert listener.manage("swap_token_columns", *refresh) == 1
    assert heard(listener, "was not exchanged; nothing was changed. Try the query of public.copies")
    assert heard(listener, "raise exception (SQLSTATE P0001")
    listener.heard.append(path.read_text())
    tokens |= all_tokens(database)
    assert len(tokens) == 10
    assert not tokens & listener.tokens_heard()


@contextmanager
def a_unique_violation_in_the_backfill(database: Database) -> Iterator[str]:
    """Fill every row with the same token: "Key (new_token)=(...) already exists".

    Gives what the server says to it, without that DETAIL.
    """
    database.run("CREATE UNIQUE INDEX once ON tickets_ticket (new_token)")
    database.run(
        "CREATE FUNCTION repeat_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN "
        "NEW.new_token := (SELECT max(token::text) FROM tickets_ticket); RETURN NEW; END'"
    )
    database.run(
        "CREATE TRIGGER zzz BEFORE UPDATE ON tickets_ticket FOR EACH ROW "
        "EXECUTE FUNCTION repeat_it()"
    )
    yield database.complaint("UPDATE tickets_ticket SET new_token = new_token")
    database.run("DROP FUNCTION repeat_it CASCADE")
    database.run("DROP INDEX once")


def test_no_migration_and_no_seeding_shows_a_token(
    empty_database: Database, tmp_path: Path
) -> None:
    database, listener = empty_database, Listener(empty_database, tmp_path)
    assert listener.manage("migrate", "tickets", "0001") == 0
    assert listener.manage("seed_tickets", "5") == 0
    database.run("ALTER TABLE tickets_ticket ADD CONSTRAINT no CHECK (id < 6) NOT VALID")
    assert listener.manage("seed_tickets", "9") == 1  # "Failing row contains (...)"
    refused = database.complaint("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
    assert heard(listener, f"PostgreSQL says: {refused}")
    tokens = {
        uuid.UUID(str(row[0])).hex for row in database.fetch("SELECT token FROM tickets_ticket")
    }

    # Refused by the check, and by the migration itself; then done.
    database.run("CREATE TABLE vip () INHERITS (tickets_ticket)")
    assert listener.manage("migrate") == 1
    assert listener.manage("migrate", "--skip-checks") == 1
    database.run("DROP TABLE vip")
    assert listener.manage("migrate") == 0

    # The contract: refused before the swap, done after it.
    n3 = "tests.releases.n3.settings"
    assert listener.manage("migrate", settings=n3) == 1
    assert listener.manage("backfill_new_token") == 0
    assert listener.manage("swap_token_columns") == 0
    tokens |= all_tokens(database)
    assert listener.manage("migrate", settings=n3) == 0
    assert heard(listener, "DROP COLUMN")
    assert len(tokens) == 10
    # Nor that of the row that was refused, which nobody knows by now.
    assert listener.tokens_heard() == set()


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
