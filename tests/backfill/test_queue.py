"""The backfill as jobs of a queue: the documentation's sample, with a real worker."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fixtures.database import PROJECT, Database
from tests.fixtures.project import DECLARED, SETTINGS, Project

PAGE = (PROJECT / "docs" / "howto-queues.md").read_text()
WAITING = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'"
LEFT = "SELECT count(*) FROM shop_voucher WHERE new_code IS NULL"


def sample(queue: str) -> str:
    """Return the page's sample for a queue."""
    found = re.search(rf"## {queue}\n.*?```python\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def test_a_job_fills_for_its_time_and_asks_for_the_next_until_nothing_is_left(
    empty_database: Database, tmp_path: Path
) -> None:
    project = Project.make(tmp_path / "project")
    project.write(
        "settings.py", SETTINGS.replace('"shop"', '"procrastinate.contrib.django", "shop"')
    )
    project.manage(empty_database, "makemigrations", "shop")
    project.manage(empty_database, "migrate")
    empty_database.run(
        "INSERT INTO shop_voucher (code) SELECT 'code' || n FROM generate_series(1, 5000) AS n"
    )
    project.write_models(DECLARED)
    project.play(empty_database, "expand")

    # So little time that one job cannot do it; and without a rest to feel the site first.
    short = sample("procrastinate").replace("seconds=240", "seconds=0.01, limits=None")
    project.write("shop/tasks.py", short)
    project.manage(
        empty_database, "shell", "-c", "from shop.tasks import fill_new_code; fill_new_code.defer()"
    )
    project.manage(empty_database, "procrastinate", "worker", "--one-shot")

    assert empty_database.value(LEFT) == 0
    assert empty_database.value(WAITING) == 0
    jobs = empty_database.fetch("SELECT status::text, count(*) FROM procrastinate_jobs GROUP BY 1")
    assert [status for status, _ in jobs] == ["succeeded"]
    assert jobs[0][1] > 1
