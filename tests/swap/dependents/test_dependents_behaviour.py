"""What each dependent does, before the swap, after it and after the revert, to who relies on it."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection
from psycopg import errors

from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.replacement import find_replacement
from migrations_playbook.swap.dependents.inventory import read_inventory
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.prepare import prepare
from tests.fixtures.database import Database, role, wait_until
from tests.fixtures.server import server_version
from tickets.models import Ticket

APP = "behaviour_app"


@pytest.fixture
def app(database: Database) -> Iterator[Database]:
    """A table of three tickets, and an application's role without any right."""
    for _ in range(3):
        Ticket.objects.create()
    with role(database, APP):
        yield database


def swap() -> None:
    call_command("swap_token_columns")


def revert() -> None:
    call_command("swap_token_columns", revert=True)


def in_every_phase(database: Database, look: Callable[[], None]) -> None:
    """Look before the swap, after it and after the revert; the dump must come back."""
    before = database.dump()
    look()
    swap()
    look()
    revert()
    look()
    assert database.dump() == before


def as_app(database: Database, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    with database.connect(autocommit=True) as session:
        session.execute(f"SET ROLE {APP}")
        cursor = session.execute(statement, params or None)
        return cursor.fetchall() if cursor.description else []


def token_of(database: Database, pk: int) -> uuid.UUID:
    value = database.value("SELECT token FROM tickets_ticket WHERE id = %s", pk)
    assert isinstance(value, uuid.UUID)
    return value


def first(database: Database) -> int:
    return int(database.value("SELECT min(id) FROM tickets_ticket"))


def test_a_column_privilege_lets_the_application_read_the_live_column_only(app: Database) -> None:
    app.run(f"GRANT SELECT (id, token) ON tickets_ticket TO {APP}")

    def look() -> None:
        assert as_app(app, "SELECT token FROM tickets_ticket WHERE id = %s", first(app)) == [
            (token_of(app, first(app)),)
        ]
        with pytest.raises(errors.InsufficientPrivilege):
            as_app(app, "SELECT new_token FROM tickets_ticket")

    in_every_phase(app, look)


def test_a_policy_lets_the_bearer_of_the_live_token_in(app: Database) -> None:
    app.run(f"GRANT SELECT ON tickets_ticket TO {APP}")
    app.run("ALTER TABLE tickets_ticket ENABLE ROW LEVEL SECURITY")
    app.run(
        f"CREATE POLICY bearer ON tickets_ticket TO {APP} "
        "USING (token = current_setting('app.token')::uuid)"
    )

    def seen_with(token: uuid.UUID) -> list[tuple[Any, ...]]:
        with app.connect(autocommit=True) as session:
            session.execute(f"SET ROLE {APP}")
            session.execute("SELECT set_config('app.token', %s, false)", [str(token)])
            return session.execute("SELECT id FROM tickets_ticket").fetchall()

    def look() -> None:
        pk = first(app)
        assert seen_with(token_of(app, pk)) == [(pk,)]
        other = app.value("SELECT new_token FROM tickets_ticket WHERE id = %s", pk)
        assert seen_with(other) == []

    in_every_phase(app, look)


def test_an_update_of_trigger_fires_for_the_live_column_and_no_other(app: Database) -> None:
    app.run("CREATE TABLE changes (ticket bigint)")
    app.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO public.changes VALUES (NEW.id); RETURN NEW; END'"
    )
    app.run(
        "CREATE TRIGGER noted AFTER UPDATE OF token ON tickets_ticket "
        "FOR EACH ROW WHEN (NEW.token IS DISTINCT FROM OLD.token) EXECUTE FUNCTION note()"
    )
    newest = app.value("SELECT max(id) FROM tickets_ticket")

    def look() -> None:
        app.run("TRUNCATE changes")
        app.run("UPDATE tickets_ticket SET new_token = gen_random_uuid() WHERE id = %s", newest)
        assert app.value("SELECT count(*) FROM changes") == 0
        app.run("UPDATE tickets_ticket SET token = gen_random_uuid() WHERE id = %s", newest)
        assert app.value("SELECT count(*) FROM changes") == 1

    in_every_phase(app, look)


