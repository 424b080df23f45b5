"""What may be done from the page: pause, resume and retune, each with a permission of its own."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.db import connections, router
from django.test import Client

from migrations_playbook.backfill.pacing.control import Control, read_control
from migrations_playbook.postgres.sessions import postgresql
from migrations_playbook.postgres.tables import read_table
from migrations_playbook.replacement import find_replacement
from tests.fixtures.database import Database
from tests.fixtures.site import LIST, ONE, make_user, sign_in
from tests.fixtures.tickets import add_old_tickets, bring_to

ACTS = ("pause", "resume", "retune")
OTHER = ONE.replace("5Ftoken", "5Ftoken_40other")


def settings(using: str = "default") -> Control:
    """The settings for every worker everywhere, as a worker reads them."""
    replacement = find_replacement("tickets.Ticket", "new_token")
    table = read_table(postgresql(using), replacement.identifier)
    assert table is not None
    return read_control(postgresql(using), replacement, table)


def do(client: Client, act: str, address: str = ONE, **data: str) -> str:
    """Do something from the page; what the page says then."""
    answer = client.post(address.replace("change", act), data, follow=True)
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_pause_resume_and_retune_reach_every_worker_and_are_logged(database: Database) -> None:
    add_old_tickets(database, 3)
    client = sign_in(make_user("view", *ACTS))
    assert "Set for every worker on every host: paused." in do(client, "pause")
    assert settings() == Control(paused=True)
    do(client, "retune", target_ms="20", duty="50")
    assert settings() == Control(paused=True, target_ms=20, duty=0.5)
    do(client, "resume")
    page = do(client, "retune", **{"initial-duty": "50", "duty": ""})
    assert settings() == Control(target_ms=20)
    assert 'value="20.0"' in page
    assert [
        (entry.user.get_username(), entry.object_id, entry.change_message)
        for entry in LogEntry.objects.order_by("pk")
    ] == [
        ("ann", "tickets.Ticket.new_token", "pause: paused=True"),
        ("ann", "tickets.Ticket.new_token", "retune: target_ms=20.0, duty=0.5"),
        ("ann", "tickets.Ticket.new_token", "resume: paused=False"),
        ("ann", "tickets.Ticket.new_token", "retune: duty=None"),
    ]
    history = client.get(ONE.replace("change", "history")).content.decode()
    assert "pause: paused=True" in history


def test_what_somebody_else_has_set_meanwhile_is_kept(database: Database) -> None:
    add_old_tickets(database, 3)
    call_command("backfill_new_token", "--set", "duty=30%")
    # The form was loaded before that: it shows an empty duty, and only the batches are changed.
    do(sign_in(make_user("view", "retune")), "retune", **{"initial-duty": "", "target_ms": "8"})
    assert settings() == Control(target_ms=8, duty=0.3)


@pytest.mark.parametrize("act", ACTS)
def test_each_act_has_a_permission_of_its_own(database: Database, act: str) -> None:
    add_old_tickets(database, 3)
    client = sign_in(make_user("view", act))
    page = client.get(ONE).content.decode()
    for each in ACTS:
        answer = client.post(ONE.replace("change", each), {"target_ms": "9"})
        assert answer.status_code == (302 if each == act else 403)
        assert (ONE.replace("change", each) in page) is (each == act)
    assert LogEntry.objects.count() == 1
    assert (
        settings()
        == {"pause": Control(paused=True), "resume": Control(), "retune": Control(target_ms=9)}[act]
    )


def test_who_may_only_view_is_offered_nothing_and_who_may_not_sees_nothing(
    database: Database,
) -> None:
    add_old_tickets(database, 3)
    page = sign_in(make_user("view")).get(ONE).content.decode()
    assert 'value="Pause"' not in page
    assert "Every worker on every host" not in page
    blind = sign_in(make_user(*ACTS, name="bob"))
    assert blind.get(ONE).status_code == blind.get(LIST).status_code == 403
    assert blind.get(f"{ONE}?live").status_code == 403
    assert blind.post(ONE.replace("change", "pause")).status_code == 403
    assert settings() == Control()


def test_a_stranger_is_led_to_the_login(database: Database) -> None:
    stranger = Client(headers={"host": "localhost"})
    for answer in (stranger.get(ONE), stranger.post(ONE.replace("change", "pause"))):
        assert answer.status_code == 302
        assert "/admin/login/" in answer["Location"]
    assert settings() == Control()


def test_an_act_from_another_site_is_refused(database: Database) -> None:
    client = Client(headers={"host": "localhost"}, enforce_csrf_checks=True)
    client.force_login(make_user("view", *ACTS))
    assert client.post(ONE.replace("change", "pause")).status_code == 403
    assert settings() == Control()


@pytest.mark.parametrize("wrong", ["0", "-3", "fast", "nan", "inf"])
def test_a_wrong_pace_is_said_beside_its_field_and_changes_nothing(
    database: Database, wrong: str
) -> None:
    add_old_tickets(database, 3)
    page = do(sign_in(make_user("view", "retune")), "retune", target_ms=wrong)
    assert 'class="errorlist"' in page
    assert settings() == Control()
    assert LogEntry.objects.count() == 0


def test_a_share_above_the_whole_is_refused(database: Database) -> None:
    add_old_tickets(database, 3)
    page = do(sign_in(make_user("view", "retune")), "retune", duty="150")
    assert "less than or equal to 100" in page
    assert settings() == Control()


def test_a_refusal_is_a_sentence_on_the_page_and_no_entry_in_the_log(database: Database) -> None:
    add_old_tickets(database, 3)
    bring_to("swapped")
    page = do(sign_in(make_user("view", "pause")), "pause")
    assert "Ticket is swapped: " in page
    assert LogEntry.objects.count() == 0


def test_somebody_elses_comment_is_a_sentence_on_the_page(database: Database) -> None:
    add_old_tickets(database, 3)
    function = database.value(
        "SELECT tgfoid::regprocedure::text FROM pg_trigger WHERE tgname LIKE '%%fill_new_token%%'"
    )
    database.run(f"COMMENT ON FUNCTION {function} IS 'ask Ann'")
    page = do(sign_in(make_user("view", "pause")), "pause")
    assert page.count("has a comment that is not the backfill") >= 2
    assert LogEntry.objects.count() == 0


def test_each_database_is_looked_at_and_acted_on_for_itself(
    database: Database, other: Database
) -> None:
    add_old_tickets(database, 3)
    add_old_tickets(other, 5)
    client = sign_in(make_user("view", *ACTS))
    page = client.get(LIST).content.decode()
    assert ONE in page
    assert OTHER in page
    assert "manage.py backfill_new_token --database other" in client.get(OTHER).content.decode()
    do(client, "pause", OTHER)
    assert settings("other") == Control(paused=True)
    assert settings() == Control()
    assert LogEntry.objects.get().object_id == "tickets.Ticket.new_token@other"


def test_a_model_is_looked_for_only_where_the_routers_let_it_live(
    database: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TicketsAtHome:
        def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool | None:
            return db == "default" if app_label == "tickets" else None

    monkeypatch.setattr(router, "routers", [TicketsAtHome()])
    client = sign_in(make_user("view"))
    page = client.get(LIST).content.decode()
    assert ONE in page
    assert OTHER not in page
    assert client.get(OTHER).status_code == 404


def test_a_database_that_does_not_answer_is_a_sentence_beside_the_others(
    database: Database, other: Database
) -> None:
    add_old_tickets(database, 3)
    connections["other"].close()
    connections.settings["other"]["NAME"] = "nowhere"
    client = sign_in(make_user("view"))
    page = client.get(LIST).content.decode()
    assert "No backfill is at work" in page
    assert "nowhere" in page
    assert client.get(OTHER).status_code == 200
