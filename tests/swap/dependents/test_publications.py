"""What a logical subscriber receives before the swap, after it and after the revert."""

from __future__ import annotations

from typing import Any

from tests.fixtures.database import Database
from tests.fixtures.server import server_version
from tests.fixtures.subscriber import Published, published

# PostgreSQL 15 brought lists of columns.
LISTED = "(id, token)" if server_version() >= 15 else ""


def manage(database: Database, *arguments: str) -> None:
    done = database.manage(*arguments)
    assert done.returncode == 0, done.stderr


def issue(both: Published) -> int:
    """A new ticket, as the application makes it; its id."""
    return int(
        both.publisher.value(
            "INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid()) RETURNING id"
        )
    )


def tickets(database: Database) -> dict[int, Any]:
    return dict(database.fetch("SELECT id, token FROM tickets_ticket"))


def test_a_subscriber_gets_the_live_column_in_every_phase_and_keeps_what_it_has() -> None:
    """One server, because to start it takes longer than all the rest."""
    columns = "id bigint PRIMARY KEY, token uuid, redeemed_at timestamptz, new_token uuid"
    with published(f"tickets_ticket {LISTED}", columns) as both:
        old = issue(both)
        both.catch_up()
        both.subscriber.run("ALTER SUBSCRIPTION incoming DISABLE")
        late = issue(both)
        leaked = tickets(both.publisher)
        manage(both.publisher, "swap_token_columns")
        since = issue(both)
        both.subscriber.run("ALTER SUBSCRIPTION incoming ENABLE")
        both.catch_up()
        live, had = tickets(both.publisher), tickets(both.subscriber)
        # What is written since arrives under its name, with no REFRESH of the subscription.
        assert had[since] == live[since]
        # The WAL is decoded with the catalog of its own time: late, and as it was.
        assert had[late] == leaked[late] != live[late]
        # A rename does not replicate: what is not written again stays as the subscriber has it.
        assert had[old] == leaked[old] != live[old]

        # Written again, without a change, all rows arrive: the first way of docs/dependents.md.
        both.publisher.run("UPDATE tickets_ticket SET token = token")
        both.catch_up()
        assert tickets(both.subscriber) == live
        manage(both.publisher, "swap_token_columns", "--verify")

        manage(both.publisher, "swap_token_columns", "--revert")
        issue(both)
        both.publisher.run("UPDATE tickets_ticket SET token = token")
        both.catch_up()
        assert tickets(both.subscriber) == tickets(both.publisher)
        assert tickets(both.subscriber)[old] == leaked[old]

        # The second way: the subscriber copies anew.
        manage(both.publisher, "swap_token_columns")
        both.publisher.run("ALTER PUBLICATION outgoing DROP TABLE tickets_ticket")
        both.subscriber.run("ALTER SUBSCRIPTION incoming REFRESH PUBLICATION")
        both.subscriber.run("TRUNCATE tickets_ticket")
        both.publisher.run(f"ALTER PUBLICATION outgoing ADD TABLE tickets_ticket {LISTED}")
        both.subscriber.run("ALTER SUBSCRIPTION incoming REFRESH PUBLICATION")
        both.copied()
        issue(both)
        both.catch_up()
        assert tickets(both.subscriber) == tickets(both.publisher)
        assert len(tickets(both.subscriber)) == 5


def test_a_publication_of_the_whole_table_is_listed_and_left_as_it_is(database: Database) -> None:
    database.run("CREATE PUBLICATION everything FOR ALL TABLES")
    database.run(f"CREATE PUBLICATION listed FOR TABLE tickets_ticket {LISTED}")
    shown = database.manage("swap_token_columns", "--dry-run").stdout
    keeps = "its subscribers keep what they have"
    assert f"-- publication everything (with the whole table; {keeps}): left as it is\n" in shown
    if LISTED:
        assert f"-- publication listed (on token; {keeps}): carried over\n" in shown
    else:
        assert f"-- publication listed (with the whole table; {keeps}): left as it is\n" in shown
