"""Triggers of the site beside the backfill: named before they fire, left out, found at fault."""

from __future__ import annotations

import json

import pgtrigger
import pytest
from django.core.management import CommandError, call_command

from tests.fixtures.database import Database
from tests.fixtures.tickets import add_old_tickets, changed, nulls, refusal, remember
from tickets.models import Ticket

ROWS = 200
HISTORY = """
CREATE TABLE history (ticket bigint, new_token uuid);
CREATE FUNCTION keep_history() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO history VALUES (NEW.id, NEW.new_token); RETURN NEW; END $$;
"""
REPLACED = """
CREATE OR REPLACE FUNCTION keep_history() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    {asked} INSERT INTO history VALUES (NEW.id, NEW.new_token); RETURN NEW; END $$;
"""
# Behind a trigger's name: its definition, and what the plan says of it; None for nothing.
TRIGGERS: dict[str, tuple[str, str | None]] = {
    "for each row": ("AFTER UPDATE ON tickets_ticket FOR EACH ROW", "noted (after each row)"),
    "before each row": (
        "BEFORE INSERT OR UPDATE ON tickets_ticket FOR EACH ROW",
        "noted (before each row)",
    ),
    "for each statement": ("AFTER UPDATE ON tickets_ticket", "noted (after each batch)"),
    "of the shadow column": (
        "AFTER UPDATE OF new_token ON tickets_ticket FOR EACH ROW",
        "noted (after each row)",
    ),
    "of another column": ("AFTER UPDATE OF token ON tickets_ticket FOR EACH ROW", None),
    "on inserts": ("AFTER INSERT OR DELETE ON tickets_ticket FOR EACH ROW", None),
    "under a condition": (
        "AFTER UPDATE ON tickets_ticket FOR EACH ROW WHEN (NEW.id > 3)",
        "noted (after each row, where its WHEN holds)",
    ),
    "at the commit": (
        "AFTER UPDATE ON tickets_ticket DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
        "noted (at the commit, after each row)",
    ),
}


def create_trigger(database: Database, kind: str = "for each row") -> None:
    definition = TRIGGERS[kind][0]
    trigger = "CONSTRAINT TRIGGER" if "DEFERRED" in definition else "TRIGGER"
    database.run(f"CREATE {trigger} noted {definition} EXECUTE FUNCTION keep_history()")


def written(database: Database) -> int:
    """How many lines the history has."""
    return int(database.value("SELECT count(*) FROM history"))


@pytest.fixture
def with_history(database: Database) -> Database:
    """Old tickets, and a history for a trigger to write."""
    database.run(HISTORY)
    add_old_tickets(database, ROWS)
    return database


