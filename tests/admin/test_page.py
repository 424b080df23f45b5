"""The page: what it shows, and that looking at it changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import Client

from migrations_playbook.admin import sight
from migrations_playbook.admin.places import find_place
from tests.fixtures.database import Database, wait_until
from tests.fixtures.listener import tokens_in
from tests.fixtures.site import LIST, ONE, make_user, sign_in
from tests.fixtures.tickets import PHASES, Phase, add_old_tickets, bring_to
from tickets.models import Ticket

SAYS: dict[Phase, tuple[str, str]] = {
    "none": ("There is no shadow column here.", "manage.py migrate"),
    "expanded": ("No backfill is at work: less than 10 % done.", "manage.py backfill_new_token"),
    "filled": ("Every row is filled: the swap comes next.", "manage.py swap_token_columns"),
    "swapped": ("Swapped: the live column has its new values.", "playbook forget"),
    "reverted": ("Every row is filled: the swap comes next.", "manage.py swap_token_columns"),
}


def read_page(address: str = ONE) -> str:
    """What a page says to a user who may view it, and nothing else."""
    answer = sign_in(make_user("view")).get(address)
    assert answer.status_code == 200
    return answer.content.decode()


def read_anew(client: Client) -> str:
    """What the page's part that follows a run says, seen now: nobody waits for the next look."""
    place = find_place("tickets.Ticket.new_token")
    assert place is not None
    sight.watch_place(place).forget()
    return client.get(f"{ONE}?live").content.decode()


@pytest.mark.parametrize("phase", PHASES)
def test_it_says_where_a_replacement_stands_and_what_comes_next(
    database: Database, phase: Phase
) -> None:
    add_old_tickets(database, 3)
    bring_to(phase)
    page = read_page()
    sentence, command = SAYS[phase]
    assert sentence in page
    assert command in page
    nothing_left = phase in ("filled", "swapped", "reverted")
    assert ("Time left</dt><dd>none<" in page) is nothing_left
    plays = re.findall(r"<strong>(\w+)</strong> <span>([\w ]+)</span>", page)
    coming = {"none": 0, "expanded": 1, "swapped": 3}.get(phase, 2)
    assert plays == [
        (play, "done" if place < coming else "next" if place == coming else "to come")
        for place, play in enumerate(("expand", "backfill", "swap", "contract"))
    ]


def test_it_lists_what_the_swap_would_find_and_what_it_would_refuse(database: Database) -> None:
    add_old_tickets(database, 3)
    database.run("CREATE MATERIALIZED VIEW seen AS SELECT token FROM tickets_ticket")
    bring_to("filled")
    page = read_page()
    assert "What the swap would find" in page
    assert "unique constraint tickets_ticket_token_key" in page
    assert "materialized view public.seen" in page
    assert "refused: " in page
    assert "First see to the materialized view" in page
    assert "data-copy" not in page, "a sentence is no command"


def test_a_command_is_copied_without_what_is_said_of_it(database: Database) -> None:
    bring_to("swapped")
    page = read_page()
    assert ">manage.py playbook forget tickets.Ticket.new_token</code>" in page
    assert "<p>In the next release; the contract in the one after.</p>" in page


def test_it_shows_no_value_of_a_row_in_any_phase(database: Database) -> None:
    add_old_tickets(database, 30)
    client = sign_in(make_user("view", "pause", "resume", "retune"))
    pages = []
    for phase in ("expanded", "filled", "swapped"):
        bring_to(phase)
        sight.forget_watches()
        pages += [client.get(address).content.decode() for address in (LIST, ONE, f"{ONE}?live")]
    values = {str(each) for each in Ticket.objects.values_list("token", "new_token").first() or ()}
    assert not any(value in page for page in pages for value in values)
    assert tokens_in(*pages) == set()


def test_the_list_leads_to_each_replacement(database: Database) -> None:
    add_old_tickets(database, 3)
    page = read_page(LIST)
    assert f'href="{ONE}"' in page
    assert "No backfill is at work" in page


def test_what_follows_a_run_is_a_part_of_the_page_and_nothing_else(database: Database) -> None:
    add_old_tickets(database, 3)
    page, part = (
        sign_in(make_user("view", name=name)).get(address).content.decode()
        for name, address in (("ann", ONE), ("bob", f"{ONE}?live"))
    )
    ids = re.findall(r'data-live id="(\w+)"', part)
    assert ids == ["summary", "plays", "progress", "workers"]
    assert ids == re.findall(r'data-live id="(\w+)"', page)
    assert "<html" not in part
    assert "csrf" not in part