@pytest.mark.skipif(server_version() < 15, reason="lists of columns came with PostgreSQL 15")
def test_a_publication_sends_the_live_column_and_not_the_other(app: Database) -> None:
    app.run("CREATE PUBLICATION outgoing FOR TABLE tickets_ticket (id, token)")

    def look() -> None:
        assert app.value(
            "SELECT attnames::text[] FROM pg_publication_tables WHERE pubname = 'outgoing'"
        ) == ["id", "token"] or sorted(
            app.value("SELECT attnames::text[] FROM pg_publication_tables")
        ) == ["id", "token"]

    in_every_phase(app, look)


def test_extended_statistics_know_about_the_live_column(app: Database) -> None:
    app.run("CREATE STATISTICS together (ndistinct) ON token, redeemed_at FROM tickets_ticket")
    app.run("ANALYZE tickets_ticket")

    def look() -> None:
        assert app.fetch(
            "SELECT attnames::text[], n_distinct IS NOT NULL FROM pg_stats_ext "
            "WHERE statistics_name = 'together'"
        )[0] in [(["redeemed_at", "token"], True), (["token", "redeemed_at"], True)]

    in_every_phase(app, look)


def test_a_deferrable_constraint_waits_for_the_commit(app: Database) -> None:
    app.run(
        "ALTER TABLE tickets_ticket ADD CONSTRAINT later UNIQUE (token, redeemed_at) "
        "DEFERRABLE INITIALLY DEFERRED"
    )
    app.run("UPDATE tickets_ticket SET redeemed_at = '2026-01-01'")
    # The immediate constraint would complain first.
    app.run("ALTER TABLE tickets_ticket DROP CONSTRAINT tickets_ticket_token_key")
    insert = (
        "INSERT INTO tickets_ticket (token, redeemed_at) "
        "SELECT token, redeemed_at FROM tickets_ticket WHERE redeemed_at IS NOT NULL LIMIT 1"
    )

    def look() -> None:
        with app.connect() as session:
            session.execute(insert)  # for now
            with pytest.raises(errors.UniqueViolation, match="later"):
                session.commit()

    in_every_phase(app, look)


def test_a_check_is_kept_for_the_live_column(app: Database) -> None:
    app.run(
        "ALTER TABLE tickets_ticket ADD CONSTRAINT real CHECK "
        "(token <> '00000000-0000-0000-0000-000000000000')"
    )

    def look() -> None:
        with pytest.raises(errors.CheckViolation):
            app.run("INSERT INTO tickets_ticket (token) VALUES (%s)", uuid.UUID(int=0))

    in_every_phase(app, look)


@pytest.mark.skipif(server_version() < 18, reason="NOT ENFORCED came with PostgreSQL 18")
def test_a_check_that_is_not_enforced_goes_along_and_refuses_nothing(app: Database) -> None:
    app.run(
        "ALTER TABLE tickets_ticket ADD CONSTRAINT wished CHECK (token IS NULL) "
        "NO INHERIT NOT ENFORCED"
    )

    def look() -> None:
        assert "CHECK ((token IS NULL)) NO INHERIT NOT ENFORCED" in app.dump()

    in_every_phase(app, look)


def test_an_updatable_view_writes_the_live_column(app: Database) -> None:
    app.run(
        "CREATE VIEW redeemable AS SELECT id, token FROM tickets_ticket "
        "WHERE token > '10000000-0000-0000-0000-000000000000' WITH LOCAL CHECK OPTION"
    )
    app.run(f"GRANT SELECT, UPDATE ON redeemable TO {APP}")
    newest = app.value("SELECT max(id) FROM tickets_ticket")

    def look() -> None:
        # Above what the view leaves out.
        value = uuid.UUID(int=uuid.uuid4().int | 1 << 127)
        app.run("UPDATE tickets_ticket SET token = %s WHERE id = %s", value, newest)
        other = uuid.UUID(int=uuid.uuid4().int | 1 << 127)
        as_app(app, "UPDATE redeemable SET token = %s WHERE id = %s", other, newest)
        assert token_of(app, newest) == other
        with pytest.raises(errors.WithCheckOptionViolation):
            as_app(app, "UPDATE redeemable SET token = %s WHERE id = %s", uuid.UUID(int=1), newest)

    in_every_phase(app, look)


