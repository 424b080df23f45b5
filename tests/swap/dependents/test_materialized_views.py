"""Materialized views hold copies: renewed before the verdict, and after an interruption too."""

from __future__ import annotations

import json
import signal
from typing import Any, Literal

import pytest
from django.core.management import CommandError, call_command

from tests.fixtures.database import Database, wait_until
from tests.fixtures.tickets import refusal
from tickets.models import Ticket

FINISH = 'Run "manage.py swap_token_columns --refresh-materialized-views" to finish.'
# `copies` reads the column itself, `counted` through a view; filling `copies` passes a gate.
COPIES = (
    (
        "CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS "
        "'BEGIN IF current_query() LIKE ''REFRESH %'' THEN PERFORM pg_advisory_xact_lock(42); "
        "END IF; RETURN true; END'"
    ),
    "CREATE VIEW plain AS SELECT id, token FROM tickets_ticket",
    (
        "CREATE MATERIALIZED VIEW copies WITH (fillfactor = 80) AS "
        "SELECT id, token FROM tickets_ticket WHERE gate()"
    ),
    "CREATE UNIQUE INDEX copies_token ON copies (token)",
    "CREATE MATERIALIZED VIEW counted AS SELECT token, 1 AS n FROM plain",
    "CREATE UNIQUE INDEX counted_token ON counted (token)",
)


@pytest.fixture
def copied(database: Database) -> Database:
    for _ in range(3):
        Ticket.objects.create()
    for statement in COPIES:
        database.run(statement)
    return database


def shown_of(database: Database, column: str) -> tuple[int, int]:
    """How many of the column's values the two materialized views show."""
    counted = "SELECT count(*) FROM tickets_ticket t JOIN %s v ON v.token = %s"
    return database.value(counted % ("copies", column)), database.value(
        counted % ("counted", column)
    )


def status(database: Database) -> Any:
    (found,) = json.loads(database.manage("playbook_status", "--json").stdout)
    return found


def held_up_by(database: Database, obstacle: int) -> int:
    """The pid of a session that waits for another one; waits until there is one."""

    def found() -> list[tuple[Any, ...]]:
        return database.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND %s = ANY (pg_blocking_pids(pid))",
            obstacle,
        )

    wait_until(found, f"a session waits for pid {obstacle}")
    return int(found()[0][0])


def gone(database: Database, pid: int) -> bool:
    return not database.value("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid)


def interrupt(
    database: Database,
    place: Literal["filling", "replacing"],
    how: Literal["kill -9", "pg_terminate_backend"],
    *arguments: str,
) -> tuple[int, str]:
    """Cut a swap off after its exchange; its exit code and what it said.

    Arguments:
        place: where: while the new copy is filled, or as it is to take the old one's place.
    """
    with database.connect() as obstacle:
        obstacle.execute(
            "SELECT pg_advisory_lock(42)" if place == "filling" else "SELECT count(*) FROM copies"
        )
        swap = database.start(
            "swap_token_columns", "--refresh-materialized-views", "--lock-timeout", "60000",
            *arguments,
        )  # fmt: skip
        pid = held_up_by(database, obstacle.info.backend_pid)
        if how == "kill -9":
            swap.send_signal(signal.SIGKILL)
        else:
            database.run("SELECT pg_terminate_backend(%s)", pid)
        _, complaint = swap.communicate(timeout=60)
    wait_until(lambda: gone(database, pid), "the server has given the session up")
    return swap.returncode, complaint


@pytest.mark.parametrize(
    ("place", "how"),
    [("filling", "kill -9"), ("replacing", "kill -9"), ("replacing", "pg_terminate_backend")],
)
def test_cut_off_after_the_exchange_it_is_finished_by_the_same_command(
    copied: Database,
    place: Literal["filling", "replacing"],
    how: Literal["kill -9", "pg_terminate_backend"],
) -> None:
    before = copied.dump()
    code, complaint = interrupt(copied, place, how)
    if how == "kill -9":
        assert code == -signal.SIGKILL
    else:
        assert code == 75
        assert "was committed, but this was not done: Let it take the place of" in complaint
        assert FINISH in complaint

    # The old copies are still served, and everybody who asks is told so, and what to do.
    assert shown_of(copied, "t.new_token") == (3, 3)
    left = status(copied)
    assert (left["phase"], left["left"]) == ("swapped", ["public.copies", "public.counted"])
    assert left["next"] == "manage.py swap_token_columns --refresh-materialized-views"
    code, complaint = refusal("swap_token_columns", "--verify")
    assert code == 1
    assert "not renewed: materialized view public.copies; " in complaint
    assert "3 shown by views (public.counted)" in complaint
    assert complaint.endswith(FINISH)
    assert refusal("swap_token_columns") == (
        1,
        (
            "tickets.Ticket is swapped already, but for what an interrupted run has left: "
            f"public.copies, public.counted. {FINISH}"
        ),
    )

    done = copied.manage("swap_token_columns", "--refresh-materialized-views")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "Finishing what an interrupted run has left: public.copies, public.counted.\n"
    )
    assert shown_of(copied, "t.new_token") == (0, 0)
    assert shown_of(copied, "t.token") == (3, 3)
    call_command("swap_token_columns", verify=True)
    left = status(copied)
    assert (left["left"], "contract" in left["next"]) == ([], True)
    assert refusal("swap_token_columns", "--refresh-materialized-views")[1].startswith(
        "tickets.Ticket is swapped already: "
    )
    call_command("swap_token_columns", revert=True, refresh_materialized_views=True)
    assert copied.dump() == before


