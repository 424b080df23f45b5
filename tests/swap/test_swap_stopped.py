"""A swap that is stopped by a signal exchanges nothing, says so, and can be run again."""

from __future__ import annotations

import signal

import pytest
from django.core.management import call_command

from tests.fixtures.database import Database, wait_until
from tests.fixtures.tickets import add_old_tickets, bring_to, changed, remember


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_while_it_waits_for_its_lock_stops_it_at_once(
    database: Database, number: signal.Signals, exit_code: int
) -> None:
    add_old_tickets(database, 5)
    bring_to("filled")
    remember(database, "token", "new_token")
    with database.connect() as idle:
        idle.execute("SELECT FROM tickets_ticket LIMIT 0")
        process = database.start("swap_token_columns", "--attempts", "1000")
        wait_until(
            lambda: database.value(
                "SELECT count(*) FROM pg_locks WHERE relation = 'tickets_ticket'::regclass "
                "AND mode = 'ShareUpdateExclusiveLock' AND granted"
            ),
            "the swap stands in front of its lock",
        )
        process.send_signal(number)
        shown, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (exit_code, "")
    assert shown.splitlines(keepends=True)[-1] == (
        "Stopped before the end; nothing was exchanged. "
        '"manage.py playbook_status" shows what comes next.\n'
    )
    assert changed(database, "token") == 0
    call_command("swap_token_columns")
    assert changed(database, "new_token", now="token") == 0
