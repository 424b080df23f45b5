"""The expand tries both ways as each role that writes.

A trigger hides their errors, and the site's rows would stay behind without a word.
"""

from __future__ import annotations

import pytest
from django.db.models import BigIntegerField, F, Func

from migrations_playbook import Shadow
from migrations_playbook.errors import Refused
from migrations_playbook.replacement import Replacement
from tests.fixtures.database import Database, role
from tests.fixtures.models_conversions import SIZES, Size
from tests.fixtures.models_zoo import expand, try_out

WIDENED = Shadow(
    live="size",
    shadow="size_big",
    up=Func(F("size"), function="public.widened", output_field=BigIntegerField()),
    down=F("size_big"),
)


def refusal() -> str:
    with pytest.raises(Refused) as caught:
        try_out(Replacement(Size, WIDENED))
    return str(caught.value)


def test_a_way_that_a_writing_role_may_not_go_is_refused(empty_database: Database) -> None:
    expand(Size, SIZES)
    assert "public.widened" in refusal()
    empty_database.run(
        "CREATE FUNCTION widened(integer) RETURNS bigint LANGUAGE sql AS 'SELECT $1::bigint'"
    )
    empty_database.run("REVOKE EXECUTE ON FUNCTION widened(integer) FROM PUBLIC")
    with role(empty_database, "clerk"):
        empty_database.run("GRANT INSERT, UPDATE ON zoo_size TO clerk")
        said = refusal()
        assert 'of the role "clerk"' in said
        assert empty_database.complaint("SELECT public.widened(1)", role="clerk") in said
    assert empty_database.value("SELECT count(*) FROM pg_class WHERE relname ~ 'trial'") == 0
