"""The swap: prepared beside a live site, exchanged in one transaction, its own inverse."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from psycopg import errors

from tests.fixtures.database import Database, wait_until, wait_until_blocked
from tests.fixtures.tickets import (
    bring_to,
    changed,
    nulls,
    refusal,
    remember,
    run_for_json,
)
from tickets.models import Ticket


def swap(*options: str) -> dict[str, Any]:
    """The swap in this process; its JSON result."""
    result: dict[str, Any] = run_for_json("swap_token_columns", *options)
    return result


def test_every_ticket_has_its_fresh_token_under_the_live_name(filled: Database) -> None:
    result = swap()
    assert changed(filled, "new_token", now="token") == 0
    assert changed(filled, "token", now="new_token") == 0
    assert result["phase"] == "swapped"
    assert result["rows"] == 5
    assert [result[each] for each in ("nulls", "duplicates", "same", "leaked")] == [0] * 4
    assert result["attempts"] >= 1
    assert {"lock_wait_ms", "lock_hold_ms"} <= result.keys()


def test_the_revert_brings_every_old_token_and_the_old_schema_back(filled: Database) -> None:
    before = filled.dump()
    call_command("swap_token_columns")
    call_command("swap_token_columns", revert=True)
    assert changed(filled, "token") == 0
    assert changed(filled, "new_token") == 0
    assert filled.dump() == before


def test_swap_revert_swap_keeps_all_rows_and_the_tokens_issued_between(filled: Database) -> None:
    swap()
    once = filled.dump()
    while_swapped = Ticket.objects.create()
    swap("--revert")
    while_reverted = Ticket.objects.create()
    for ticket in (while_swapped, while_reverted):
        assert (Ticket.objects.get(pk=ticket.pk).token == ticket.token) is True
    result = swap()
    assert result["rows"] == 7
    assert changed(filled, "new_token", now="token") == 0
    assert (Ticket.objects.get(pk=while_swapped.pk).token == while_swapped.token) is True
    assert filled.dump() == once


def test_after_it_the_model_and_the_schema_agree(filled: Database) -> None:
    call_command("swap_token_columns")
    call_command("makemigrations", check=True, dry_run=True)
    with pytest.raises(IntegrityError), transaction.atomic():
        Ticket.objects.bulk_create([Ticket(token=uuid.UUID(int=1)), Ticket(token=uuid.UUID(int=1))])
    with pytest.raises(errors.NotNullViolation):
        filled.run("INSERT INTO tickets_ticket (token) VALUES (NULL)")


@pytest.mark.parametrize("phase", ["expanded", "swapped", "reverted"])
def test_the_triggers_are_installed_and_act_on_the_right_columns(
    filled: Database, phase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bring_to(phase)  # type: ignore[arg-type]
    capsys.readouterr()
    call_command("pgtrigger", "ls")
    listed = [line for line in capsys.readouterr().out.splitlines() if "_new_token" in line]
    assert len(listed) == 2
    for line in listed:
        assert "INSTALLED" in line
        assert "OUTDATED" not in line
    # No client gives this column a value: only the right trigger does.
    filled.run("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
    assert nulls(filled) == 0
    filled.run("UPDATE tickets_ticket SET redeemed_at = now(), new_token = NULL")
    assert nulls(filled) == 0


def test_the_unique_constraint_on_the_live_column_keeps_its_name(filled: Database) -> None:
    constraint = """
        SELECT k.conname FROM pg_constraint k JOIN pg_attribute a
            ON a.attrelid = k.conrelid AND k.conkey = ARRAY[a.attnum]
         WHERE k.conrelid = 'tickets_ticket'::regclass AND k.contype = 'u' AND a.attname = 'token'
    """
    before = filled.fetch(constraint)
    for revert in (False, True, False):
        call_command("swap_token_columns", revert=revert)
        assert filled.fetch(constraint) == before


def test_a_dry_run_lists_statements_and_locks_and_changes_nothing(
    filled: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    before = filled.dump()
    capsys.readouterr()
    call_command("swap_token_columns", dry_run=True)
    shown = capsys.readouterr().out
    assert filled.dump() == before
    in_order = [
        shown.index(part)
        for part in (
            "CREATE UNIQUE INDEX CONCURRENTLY",
            "VALIDATE CONSTRAINT",
            "In one transaction",
            "RENAME COLUMN",
        )
    ]
    assert in_order == sorted(in_order)
    steps = [line for line in shown.splitlines() if line.startswith("-- ") and "Lock:" in line]
    assert len(steps) >= 10
    for lock in ("SHARE UPDATE EXCLUSIVE", "ACCESS EXCLUSIVE"):
        assert any(line.endswith(f"Lock: {lock}") for line in steps)


def test_a_dry_run_waits_for_nobody(filled: Database) -> None:
    with filled.connect() as busy:
        busy.execute("SELECT FROM tickets_ticket FOR UPDATE")
        call_command("swap_token_columns", dry_run=True)


def test_an_invalid_index_that_a_failed_build_left_is_dropped_and_rebuilt(
    filled: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("swap_token_columns", dry_run=True)
    (build,) = (
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("CREATE UNIQUE INDEX CONCURRENTLY")
    )
    # Fails as builds do: behind a transaction that it has to wait for.
    with filled.connect() as old, filled.connect(autocommit=True) as builder:
        old.execute("UPDATE tickets_ticket SET redeemed_at = now() WHERE id = 1")
        builder.execute("SET lock_timeout = '10ms'")
        with pytest.raises(errors.LockNotAvailable):
            builder.execute(build)
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    assert filled.value(invalid) == 1
    swap()
    assert filled.value(invalid) == 0
    with pytest.raises(errors.UniqueViolation):
        filled.run("UPDATE tickets_ticket SET token = '00000000-0000-0000-0000-000000000001'")


def test_behind_a_blocker_it_gives_up_and_names_it_and_can_be_run_again(filled: Database) -> None:
    with filled.connect(application_name="a forgotten console") as idle:
        idle.execute("SELECT FROM tickets_ticket LIMIT 0")
        code, message = refusal("swap_token_columns", "--attempts", "2", "--lock-timeout", "20")
        for part in (f"pid {idle.info.backend_pid}", "a forgotten console", "idle in transaction"):
            assert part in message
    assert code == 75
    assert changed(filled, "token") == 0
    assert swap()["phase"] == "swapped"


def test_it_gets_its_lock_as_soon_as_the_blocker_is_gone(filled: Database) -> None:
    with filled.connect() as idle:
        idle.execute("SELECT FROM tickets_ticket LIMIT 0")
        process = filled.start("swap_token_columns", "--json")
        wait_until(
            lambda: filled.value(
                "SELECT count(*) FROM pg_locks WHERE relation = 'tickets_ticket'::regclass "
                "AND mode = 'ShareUpdateExclusiveLock' AND granted"
            ),
            "the swap stands in front of its lock",
        )
    output, _ = process.communicate()
    assert process.returncode == 0
    assert json.loads(output)["phase"] == "swapped"
    assert changed(filled, "new_token", now="token") == 0


def test_two_at_once_exchange_once(filled: Database) -> None:
    both = [filled.start("swap_token_columns"), filled.start("swap_token_columns")]
    said = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes[0] == 0
    assert codes[1] in (1, 75)
    assert [text for text in said if "Traceback" in text] == []
    assert changed(filled, "new_token", now="token") == 0
    call_command("swap_token_columns", revert=True)
    assert changed(filled, "token") == 0


def test_of_two_that_are_prepared_one_exchanges_and_the_other_says_so(filled: Database) -> None:
    filled.run("CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS "
               "'BEGIN PERFORM pg_sleep(0.01); END'")  # fmt: skip
    filled.run("CREATE EVENT TRIGGER slow ON ddl_command_start EXECUTE FUNCTION slow()")
    refusal("swap_token_columns", "--max-hold-ms", "5")
    filled.run("DROP EVENT TRIGGER slow")
    with filled.connect() as holder:
        holder.execute("SELECT FROM tickets_ticket LIMIT 0")
        both = [filled.start("swap_token_columns"), filled.start("swap_token_columns")]
        wait_until(
            lambda: (
                filled.fetch(
                    "SELECT granted FROM pg_locks WHERE relation = 'tickets_ticket'::regclass "
                    "AND mode = 'ShareUpdateExclusiveLock' ORDER BY granted"
                )
                == [(False,), (True,)]
            ),
            "one stands behind the other",
        )
    said = [process.communicate()[1] for process in both]
    assert [text for text in said if "Traceback" in text] == []
    assert sorted(process.returncode for process in both)[0] == 0
    assert sorted(process.returncode for process in both)[1] == 75
    assert changed(filled, "new_token", now="token") == 0


def test_held_longer_than_allowed_it_rolls_back(filled: Database) -> None:
    filled.run("CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS "
               "'BEGIN PERFORM pg_sleep(0.01); END'")  # fmt: skip
    filled.run("CREATE EVENT TRIGGER slow ON ddl_command_start EXECUTE FUNCTION slow()")
    code, message = refusal("swap_token_columns", "--max-hold-ms", "5")
    assert code == 75
    assert "--max-hold-ms 5" in message
    assert "nothing was changed" in message
    assert changed(filled, "token") == 0
    call_command("swap_token_columns")
    assert changed(filled, "new_token", now="token") == 0


class FailingStatements:
    """Makes the n-th DDL statement from now on fail on the server, and counts."""

    def __init__(self, database: Database) -> None:
        self.database = database
        database.run("CREATE SCHEMA fault")
        database.run("CREATE SEQUENCE fault.statements")
        database.run("CREATE TABLE fault.at (n bigint)")
        database.run("INSERT INTO fault.at VALUES (0)")
        database.run(
            "CREATE FUNCTION fault.inject() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN "
            # Not the statements on scratch tables, with which definitions are restated.
            "IF (tg_tag = 'CREATE INDEX' OR EXISTS (SELECT FROM pg_locks "
            "WHERE pid = pg_backend_pid() AND relation = 'public.tickets_ticket'::regclass "
            "AND mode IN ('AccessExclusiveLock', 'ShareUpdateExclusiveLock'))) "
            "AND nextval('fault.statements') = (SELECT n FROM fault.at) "
            "THEN RAISE 'no statement today'; END IF; END$$"
        )
        database.run("CREATE EVENT TRIGGER f ON ddl_command_start EXECUTE FUNCTION fault.inject()")

    def at(self, n: int) -> None:
        with self.database.connect() as session:
            session.execute("UPDATE fault.at SET n = %s", [n])
            session.execute("SELECT setval('fault.statements', 1, false)")


@pytest.mark.parametrize("revert", [False, True], ids=["swap", "revert"])
def test_failing_at_any_statement_it_leaves_the_schema_as_it_was(
    filled: Database, *, revert: bool
) -> None:
    if revert:
        call_command("swap_token_columns")
    remember(filled, "token", "new_token")
    failing = FailingStatements(filled)
    before = filled.dump()
    n, failures, prepared = 1, 0, 0
    while True:
        failing.at(n)
        try:
            call_command("swap_token_columns", revert=revert)
        except CommandError as error:
            assert "fault.inject()" in str(error)  # noqa: PT017 - the other way out is the end
            if "was committed, but could not be verified" in str(error):
                break
        else:
            break
        assert changed(filled, "token") == 0
        assert changed(filled, "new_token") == 0
        after = filled.dump()
        if after == before:
            n += 1
            failures += 1
        else:
            # A step of the preparation was done and stays: fewer statements follow, so begin anew.
            assert phase_of(filled) == ("swapped" if revert else "filled")
            before, n, prepared = after, 1, prepared + 1
            assert prepared < 10
    # Every statement of the exchange has failed once.
    assert failures > 10
    assert phase_of(filled) == ("filled" if revert else "swapped")


def phase_of(database: Database) -> str:
    numbers = dict(
        database.fetch(
            "SELECT attname, attnum FROM pg_attribute "
            "WHERE attrelid = 'tickets_ticket'::regclass AND attname LIKE '%token'"
        )
    )
    return "swapped" if numbers["token"] > numbers["new_token"] else "filled"


def test_a_session_that_is_ended_in_the_exchange_leaves_everything_as_it_was(
    filled: Database,
) -> None:
    # Stopped in the middle of the exchange, with its lock held and columns renamed.
    filled.run("CREATE TABLE gate ()")
    filled.run(
        "CREATE FUNCTION stop_there() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN "
        "IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'public.tickets_ticket'::regclass "
        "AND attname LIKE '%between%') THEN LOCK TABLE public.gate IN ACCESS SHARE MODE; "
        "END IF; END$$"
    )
    filled.run("CREATE EVENT TRIGGER stop ON ddl_command_start EXECUTE FUNCTION stop_there()")
    with filled.connect() as gate:
        gate.execute("LOCK TABLE gate IN ACCESS EXCLUSIVE MODE")
        # The gate stays shut for less than the exchange's own bound.
        process = filled.start("swap_token_columns", "--lock-timeout", "60000")
        pid = 0

        def stands_there() -> bool:
            nonlocal pid
            found = filled.fetch("SELECT pid FROM pg_locks WHERE NOT granted AND relation = "
                                 "'gate'::regclass")  # fmt: skip
            pid = found[0][0] if found else 0
            return bool(found)

        wait_until(stands_there, "the exchange is half done")
        wait_until_blocked(filled, pid, by=gate.info.backend_pid)
        filled.run("SELECT pg_terminate_backend(%s)", pid)
        _, message = process.communicate()
    assert process.returncode == 75
    assert "was not committed" in message
    assert changed(filled, "token") == 0
    assert swap()["phase"] == "swapped"


def test_a_row_that_was_not_rotated_stops_the_swap(filled: Database) -> None:
    with filled.connect() as session:
        session.execute("ALTER TABLE tickets_ticket DISABLE TRIGGER USER")
        session.execute("UPDATE tickets_ticket SET new_token = token WHERE id = 3")
        session.execute("ALTER TABLE tickets_ticket ENABLE TRIGGER USER")
    code, message = refusal("swap_token_columns")
    assert code == 1
    assert "1 rows" in message
    assert phase_of(filled) == "filled"
    call_command("swap_token_columns", redraw=True)
    assert filled.value("SELECT count(*) FROM tickets_ticket WHERE new_token = token") == 0


def test_it_locks_nobody_out_while_it_builds(filled: Database) -> None:
    """A writer that has begun before holds the build up, and others go on beside both."""
    with filled.connect() as writer:
        writer.execute("UPDATE tickets_ticket SET redeemed_at = now() WHERE id = 1")
        process = filled.start("swap_token_columns", "--json")
        wait_until(
            lambda: filled.value(
                "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"
            ),
            "the build waits for the writer",
        )
        with filled.connect(autocommit=True, options="-c lock_timeout=1s") as other:
            other.execute("INSERT INTO tickets_ticket (token) VALUES (gen_random_uuid())")
            other.execute("UPDATE tickets_ticket SET redeemed_at = now() WHERE id = 2")
            other.execute("SELECT count(*) FROM tickets_ticket")
    output, message = process.communicate()
    assert process.returncode == 0, message
    assert json.loads(output)["rows"] == 6