def test_cut_off_after_the_exchange_it_can_be_reverted_instead(copied: Database) -> None:
    before = copied.dump()
    interrupt(copied, "filling", "kill -9")
    call_command("swap_token_columns", revert=True, refresh_materialized_views=True)
    assert shown_of(copied, "t.token") == (3, 3)
    assert copied.dump() == before


def test_a_revert_that_is_cut_off_is_finished_by_the_same_command(copied: Database) -> None:
    before = copied.dump()
    call_command("swap_token_columns", refresh_materialized_views=True)
    interrupt(copied, "filling", "kill -9", "--revert")
    left = status(copied)
    assert (left["phase"], left["left"]) == ("filled", ["public.copies"])
    again = "manage.py swap_token_columns --revert --refresh-materialized-views"
    assert left["next"] == again
    assert f'Run "{again}" to finish.' in refusal("swap_token_columns", "--revert")[1]
    done = copied.manage("swap_token_columns", "--revert", "--refresh-materialized-views")
    assert done.returncode == 0, done.stderr
    assert shown_of(copied, "t.token") == (3, 3)
    assert copied.dump() == before


def test_behind_a_reader_that_stays_it_ends_with_75_and_says_what_finishes_it(
    copied: Database,
) -> None:
    with copied.connect() as reader:
        reader.execute("SELECT count(*) FROM copies")
        code, complaint = refusal(
            "swap_token_columns", "--refresh-materialized-views",
            "--attempts", "2", "--lock-timeout", "20",
        )  # fmt: skip
    assert code == 75
    assert "was committed, but this was not done, because others hold what it needs" in complaint
    assert complaint.endswith(FINISH)
    call_command("swap_token_columns", refresh_materialized_views=True)
    assert shown_of(copied, "t.new_token") == (0, 0)


def test_a_copy_with_a_unique_index_is_refreshed_beside_its_readers(copied: Database) -> None:
    """Concurrently: who reads it keeps neither the refresh waiting nor is kept waiting."""
    with copied.connect() as reader:
        reader.execute("SELECT count(*) FROM counted")
        call_command("swap_token_columns", refresh_materialized_views=True)
        assert reader.execute("SELECT count(*) FROM counted").fetchone() == (3,)
    assert shown_of(copied, "t.token") == (3, 3)


def test_a_copy_that_holds_no_data_stays_without(copied: Database) -> None:
    copied.run("REFRESH MATERIALIZED VIEW copies WITH NO DATA")
    copied.run("REFRESH MATERIALIZED VIEW counted WITH NO DATA")
    call_command("swap_token_columns", refresh_materialized_views=True)
    assert copied.fetch("SELECT matviewname FROM pg_matviews WHERE NOT ispopulated ORDER BY 1") == [
        ("copies",),
        ("counted",),
    ]
    copied.run("REFRESH MATERIALIZED VIEW copies")
    assert copied.value("SELECT count(*) FROM copies JOIN tickets_ticket USING (token)") == 3


def test_a_copy_of_whole_rows_is_one_too(database: Database) -> None:
    """PostgreSQL notes no dependency on a column of a row that is taken whole."""
    ticket = Ticket.objects.create()
    database.run(
        "CREATE MATERIALIZED VIEW rows AS SELECT id, to_json(t) AS r FROM tickets_ticket t"
    )
    code, complaint = refusal("swap_token_columns")
    assert code == 1
    assert "materialized view public.rows (through a view): it holds copies" in complaint
    call_command("swap_token_columns", refresh_materialized_views=True)
    shown = database.value("SELECT r->>'token' FROM rows")
    assert shown != str(ticket.token)
    assert shown == str(database.value("SELECT token FROM tickets_ticket"))


@pytest.mark.parametrize(
    ("replacement", "named"),
    [
        ("COMMENT ON COLUMN copies.token IS 'secret'", "comments or statistics of their own"),
        ("CREATE STATISTICS pairs ON id, token FROM copies", "comments or statistics of their own"),
        (
            (
                "CREATE FUNCTION newest() RETURNS uuid LANGUAGE sql "
                "BEGIN ATOMIC SELECT token FROM copies ORDER BY id DESC LIMIT 1; END"
            ),
            "function public.newest() would have to be created again with it",
        ),
    ],
)
def test_what_would_be_lost_with_the_old_copy_is_refused_before_anything_changes(
    replacement: str, named: str, copied: Database
) -> None:
    copied.run(replacement)
    before = copied.dump()
    with pytest.raises(CommandError, match=r"materialized view public\.copies") as refused:
        call_command("swap_token_columns", refresh_materialized_views=True)
    assert named in str(refused.value)
    assert copied.dump() == before
