"""The expand tries a group's triggers before it installs them: what each member would be given."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Left, NullIf

from migrations_playbook import HEX, Group, RandomText, Shadow
from migrations_playbook.errors import Refused
from migrations_playbook.expand.checks.tables import check_table
from migrations_playbook.replacement import Replacement
from tests.fixtures.database import Database, role
from tests.fixtures.models_groups import PASS, Pass
from tests.fixtures.models_zoo import expand, try_out

DRAWN = RandomText(20, HEX, prefix="sk_")


def try_group(value: Any = None) -> None:
    """Try a secret, its capitals, and a mark that is made so."""
    group = PASS
    if value is not None:
        mark = Shadow("mark", "new_mark", value)
        group = Group(Shadow("secret", "new_secret", DRAWN), PASS.members[1], mark)
    try_out(Replacement(Pass, group.members[0]))


@pytest.fixture(autouse=True)
def passes(empty_database: Database) -> Replacement:
    return expand(Pass, PASS.members[0])


def test_a_sound_group_passes_and_leaves_nothing_behind(empty_database: Database) -> None:
    with role(empty_database, "clerk"):
        empty_database.run("GRANT INSERT, UPDATE ON zoo_pass TO clerk")
        try_group()
    assert empty_database.value("SELECT count(*) FROM pg_class WHERE relname ~ 'trial'") == 0


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Left("new_secret", 1), "was the same for 101 rows"),
        (NullIf(Left("new_secret", 1), Left("new_secret", 1)), "is null"),
        (F("new_secret"), "string data right truncation"),
    ],
    ids=["same", "null", "long"],
)
def test_what_would_be_no_value_of_each_row_is_refused(value: Any, says: str) -> None:
    with pytest.raises(Refused, match=says):
        try_group(value)


def test_the_checks_of_the_table_look_at_what_each_member_is_given() -> None:
    assert [check_table(connection, each) for each in Replacement(Pass, PASS.members[0]).group] == [
        [],
        [],
        [],
    ]
    constant = Shadow("mark", "new_mark", Left("new_secret", 1))
    group = Group(Shadow("secret", "new_secret", DRAWN), constant)
    (error,) = check_table(connection, Replacement(Pass, group.members[1]))
    assert (error.id, "made the same value" in error.msg) == ("playbook.E016", True)


def test_a_check_that_the_live_values_pass_is_one_for_what_follows_too(
    empty_database: Database,
) -> None:
    empty_database.run(
        "ALTER TABLE zoo_pass ADD CONSTRAINT a_digit CHECK (mark ~ '[0-9]') NOT VALID"
    )
    with pytest.raises(Refused, match=r"zoo\.Pass\.new_mark do not pass the CHECK a_digit"):
        try_group()