def plan(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    call_command("backfill_new_token", dry_run=True)
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", TRIGGERS)
def test_the_dry_run_and_the_backfill_name_what_will_fire(
    with_history: Database, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    said = TRIGGERS[kind][1]
    create_trigger(with_history, kind)
    planned = plan(capsys)
    call_command("backfill_new_token", json=True)
    notes = json.loads(capsys.readouterr().out)["notes"]
    if said is None:
        assert "Triggers of the table fire" not in planned + "".join(notes)
        assert written(with_history) == 0
    else:
        assert f"Triggers of the table fire on the update of each row: {said}." in planned
        assert any(said in note for note in notes)
        assert written(with_history) > 0


@pytest.mark.parametrize(
    ("setting", "fired"), [("DISABLE", 0), ("ENABLE ALWAYS", ROWS), ("ENABLE REPLICA", 0)]
)
def test_a_trigger_that_is_off_is_not_named(
    with_history: Database, capsys: pytest.CaptureFixture[str], setting: str, fired: int
) -> None:
    create_trigger(with_history)
    with_history.run(f"ALTER TABLE tickets_ticket {setting} TRIGGER noted")
    assert ("noted (after each row)" in plan(capsys)) is bool(fired)
    call_command("backfill_new_token", no_progress=True)
    assert written(with_history) == fired


def test_neither_our_triggers_nor_a_foreign_keys_are_named(
    with_history: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with_history.run("CREATE TABLE guests (ticket bigint REFERENCES tickets_ticket)")
    call_command("backfill_new_token", no_progress=True)
    call_command("swap_token_columns")
    call_command("swap_token_columns", revert=True)
    assert "Triggers of the table fire" not in plan(capsys)


def install_history() -> str:
    """Install a history trigger as django-pghistory's are; return its name in the database."""
    trigger = pgtrigger.Trigger(
        name="history",
        when=pgtrigger.After,
        operation=pgtrigger.Update,
        func="INSERT INTO history VALUES (NEW.id, NEW.new_token); RETURN NULL;",
    )
    trigger.install(Ticket)  # type: ignore[arg-type]
    return str(trigger.get_pgid(Ticket))  # type: ignore[arg-type]


def test_a_trigger_of_django_pgtriggers_is_left_out_of_the_backfill_alone(
    with_history: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    name = install_history()
    assert name in plan(capsys)
    call_command("backfill_new_token", "--no-progress", "--skip-trigger", name)
    assert nulls(with_history) == 0
    assert written(with_history) == 0
    Ticket.objects.filter(pk=Ticket.objects.earliest("pk").pk).update(redeemed_at=None)
    assert written(with_history) == 1


def test_any_other_trigger_is_refused_by_name_with_what_to_write_into_it(
    with_history: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    create_trigger(with_history)
    code, said = refusal("backfill_new_token", "--skip-trigger", "noted")
    assert code == 1
    assert "The trigger 'noted' on public.tickets_ticket is none of django-pgtrigger's" in said
    assert nulls(with_history) == ROWS
    asked = (
        "IF current_setting('migrations_playbook.backfill', true) = 'on' THEN RETURN NEW; END IF;"
    )
    assert asked in said
    with_history.run(REPLACED.format(asked=asked))
    assert "noted (after each row, asking migrations_playbook.backfill)" in plan(capsys)
    call_command("backfill_new_token", "--no-progress", "--skip-trigger", "noted")
    assert nulls(with_history) == 0
    assert written(with_history) == 0
    Ticket.objects.update(redeemed_at=None)
    assert written(with_history) == ROWS


def test_a_when_may_ask_too(with_history: Database) -> None:
    with_history.run(
        "CREATE TRIGGER noted AFTER UPDATE ON tickets_ticket FOR EACH ROW "
        "WHEN (current_setting('migrations_playbook.backfill', true) IS DISTINCT FROM 'on') "
        "EXECUTE FUNCTION keep_history()"
    )
    call_command("backfill_new_token", "--no-progress", "--skip-trigger", "noted")
    assert nulls(with_history) == 0
    assert written(with_history) == 0


@pytest.mark.parametrize("name", ["typo", "pgtrigger_keep_new_token_7d896"])
def test_what_is_no_trigger_of_the_site_is_refused(with_history: Database, name: str) -> None:
    create_trigger(with_history)
    code, said = refusal("backfill_new_token", "--skip-trigger", name)
    assert code == 1
    assert f"No trigger '{name}' of the site fires on the backfill" in said
    assert "Those that fire: noted." in said
    assert nulls(with_history) == ROWS


BEFORE = """
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;
CREATE TRIGGER {name} BEFORE UPDATE ON tickets_ticket FOR EACH ROW EXECUTE FUNCTION meddle();
"""
# A trigger's body, what the backfill says, and how many rows are left to fill.
MEDDLING: dict[str, tuple[str, str, int | None]] = {
    "returns null for some rows": (
        "IF NEW.id % 4 = 0 THEN RETURN NULL; END IF;",
        (
            "50 rows of public.tickets_ticket are left: a trigger that returns NULL keeps the "
            "update from them (zz (before each row))."
        ),
        50,
    ),
    "returns null for every row": (
        "RETURN NULL;",
        "200 rows of public.tickets_ticket are left: a trigger that returns NULL",
        200,
    ),
    "takes the value out again": (
        "NEW.new_token := OLD.new_token;",
        (
            'Rows of public.tickets_ticket have no "new_token" after the backfill has filled it: a '
            "trigger takes the value out again (zz (before each row))."
        ),
        200,
    ),
    "raises for a row": (
        "IF NEW.id = (SELECT max(id) FROM tickets_ticket) THEN RAISE 'not this one'; END IF;",
        (
            "Triggers of public.tickets_ticket fire in it, and one may have raised this: "
            "zz (before each row)."
        ),
        None,
    ),
}


@pytest.mark.parametrize("what", MEDDLING)
def test_a_trigger_that_keeps_rows_from_their_values_is_named(
    database: Database, what: str
) -> None:
    body, said, left = MEDDLING[what]
    add_old_tickets(database, ROWS)
    database.run(BEFORE.format(body=body, name="zz"))
    code, message = refusal("backfill_new_token", "--no-progress")
    assert code == 1
    assert said in message
    assert "--skip-trigger" in message
    assert left is None or nulls(database) == left
    database.run("DROP TRIGGER zz ON tickets_ticket")
    call_command("backfill_new_token", no_progress=True)
    assert nulls(database) == 0


def test_a_trigger_that_takes_the_value_out_before_ours_fires_harms_nothing(
    database: Database,
) -> None:
    add_old_tickets(database, ROWS)
    remember(database, "token")
    database.run(BEFORE.format(body="NEW.new_token := OLD.new_token;", name="a"))
    call_command("backfill_new_token", no_progress=True)
    assert nulls(database) == 0
    assert changed(database, "token") == 0


def test_many_rows_that_are_kept_back_do_not_keep_the_others_waiting(database: Database) -> None:
    """A batch ends where it has claimed its rows, filled or not."""
    add_old_tickets(database, 3_000)
    database.run(BEFORE.format(body="IF NEW.id <= 2500 THEN RETURN NULL; END IF;", name="zz"))
    with pytest.raises(CommandError, match=r"2,500 rows .* a trigger that returns NULL"):
        call_command("backfill_new_token", batch_size=100, workers=2, no_progress=True)
    assert nulls(database) == 2_500


@pytest.mark.parametrize("does", ["INSTEAD NOTHING", "ALSO INSERT INTO history VALUES (1, NULL)"])
def test_a_rule_that_came_after_the_expand_is_named(with_history: Database, does: str) -> None:
    with_history.run(f"CREATE RULE noted AS ON UPDATE TO tickets_ticket DO {does}")
    for arguments in (("--no-progress",), ("--dry-run",)):
        code, said = refusal("backfill_new_token", *arguments)
        assert code == 1
        assert "its updates are rewritten by a rule (noted): drop the rule" in said
    assert nulls(with_history) == ROWS
