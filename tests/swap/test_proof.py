"""The proof after the swap and on demand, and the evidence of it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.fixtures.database import Database, role
from tests.fixtures.tickets import past_the_triggers
from tickets.models import Ticket


def verify() -> None:
    call_command("swap_token_columns", verify=True)


@pytest.fixture
def swapped(database: Database) -> Database:
    for _ in range(3):
        Ticket.objects.create()
    call_command("swap_token_columns")
    return database


def test_a_good_swap_passes_again_and_again(swapped: Database) -> None:
    verify()
    Ticket.objects.create()
    ticket = Ticket.objects.all()[0]
    ticket.save()
    verify()


def test_before_the_swap_there_is_nothing_to_verify(database: Database) -> None:
    with pytest.raises(CommandError, match="is not swapped, so there is nothing to verify"):
        verify()


def test_after_the_revert_there_is_nothing_to_verify(swapped: Database) -> None:
    call_command("swap_token_columns", revert=True)
    with pytest.raises(CommandError, match="is not swapped"):
        verify()


def test_another_rows_leaked_value_fails_it(swapped: Database) -> None:
    past_the_triggers(
        swapped,
        "UPDATE tickets_ticket t SET token = o.new_token FROM tickets_ticket o "
        "WHERE t.id = 1 AND o.id = 2",
    )
    with pytest.raises(CommandError, match="1 with another row's retired value"):
        verify()


def test_a_privilege_that_was_lost_in_the_exchange_fails_it(database: Database) -> None:
    Ticket.objects.create()
    reader = f"{database.name}_reader"
    with role(database, reader):
        database.run(f"GRANT SELECT ON tickets_ticket TO {reader}")
        # Somebody's event trigger, which nobody has thought of.
        database.run(
            "CREATE FUNCTION tidy() RETURNS event_trigger LANGUAGE plpgsql AS "  # noqa: S608
            f"'BEGIN REVOKE SELECT ON public.tickets_ticket FROM {reader}; END'"
        )
        database.run(
            "CREATE EVENT TRIGGER tidy ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER') "
            "EXECUTE FUNCTION tidy()"
        )
        with pytest.raises(CommandError, match=rf"privileges changed: {reader} \(SELECT\)"):
            call_command("swap_token_columns")


def test_a_view_that_still_shows_leaked_values_fails_it(swapped: Database) -> None:
    swapped.run("CREATE VIEW serves AS SELECT id, new_token AS token FROM tickets_ticket")
    # It shows the retired column as it is, which PostgreSQL can tell: on purpose.
    verify()
    swapped.run(
        "CREATE VIEW hides AS SELECT id, 'x'::text AS kind, new_token::text AS token "
        "FROM tickets_ticket"
    )
    with pytest.raises(CommandError, match=r"3 shown by views \(public\.hides\)"):
        verify()


def test_a_view_on_a_view_is_read_through_too(swapped: Database) -> None:
    swapped.run("CREATE VIEW below AS SELECT id, upper(new_token::text) AS t FROM tickets_ticket")
    verify()  # another text, which nobody could tell from the value
    swapped.run("CREATE VIEW above AS SELECT lower(t) AS code FROM below")
    with pytest.raises(CommandError, match="3 shown by views"):
        verify()


def test_a_materialized_view_made_of_leaked_values_fails_it(swapped: Database) -> None:
    swapped.run("CREATE MATERIALIZED VIEW copies AS SELECT new_token AS token FROM tickets_ticket")
    with pytest.raises(CommandError, match=r"still bound to it: materialized view public\.copies"):
        verify()


def test_the_evidence_tells_what_a_report_needs_and_no_token(
    database: Database, tmp_path: Path
) -> None:
    for _ in range(3):
        Ticket.objects.create()
    tokens = {str(each) for row in Ticket.objects.values_list("token", "new_token") for each in row}
    database.run("CREATE VIEW plain AS SELECT id, token FROM tickets_ticket")
    path = tmp_path / "evidence.json"
    call_command("swap_token_columns", evidence=path)
    text = path.read_text()
    evidence = json.loads(text)
    assert evidence["play"] == "swap"
    assert evidence["outcome"] == "done"
    assert evidence["database"] == database.name
    assert evidence["table"] == "public.tickets_ticket"
    assert (evidence["column"], evidence["retired_column"]) == ("token", "new_token")
    me = database.value("SELECT session_user")
    assert (evidence["role"], evidence["session_role"]) == (me, me)
    assert evidence["os_user"] == (os.environ.get("SUDO_USER") or os.environ.get("USER"))
    assert (evidence["rows"], evidence["views"], evidence["passed"]) == (3, 1, True)
    assert "view public.plain" in evidence["carried"]
    assert evidence["lock_hold_ms"] > 0
    assert evidence["began"] <= evidence["ended"]
    assert evidence["live_values_before"]["rows"] == evidence["live_values_after"]["rows"] == 3
    assert evidence["live_values_before"]["sum"] != evidence["live_values_after"]["sum"]
    assert not [each for each in tokens if each in text]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_digest_comes_back_with_the_revert(swapped: Database, tmp_path: Path) -> None:
    call_command("swap_token_columns", verify=True, evidence=tmp_path / "swapped.json")
    call_command("swap_token_columns", revert=True, evidence=tmp_path / "reverted.json")
    call_command("swap_token_columns", evidence=tmp_path / "again.json")
    swapped_, reverted, again = (
        json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("swapped", "reverted", "again")
    )
    assert reverted["live_values_before"] == swapped_["live_values_after"]
    assert reverted["live_values_after"] != swapped_["live_values_after"]
    assert again["live_values_after"] == swapped_["live_values_after"]


def test_the_digest_does_not_depend_on_the_order_of_the_rows(
    swapped: Database, tmp_path: Path
) -> None:
    call_command("swap_token_columns", verify=True, evidence=tmp_path / "a.json")
    swapped.run("UPDATE tickets_ticket SET redeemed_at = now() WHERE id = 1")  # moves to the end
    call_command("swap_token_columns", verify=True, evidence=tmp_path / "b.json")
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert a["live_values_after"] == b["live_values_after"]


def test_a_refusal_leaves_evidence_too(database: Database, tmp_path: Path) -> None:
    database.run("CREATE TABLE stub (ticket uuid REFERENCES tickets_ticket (token))")
    with pytest.raises(CommandError):
        call_command("swap_token_columns", evidence=tmp_path / "e.json")
    assert (
        "foreign key stub_ticket_fkey" in json.loads((tmp_path / "e.json").read_text())["outcome"]
    )


def test_evidence_is_not_overwritten(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text("mine")
    with pytest.raises(CommandError, match="exists, and evidence is not overwritten"):
        call_command("swap_token_columns", evidence=path)
    assert path.read_text() == "mine"


def test_a_fresh_value_that_another_row_has_leaked_is_drawn_again(database: Database) -> None:
    first, second = Ticket.objects.create(), Ticket.objects.create()
    with database.connect(autocommit=True) as session:
        session.execute(
            "UPDATE tickets_ticket SET new_token = %s WHERE id = %s", [first.token, second.pk]
        )
    call_command("swap_token_columns")
    second.refresh_from_db()
    assert second.token != first.token
    verify()
