# ruff: noqa: S608 - the tables are the tests' own
"""What of partitioned tables is refused, at expand time and again in the swap; and the commands."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass

import pytest
from django.core.management import CommandError, call_command
from psycopg import errors

from tests.fixtures import releases
from tests.fixtures.database import Database, wait_until_blocked
from tests.fixtures.tickets import refusal

PLAIN = "(id bigint NOT NULL, token uuid NOT NULL, redeemed_at timestamptz)"
# Tickets as they are before the expand, in partitions.
TICKETS = f"""
DROP TABLE tickets_ticket CASCADE;
CREATE SEQUENCE ticket_ids;
CREATE TABLE tickets_ticket {PLAIN} PARTITION BY RANGE (id);
ALTER TABLE tickets_ticket ALTER COLUMN id SET DEFAULT nextval('ticket_ids');
ALTER TABLE tickets_ticket ADD PRIMARY KEY (id);
ALTER TABLE tickets_ticket ADD CONSTRAINT tickets_ticket_token_key UNIQUE (token, id);
CREATE TABLE early PARTITION OF tickets_ticket FOR VALUES FROM (0) TO (100);
CREATE TABLE late PARTITION OF tickets_ticket DEFAULT;
INSERT INTO tickets_ticket (token) SELECT gen_random_uuid() FROM generate_series(1, 300)"""
ROOT = f"DROP TABLE tickets_ticket CASCADE; CREATE TABLE tickets_ticket {PLAIN}"


@dataclass(frozen=True)
class Case:
    """A table that cannot be exchanged.

    Arguments:
        made_by: the statements that make it, before the expand.
        why: what its refusal says.
    """

    made_by: str
    why: str


REFUSED = {
    "partitioned by the column": Case(
        f"{ROOT} PARTITION BY HASH (token)",
        "partitioned by token, whose value says in which partition a row is (tickets_ticket)",
    ),
    "partitioned by an expression of the column": Case(
        f"{ROOT} PARTITION BY LIST (left(token::text, 1))",
        "partitioned by token, whose value says in which partition a row is (tickets_ticket)",
    ),
    "partitioned by the column on the second level": Case(
        f"{ROOT} PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF tickets_ticket DEFAULT "
        "PARTITION BY HASH (id, token)",
        "partitioned by token, whose value says in which partition a row is (part)",
    ),
    "a partition on another server": Case(
        f"{ROOT} PARTITION BY RANGE (id); CREATE FOREIGN DATA WRAPPER nobody; "
        "CREATE SERVER far FOREIGN DATA WRAPPER nobody; "
        "CREATE FOREIGN TABLE far_away PARTITION OF tickets_ticket DEFAULT SERVER far",
        "partitioned, and the rows of far_away are on another server",
    ),
    "a partition": Case(
        f"DROP TABLE tickets_ticket CASCADE; CREATE TABLE whole {PLAIN} PARTITION BY RANGE (id); "
        "CREATE TABLE tickets_ticket PARTITION OF whole DEFAULT",
        "a partition of whole",
    ),
}


def play(database: Database, script: str) -> None:
    for statement in script.split("; " if "; " in script else ";"):
        if statement.strip():
            database.run(statement)


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_before_it_is_expanded(what: str, empty_database: Database) -> None:
    call_command("migrate", "tickets", "0001", verbosity=0)
    play(empty_database, REFUSED[what].made_by)
    before = empty_database.dump()
    for options, says in (
        ((), f"declares a shadow, and its table is {REFUSED[what].why}."),
        (("tickets", "--skip-checks"), f"tickets_ticket is {REFUSED[what].why}, so its columns"),
    ):
        done = empty_database.manage("migrate", *options)
        assert done.returncode == 1
        assert says in done.stderr
        assert empty_database.dump() == before


# Without a server behind it, a foreign table cannot be looked at.
@pytest.mark.parametrize("what", [each for each in REFUSED if "server" not in each])
def test_it_is_refused_again_by_the_swap(what: str, empty_database: Database) -> None:
    """Whoever has expanded it some other way."""
    call_command("migrate", "tickets", "0001", verbosity=0)
    play(empty_database, REFUSED[what].made_by)
    column = "ALTER TABLE {} ADD COLUMN new_token uuid"
    empty_database.run(column.format("whole" if what == "a partition" else "tickets_ticket"))
    call_command("pgtrigger", "install")
    before = empty_database.dump()
    code, said = refusal("swap_token_columns")
    assert code == 1
    assert f"- table tickets_ticket (by its kind): it is {REFUSED[what].why}." in said.replace(
        "public.", ""
    )
    assert empty_database.dump() == before


def test_a_partition_that_is_half_detached_is_refused_until_it_is_out(
    empty_database: Database,
) -> None:
    call_command("migrate", "tickets", "0001", verbosity=0)
    # DETACH PARTITION CONCURRENTLY works only where there is no DEFAULT partition.
    play(empty_database, TICKETS.replace("DEFAULT;", "FOR VALUES FROM (100) TO (1000);"))
    with empty_database.connect() as reader, empty_database.connect(autocommit=True) as other:
        reader.execute("SELECT count(*) FROM tickets_ticket")
        pid = other.info.backend_pid
        cancelling = cancelled_once_it_waits(empty_database, pid)
        with pytest.raises(errors.QueryCanceled):
            other.execute("ALTER TABLE tickets_ticket DETACH PARTITION early CONCURRENTLY")
        cancelling.join()
    done = empty_database.manage("migrate")
    assert done.returncode == 1
    assert "partitioned, and early is neither in it nor out of it" in done.stderr
    # Whoever has expanded it some other way.
    empty_database.run("ALTER TABLE tickets_ticket ADD COLUMN new_token uuid DEFAULT NULL")
    call_command("pgtrigger", "install")
    call_command("backfill_new_token", no_progress=True)
    with pytest.raises(CommandError, match=r"partitioned, and public\.early is neither in it"):
        call_command("swap_token_columns")
    empty_database.run("ALTER TABLE tickets_ticket DROP COLUMN new_token CASCADE")
    call_command("pgtrigger", "uninstall")
    empty_database.run("ALTER TABLE tickets_ticket DETACH PARTITION early FINALIZE")
    assert empty_database.manage("migrate").returncode == 0


def cancelled_once_it_waits(database: Database, pid: int) -> threading.Thread:
    """Cancel what a session waits for, in a thread."""

    def cancel() -> None:
        wait_until_blocked(database, pid)
        database.run("SELECT pg_cancel_backend(%s)", pid)

    thread = threading.Thread(target=cancel)
    thread.start()
    return thread


@pytest.fixture
def tickets(empty_database: Database) -> Database:
    """Three hundred tickets in two partitions, expanded by the migration."""
    call_command("migrate", "tickets", "0001", verbosity=0)
    play(empty_database, TICKETS)
    done = empty_database.manage("migrate")
    assert done.returncode == 0, done.stderr
    return empty_database


def test_the_commands_play_a_partitioned_table_through(
    tickets: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    (status,) = json.loads(tickets.manage("playbook_status", "--json").stdout)
    assert (status["phase"], status["rows_remaining"]) == ("expanded", 300)
    assert status["heap_bytes"] > 300 * 16
    call_command("backfill_new_token", no_progress=True)
    before = tickets.dump()
    capsys.readouterr()
    call_command("swap_token_columns", dry_run=True)
    said = capsys.readouterr().out
    assert "-- unique constraint tickets_ticket_token_key (on token): carried over\n" in said
    assert (
        'CREATE UNIQUE INDEX CONCURRENTLY "early_token_id_key_new_token" ON "public"."early"'
        in said
    )
    assert (
        'ALTER INDEX "public"."tickets_ticket_token_key_new_token" '
        'ATTACH PARTITION "public"."early_token_id_key_new_token";' in said
    )
    assert tickets.dump() == before
    leaked = set(tickets.fetch("SELECT token FROM tickets_ticket"))
    call_command("swap_token_columns")
    assert not leaked & set(tickets.fetch("SELECT token FROM tickets_ticket"))
    call_command("swap_token_columns", verify=True)
    assert "INSTALLED" in tickets.manage("pgtrigger", "ls").stdout
    call_command("swap_token_columns", revert=True)
    assert tickets.dump() == before
    assert leaked == set(tickets.fetch("SELECT token FROM tickets_ticket"))


def test_a_clone_of_a_trigger_that_is_disabled_on_a_partition_is_not_at_work(
    tickets: Database,
) -> None:
    call_command("backfill_new_token", no_progress=True)
    (fill,) = tickets.fetch(
        "SELECT DISTINCT tgname FROM pg_trigger WHERE tgname ~ '^pgtrigger_fill'"
    )
    tickets.run(f"ALTER TABLE early DISABLE TRIGGER {fill[0]}")
    with pytest.raises(CommandError, match=r'Run "manage\.py pgtrigger enable" first'):
        call_command("swap_token_columns")
    call_command("pgtrigger", "enable")
    call_command("swap_token_columns")


def test_the_contract_waits_for_the_swap_and_takes_the_column_off_every_partition(
    tickets: Database,
) -> None:
    call_command("backfill_new_token", no_progress=True)
    done = releases.manage(tickets, "n3", "migrate")
    assert done.returncode == 1
    assert "is not swapped: dropping 'new_token' now would keep the leaked values" in done.stderr
    call_command("swap_token_columns")
    releases.migrate(tickets, "n3")
    assert not tickets.fetch(
        "SELECT FROM pg_attribute WHERE attname = 'new_token' AND attrelid IN "
        "('tickets_ticket'::regclass, 'early'::regclass, 'late'::regclass)"
    )
    assert not tickets.fetch("SELECT FROM pg_proc WHERE proname ~ 'new_token'")
