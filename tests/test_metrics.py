"""The status as metrics, read back by Prometheus's own parser."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import RequestFactory
from prometheus_client.parser import text_string_to_metric_families

from migrations_playbook import status
from migrations_playbook.backfill import nulls
from migrations_playbook.backfill.roster import Worker
from migrations_playbook.metrics import CONTENT_TYPE, METRICS, spell_metrics
from migrations_playbook.phase import Phase
from tests.fixtures.database import PROJECT, Database
from tests.fixtures.tickets import PHASES, add_old_tickets, bring_to
from tickets.models import Ticket

Found = dict[str, list[tuple[dict[str, str], float]]]
TICKET = {"replacement": "tickets.Ticket.new_token", "database": "default"}


def parse(text: str) -> Found:
    """Parse metrics; labels besides those of every sample, and numbers, by name."""
    found: Found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            labels = dict(sample.labels)
            assert {name: labels.pop(name) for name in TICKET} == TICKET
            found.setdefault(sample.name, []).append((labels, sample.value))
    return found


def scrape(capsys: pytest.CaptureFixture[str]) -> Found:
    capsys.readouterr()
    call_command("playbook_status", "--prometheus")
    return parse(capsys.readouterr().out)


def phase_of(found: Found) -> list[str]:
    return [labels["phase"] for labels, number in found["playbook_phase"] if number == 1]


def test_a_rotation_is_followed_by_its_metrics(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    add_old_tickets(database, 3)
    call_command("backfill_new_token", "--pause")
    before = scrape(capsys)
    assert phase_of(before) == ["expanded"]
    assert before["playbook_rows_remaining"] == [({}, 3)]
    assert before["playbook_paused"] == [({}, 1)]
    assert all(number > 0 for _, number in before["playbook_table_bytes"])
    assert "playbook_stale_writes_total" not in before
    assert "playbook_workers" not in before
    call_command("backfill_new_token", "--resume")
    bring_to("filled")
    stale = Ticket.objects.all()[0]
    bring_to("swapped")
    stale.save()
    after = scrape(capsys)
    assert phase_of(after) == ["swapped"]
    assert after["playbook_rows_remaining"] == [({}, 0)]
    assert after["playbook_stale_writes_total"] == [({}, 1)]
    ((_, last),) = after["playbook_last_stale_write_timestamp_seconds"]
    assert last == pytest.approx(database.value("SELECT extract(epoch FROM now())::int"), abs=60)
    assert after["playbook_quarantine_problems"] == [({}, 0)]


def test_a_table_too_large_to_count_is_sampled_and_that_is_said(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_old_tickets(database, 60_000)
    assert scrape(capsys)["playbook_rows_remaining_exact"] == [({}, 1)]
    monkeypatch.setattr(nulls, "COUNT_AGAIN_MS", 1)
    found = scrape(capsys)
    assert found["playbook_rows_remaining_exact"] == [({}, 0)]
    ((_, rows),) = found["playbook_rows_remaining"]
    assert rows == pytest.approx(60_000, rel=0.2)


def test_workers_are_counted_by_host_and_doing_and_texts_are_escaped(database: Database) -> None:
    (found,) = status.read("default")
    found = status.ShadowStatus(
        **vars(found)
        | {
            "at_work": (
                Worker("10.0.0.7", 1, "fills"),
                Worker("10.0.0.7", 2, "fills"),
                Worker(None, 3, "waits", 'a "query"\\of\nmine'),
                Worker(None, 4, "feels 1.4/5, 6 ms"),
            )
        }
    )
    assert parse(spell_metrics([found], "default"))["playbook_workers"] == [
        ({"host": "10.0.0.7", "what": "fills", "why": ""}, 2),
        ({"host": "", "what": "waits", "why": 'a "query"\\of\nmine'}, 1),
        ({"host": "", "what": "feels", "why": ""}, 1),
    ]


def test_every_phase_has_a_sample_and_each_metric_a_help_and_a_type(database: Database) -> None:
    text = spell_metrics(status.read("default"), "default")
    assert {labels["phase"] for labels, _ in parse(text)["playbook_phase"]} == set(Phase)
    assert set(Phase) <= set(PHASES)
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert names == [f"playbook_{each.name}" for each in METRICS]


def test_the_view_of_the_page_serves_them(database: Database) -> None:
    page = (PROJECT / "docs" / "howto-metrics.md").read_text()
    sample = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(sample, "howto-metrics.md", "exec"), names)  # noqa: S102 - our own page
    served = names["metrics"](RequestFactory().get("/metrics"))
    assert phase_of(parse(served.content.decode())) == ["filled"]
    assert served["Content-Type"] == CONTENT_TYPE


def test_one_form_at_a_time(database: Database) -> None:
    with pytest.raises(CommandError, match="exclude each other") as caught:
        call_command("playbook_status", "--prometheus", "--json")
    assert caught.value.returncode == 2
