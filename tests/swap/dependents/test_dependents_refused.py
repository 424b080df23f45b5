"""What cannot be carried over is refused by name, all of it at once, before anything changes."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from django.core.management import CommandError, call_command

from migrations_playbook.errors import Refused
from migrations_playbook.swap.play import swap
from tests.fixtures.database import Database
from tests.fixtures.models_zoo import NUMBERS, Numbers, expand, fill
from tickets.models import Ticket


@dataclass(frozen=True)
class Case:
    """Something that is refused.

    Arguments:
        made_by: the statements that make it.
        complaint: how its line of the refusal begins.
    """

    made_by: tuple[str, ...]
    complaint: str

    def make(self, database: Database) -> None:
        for statement in self.made_by:
            database.run(statement)


REFUSED = {
    "a foreign key to the column": Case(
        ("CREATE TABLE stub (ticket uuid REFERENCES tickets_ticket (token))",),
        "foreign key stub_ticket_fkey on public.stub (on token): the rows that refer to the "
        "column hold leaked values",
    ),
    "a foreign key from the column": Case(
        (
            "CREATE TABLE issued (token uuid PRIMARY KEY)",
            (
                "ALTER TABLE tickets_ticket "
                "ADD CONSTRAINT issued_fk FOREIGN KEY (token) REFERENCES issued"
            ),
        ),
        "foreign key issued_fk on public.tickets_ticket (on token): fresh values refer to no row",
    ),
    "a materialized view": Case(
        ("CREATE MATERIALIZED VIEW copies AS SELECT token FROM tickets_ticket",),
        "materialized view public.copies (on token): it holds copies of the leaked values; run "
        "the swap with --refresh-materialized-views",
    ),
    "a materialized view on a view": Case(
        (
            "CREATE VIEW plain AS SELECT token FROM tickets_ticket",
            "CREATE MATERIALIZED VIEW copies AS SELECT token FROM plain",
        ),
        "materialized view public.copies (through a view): it holds copies",
    ),
    "an exclusion constraint": Case(
        ("ALTER TABLE tickets_ticket ADD CONSTRAINT apart EXCLUDE USING hash (token WITH =)",),
        "index apart (on token): an exclusion constraint cannot be built without blocking writes",
    ),
    "a generated column": Case(
        (
            (
                "ALTER TABLE tickets_ticket ADD COLUMN odd boolean "
                "GENERATED ALWAYS AS (token > '80000000-0000-0000-0000-000000000000') STORED"
            ),
        ),
        "generated column odd of table public.tickets_ticket (on token): its stored values come",
    ),
    "a primary key": Case(
        (
            "ALTER TABLE tickets_ticket DROP CONSTRAINT tickets_ticket_pkey",
            "ALTER TABLE tickets_ticket ADD CONSTRAINT key PRIMARY KEY (token)",
        ),
        "index key (on token): the column is of the primary key, which other tables and the",
    ),
    "an inheritance child": Case(
        ("CREATE TABLE vip () INHERITS (tickets_ticket)",),
        "table public.tickets_ticket (by its kind): it is inherited by public.vip",
    ),
    "a sequence of the column": Case(
        ("CREATE SEQUENCE counter OWNED BY tickets_ticket.token",),
        "object sequence public.counter (on token): the swap does not know how",
    ),
    "an invalid index": Case(
        (
            "CREATE INDEX broken ON tickets_ticket (token)",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
        ),
        "index broken (on token): it is invalid",
    ),
    "a security label": Case(
        (
            (
                "INSERT INTO pg_seclabel "
                "SELECT attrelid, 'pg_class'::regclass, attnum, 'some', 'it' FROM pg_attribute "
                "WHERE attrelid = 'tickets_ticket'::regclass AND attname = 'token'"
            ),
        ),
        "security label token (on token): only its provider can set it",
    ),
}


COLUMNS = "id bigint, token uuid, redeemed_at timestamptz, new_token uuid"
# Tables that are not what `migrate` makes.
KINDS = {
    "a typed table": Case(
        (
            f"CREATE TYPE shape AS ({COLUMNS})",
            "DROP TABLE tickets_ticket",
            "CREATE TABLE tickets_ticket OF shape",
        ),
        "it is a typed table, whose columns belong to its type",
    ),
    "a foreign table": Case(
        (
            # The embedded server has no wrapper that could read; nothing needs to be read.
            "CREATE FOREIGN DATA WRAPPER none",
            "CREATE SERVER nowhere FOREIGN DATA WRAPPER none",
            "DROP TABLE tickets_ticket",
            (f"CREATE FOREIGN TABLE tickets_ticket ({COLUMNS}) SERVER nowhere"),
        ),
        "it is a foreign table: its rows are on another server",
    ),
    "a partition": Case(
        (
            f"CREATE TABLE whole ({COLUMNS}) PARTITION BY RANGE (id)",
            "DROP TABLE tickets_ticket",
            "CREATE TABLE tickets_ticket PARTITION OF whole FOR VALUES FROM (1) TO (9)",
        ),
        "it is a partition of public.whole",
    ),
    "an inheriting table": Case(
        (
            f"CREATE TABLE base ({COLUMNS})",
            "DROP TABLE tickets_ticket",
            "CREATE TABLE tickets_ticket () INHERITS (base)",
        ),
        "it is an inheritance child of public.base, to which its columns belong",
    ),
}


@pytest.mark.parametrize("what", KINDS)
def test_a_table_of_an_odd_kind_is_refused_with_what_is_bound_to_it(
    what: str, database: Database
) -> None:
    KINDS[what].make(database)
    # As a migration that was run past the checks would have left it.
    call_command("pgtrigger", "install")
    database.run("CREATE MATERIALIZED VIEW copies AS SELECT token FROM tickets_ticket WITH NO DATA")
    before = database.dump()
    with pytest.raises(CommandError) as refusal:
        call_command("swap_token_columns")
    assert refusal.value.returncode == 1
    assert f"table public.tickets_ticket (by its kind): {KINDS[what].complaint}" in str(
        refusal.value
    )
    assert REFUSED["a materialized view"].complaint in str(refusal.value)
    assert database.dump() == before


def test_an_identity_column_is_refused(database: Database) -> None:
    replacement = expand(Numbers, NUMBERS)
    database.run("ALTER TABLE zoo_numbers ALTER COLUMN token ADD GENERATED BY DEFAULT AS IDENTITY")
    fill(replacement)
    before = database.dump()
    with pytest.raises(Refused, match=r"column token .* an identity or generated column makes its"):
        list(swap(replacement, using="default"))
    assert database.dump() == before


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_by_name_and_nothing_changes(what: str, database: Database) -> None:
    case = REFUSED[what]
    case.make(database)
    before = None if what == "a security label" else database.dump()
    with pytest.raises(CommandError) as refusal:
        call_command("swap_token_columns")
    assert refusal.value.returncode == 1
    assert case.complaint in str(refusal.value)
    if before is not None:  # pg_dump does not know the label's provider either
        assert database.dump() == before


def test_a_materialized_view_that_others_stand_on_is_refused_even_then(
    database: Database,
) -> None:
    database.run("CREATE MATERIALIZED VIEW copies AS SELECT token FROM tickets_ticket")
    database.run("CREATE VIEW above AS SELECT token FROM copies")
    with pytest.raises(CommandError, match=r"public\.above would have to be created again"):
        call_command("swap_token_columns", refresh_materialized_views=True)


def test_every_finding_is_reported_not_only_the_first(database: Database) -> None:
    # All that a table can have at once; one of these has the name of another.
    cases = [REFUSED[what] for what in REFUSED if what != "a materialized view on a view"]
    for case in cases:
        case.make(database)
    with pytest.raises(CommandError) as refusal:
        call_command("swap_token_columns")
    for case in cases:
        assert case.complaint in str(refusal.value)


def test_the_dry_run_lists_what_is_refused_and_ends_with_1(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    database.run("CREATE VIEW plain AS SELECT token FROM tickets_ticket")
    database.run("CREATE TABLE stub (ticket uuid REFERENCES tickets_ticket (token))")
    before = database.dump()
    with pytest.raises(CommandError) as refusal:
        call_command("swap_token_columns", dry_run=True)
    assert refusal.value.returncode == 1
    said = capsys.readouterr().out
    assert "-- view public.plain (on token): carried over\n" in said
    assert "-- foreign key stub_ticket_fkey on public.stub (on token): refused: the rows" in said
    assert database.dump() == before


def test_the_status_lists_what_is_bound_and_what_becomes_of_it(
    database: Database,
) -> None:
    database.run("CREATE VIEW plain AS SELECT token FROM tickets_ticket")
    database.run("CREATE TABLE stub (ticket uuid REFERENCES tickets_ticket (token))")
    (status,) = json.loads(database.manage("playbook_status", "--json").stdout)
    actions = {(each["kind"], each["name"]): each["action"] for each in status["dependents"]}
    assert actions["view", "public.plain"] == "carried over"
    assert actions["foreign key", "stub_ticket_fkey on public.stub"] == "refused"
    assert actions["unique constraint", "tickets_ticket_token_key"] == "carried over"


def test_a_view_of_another_sessions_temporary_schema_is_refused(database: Database) -> None:
    with database.connect(autocommit=True) as other:
        other.execute("CREATE TEMPORARY VIEW mine AS SELECT token FROM tickets_ticket")
        with pytest.raises(CommandError, match="temporary view of another session"):
            call_command("swap_token_columns")


def test_a_check_that_fresh_values_do_not_pass_is_refused_and_taken_back(
    database: Database,
) -> None:
    ticket = Ticket.objects.create()
    database.run(
        f"ALTER TABLE tickets_ticket ADD CONSTRAINT only_this CHECK (id > 1 OR token = "
        f"'{ticket.token}')"
    )
    with pytest.raises(CommandError, match="do not pass the check only_this") as refusal:
        call_command("swap_token_columns")
    assert str(ticket.token) not in str(refusal.value)
    checks = database.fetch("SELECT conname FROM pg_constraint WHERE contype = 'c'")
    assert ("only_this",) in checks
    assert ("only_this_new_token",) not in checks