def test_the_replica_identity_is_the_live_columns_index(app: Database) -> None:
    app.run("ALTER TABLE tickets_ticket REPLICA IDENTITY USING INDEX tickets_ticket_token_key")
    listed = " (id, token)" if server_version() >= 15 else ""  # which brought lists of columns
    app.run(f"CREATE PUBLICATION outgoing FOR TABLE tickets_ticket{listed}")

    def look() -> None:
        assert app.fetch(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indisreplident"
        ) == [
            (
                (
                    "CREATE UNIQUE INDEX tickets_ticket_token_key ON public.tickets_ticket "
                    "USING btree (token)"
                ),
            )
        ]
        app.run("UPDATE tickets_ticket SET redeemed_at = now()")  # needs the identity

    in_every_phase(app, look)


def test_a_function_with_a_parsed_body_finds_by_the_live_column(app: Database) -> None:
    app.run(
        "CREATE FUNCTION bearer(uuid) RETURNS bigint LANGUAGE sql STABLE "
        "BEGIN ATOMIC SELECT id FROM tickets_ticket WHERE token = $1; END"
    )

    def look() -> None:
        pk = first(app)
        assert app.value("SELECT bearer(%s)", token_of(app, pk)) == pk

    in_every_phase(app, look)


def test_an_index_that_is_made_while_swapped_is_carried_back(app: Database) -> None:
    swap()
    app.run("CREATE INDEX made_meanwhile ON tickets_ticket (token, id)")
    revert()
    assert app.value("SELECT indexdef FROM pg_indexes WHERE indexname = 'made_meanwhile'").endswith(
        "(token, id)"
    )


def test_readers_of_a_view_come_through_without_a_deadlock(app: Database) -> None:
    """A reader locks the view first and then the table; so does the exchange."""
    app.run("CREATE VIEW plain AS SELECT id, token FROM tickets_ticket")
    over = threading.Event()
    failures: list[Exception] = []
    reads = itertools.count()

    def read() -> None:
        try:
            with app.connect(autocommit=True) as session:
                while not over.is_set():
                    session.execute("SELECT count(token) FROM plain")
                    next(reads)
        except psycopg.Error as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(2):
            swap()
            revert()
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert next(reads) > 0


def test_what_is_bound_while_the_swap_waits_is_carried_over_too(app: Database) -> None:
    """Nothing but the table's own lock keeps CREATE VIEW and GRANT away: it looks again."""
    table = read_table(
        connection, (replacement := find_replacement("tickets.Ticket", "new_token")).identifier
    )
    assert table is not None
    for _ in prepare(
        connection, read_inventory(connection, Pair.of(replacement, table)), LockPolicy()
    ):
        pass
    with app.connect() as reader:
        reader.execute("SELECT count(*) FROM tickets_ticket")
        swapping = app.start("swap_token_columns", "--attempts", "500")
        wait_until(lambda: waits_with_a_plan(app), "the swap has made its plan")
        app.run("CREATE VIEW late AS SELECT id, token FROM tickets_ticket")
        app.run(f"GRANT SELECT (token) ON tickets_ticket TO {APP}")
        reader.rollback()
        assert swapping.communicate(timeout=60)[1] == ""
    assert swapping.returncode == 0
    assert (
        app.value(
            "SELECT count(*) FROM late JOIN tickets_ticket t USING (id) WHERE late.token = t.token"
        )
        == 3
    )
    assert as_app(app, "SELECT count(token) FROM tickets_ticket") == [(3,)]


def waits_with_a_plan(database: Database) -> bool:
    """Whether a session has reserved the table and pauses, having looked who holds it."""
    return bool(
        database.value(
            "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid) "
            "WHERE l.relation = 'tickets_ticket'::regclass AND l.granted "
            "AND l.mode = 'ShareUpdateExclusiveLock' AND a.state = 'idle in transaction' "
            "AND a.query ~ 'array_position'"
        )
    )