def test_a_run_is_seen_with_its_host_its_rate_and_its_rest(database: Database) -> None:
    add_old_tickets(database, 20_000)
    database.start("backfill_new_token", "--batch-size", "10", "--duty", "20%")
    client = sign_in(make_user("view"))
    wait_until(lambda: "without an address" in read_anew(client), "the workers are seen")
    known = "Time left</dt><dd>(about|less)"
    wait_until(lambda: re.search(known, read_anew(client)), "the rest is seen")
    page = read_anew(client)
    assert " rows a second" in page
    assert "at work</span>" in page
    assert re.search(r"Rows left</dt><dd>(about )?(1\d|20),\d{3} ", page)


def test_the_end_of_a_run_is_seen_at_once_however_old_the_sample_may_be(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sight, "SAMPLE_EVERY", 600)
    add_old_tickets(database, 300)
    call_command("backfill_new_token", "--pause")
    database.start("backfill_new_token")
    client = sign_in(make_user("view"))
    wait_until(lambda: "waits: pause" in read_anew(client), "the worker is seen")
    call_command("backfill_new_token", "--resume")
    wait_until(lambda: "Every row is filled" in read_anew(client), "the end is seen")


def test_why_the_workers_wait_is_said_in_their_own_words(database: Database) -> None:
    add_old_tickets(database, 100)
    call_command("backfill_new_token", "--pause")
    database.start("backfill_new_token")
    client = sign_in(make_user("view"))
    wait_until(lambda: "waits: pause" in read_anew(client), "the wait is seen")
    assert "Paused: less than 10 % done." in client.get(f"{ONE}?live").content.decode()


def test_a_table_too_large_to_be_looked_at_is_sampled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_old_tickets(database, 60_000)
    monkeypatch.setattr(sight, "SAMPLE_PAGES", 20)
    page = read_page()
    found = re.search(r"Rows left</dt><dd>about ([\d,]+) of ([\d,]+) <small>\(sampled 0 s", page)
    assert found
    assert 20_000 < int(found[1].replace(",", "")) < 120_000
    call_command("backfill_new_token", no_progress=True)
    sight.forget_watches()
    assert "Every row is filled" in sign_in(make_user("view", name="bob")).get(ONE).content.decode()
    # A table that cannot be looked at in time is not called filled.
    monkeypatch.setattr(sight, "COUNT_MS", 1)
    sight.forget_watches()
    page = sign_in(make_user("view", name="cleo")).get(ONE).content.decode()
    assert "none in a sample of the table" in page
    assert "Every row is filled" not in page


def test_however_many_look_a_process_asks_the_server_once(database: Database) -> None:
    add_old_tickets(database, 3)
    client = sign_in(make_user("view"))
    client.get(ONE)
    place = find_place("tickets.Ticket.new_token")
    assert place is not None
    before = sight.watch_place(place).look()
    for _ in range(3):
        client.get(f"{ONE}?live")
    assert sight.watch_place(place).look() is before


def test_looking_changes_nothing(database: Database) -> None:
    add_old_tickets(database, 3)
    client = sign_in(make_user("view", "pause", "resume", "retune"))
    before = database.dump()
    for address in (LIST, ONE, f"{ONE}?live"):
        assert client.get(address).status_code == 200
        assert client.post(address).status_code == 405
    for act in ("pause", "resume", "retune"):
        assert client.get(ONE.replace("change", act)).status_code == 405
    assert database.dump() == before
    assert database.value("SELECT count(*) FROM django_admin_log") == 0


def test_the_verdict_of_the_last_rehearsal_is_shown_with_its_reasons(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = sign_in(make_user("view"))
    assert "There is no report of one" in client.get(ONE).content.decode()
    monkeypatch.setattr(settings, "PLAYBOOK_REPORT", tmp_path, raising=False)
    verdict = {
        "replacement": "tickets.Ticket.new_token",
        "rows": 3000,
        "passed": False,
        "reasons": ["The longest of 2 slow requests took 900 ms."],
    }
    (tmp_path / "report.json").write_text(json.dumps(verdict))
    page = client.get(ONE).content.decode()
    assert "<strong>Failed</strong> with 3000 rows" in page
    assert "The longest of 2 slow requests" in page
    for wrong in (json.dumps(verdict | {"replacement": "shop.Voucher.new_code"}), "[]", "{"):
        (tmp_path / "report.json").write_text(wrong)
        assert "There is no report of one" in client.get(ONE).content.decode()


def test_what_is_not_there_is_not_found(database: Database) -> None:
    client = sign_in(make_user("view"))
    assert client.get(LIST + "tickets.Ticket.token/change/").status_code == 404
    assert client.post(LIST + "tickets.Ticket.token/pause/").status_code == 404


def test_a_table_without_its_trigger_is_said_in_a_sentence(database: Database) -> None:
    add_old_tickets(database, 3)
    database.run("ALTER TABLE tickets_ticket DISABLE TRIGGER USER")
    page = read_page()
    assert "is disabled, so new rows stay without a value" in page
