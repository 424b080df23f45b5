# ruff: noqa: S608 - the tables are the tests' own
"""A group is exchanged as one: its columns, with everything bound to any or to several of them."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connection

from migrations_playbook.errors import ConnectionLost, LockNotAvailable, Refused, WrongPhase
from migrations_playbook.management.swap import SwapCommand
from migrations_playbook.phase import Phase, read_state
from migrations_playbook.replacement import Replacement
from migrations_playbook.status import read
from migrations_playbook.swap.play import swap, verify
from migrations_playbook.swap.reports import Together
from tests.fixtures.database import Database, role
from tests.fixtures.dumps import statements
from tests.fixtures.models_groups import ACCESS, BOTH, Access, Both, fill_access
from tests.fixtures.models_zoo import expand, fill, play
from tests.fixtures.tickets import past_the_triggers

FOLLOWER = Replacement(Access, ACCESS.members[1])
# Rows whose live columns have what was remembered of other columns, or of the same.
FRESH = "t.token = was.new_token AND t.token_checksum = was.new_token_checksum"
OLD = "t.token = was.token AND t.token_checksum = was.token_checksum"
APP = "groups_app"

BOUND = f"""

ALTER TABLE zoo_access ADD CONSTRAINT made
    CHECK (token_checksum = encode(sha256(convert_to(token, 'UTF8')), 'hex'));
ALTER TABLE zoo_access ADD CONSTRAINT both_differ UNIQUE (token, token_checksum);
ALTER TABLE zoo_access ADD CONSTRAINT told_apart CHECK (new_token <> token);
CREATE INDEX both_hashed ON zoo_access ((md5(token || token_checksum)), id)
    WHERE token <> token_checksum;
CREATE INDEX only_shadows ON zoo_access (new_token, new_token_checksum);
CREATE VIEW other.plain AS SELECT id, token, token_checksum AS checksum FROM zoo_access;
CREATE VIEW other.above AS SELECT checksum || '/' || token AS together FROM other.plain;
CREATE STATISTICS other.together (dependencies) ON token, token_checksum FROM zoo_access;
CREATE FUNCTION other.note() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN RETURN NEW; END$$;
CREATE TRIGGER noted AFTER UPDATE OF token, token_checksum ON zoo_access FOR EACH ROW
    WHEN (NEW.token <> OLD.token OR NEW.token_checksum <> OLD.token_checksum)
    EXECUTE FUNCTION other.note();
CREATE FUNCTION other.by_id(wanted bigint) RETURNS text LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT token || token_checksum FROM zoo_access WHERE id = wanted; END;
COMMENT ON COLUMN zoo_access.token_checksum IS 'looked up';
ALTER TABLE zoo_access ALTER COLUMN token_checksum SET DEFAULT 'none';
ALTER TABLE zoo_access ALTER COLUMN token SET STATISTICS 77;
GRANT SELECT (token), SELECT (token_checksum), SELECT (id) ON zoo_access TO {APP};
"""


@pytest.fixture
def filled(empty_database: Database) -> Replacement:
    return fill_access(empty_database)


def alike(database: Database, condition: str) -> int:
    """How many rows are to the remembered ones as a condition says."""
    query = f"SELECT count(*) FROM zoo_access t JOIN memory.was USING (id) WHERE {condition}"
    return int(database.value(query))


def command(replacement: Replacement, **options: Any) -> str:
    """The swap's command for a replacement, and what it says."""
    said = StringIO()
    defaults = dict.fromkeys(
        ("revert", "verify", "dry_run", "mend", "redraw", "refresh_materialized_views", "json"),
        False,
    )
    SwapCommand(stdout=said).act(
        replacement,
        **{
            "database": "default",
            "lock_timeout": 1000,
            "attempts": 3,
            "max_hold_ms": None,
            "evidence": None,
            **defaults,
            **options,
        },
    )
    return said.getvalue()


def test_the_columns_are_exchanged_and_reverted_together(
    empty_database: Database, filled: Replacement
) -> None:
    before = empty_database.dump()
    for asked in (filled, FOLLOWER):
        proof = play(asked)
        assert isinstance(proof, Together)
        assert list(proof.members) == ["token", "token_checksum"]
        assert proof.passed
        assert alike(empty_database, FRESH) == 3
        for each in filled.group:
            assert read_state(connection, each).phase is Phase.SWAPPED
        play(asked, revert=True)
        assert alike(empty_database, OLD) == 3
        assert empty_database.dump() == before


def test_a_row_that_lacks_a_member_refuses_the_swap(
    empty_database: Database, filled: Replacement
) -> None:
    past_the_triggers(
        empty_database, "UPDATE zoo_access SET new_token_checksum = NULL WHERE id = 1"
    )
    with pytest.raises(WrongPhase) as caught:
        play(filled)
    assert str(caught.value).startswith(
        'Column "new_token" or "new_token_checksum" of zoo.Access still has 1 null rows. Run '
    )


def test_what_is_bound_to_both_columns_is_carried_over_once_and_back(
    empty_database: Database, filled: Replacement
) -> None:
    with role(empty_database, APP):
        with connection.cursor() as cursor:
            cursor.execute(BOUND)
        before = empty_database.dump()
        assert play(filled).passed
        assert alike(empty_database, FRESH) == 3
        for query in (
            "SELECT token || checksum FROM other.plain",
            "SELECT substr(together, 66) || substr(together, 1, 64) FROM other.above",
            "SELECT other.by_id(id) FROM zoo_access",
        ):
            shown = {row[0] for row in empty_database.fetch(query)}
            fresh = empty_database.fetch("SELECT new_token || new_token_checksum FROM memory.was")
            assert shown == {row[0] for row in fresh}, query
        table = "CREATE TABLE public.zoo_access"
        gone = statements(before, besides=table) - statements(empty_database.dump(), besides=table)
        assert {each for each in gone if "only_shadows" not in each} == set()
        empty_database.run(f"SET ROLE {APP}; SELECT token, token_checksum FROM zoo_access")
        assert "made" in empty_database.complaint("UPDATE zoo_access SET token_checksum = 'x'")
        play(filled, revert=True)
        assert empty_database.dump() == before


def test_the_plan_and_the_report_name_all_members(
    empty_database: Database, filled: Replacement, tmp_path: Path
) -> None:
    plan = command(FOLLOWER, dry_run=True)
    together = "token <- new_token, token_checksum <- new_token_checksum"
    assert f"-- Exchanged together: {together}\n" in plan
    assert plan.count('RENAME COLUMN "token" TO') == 1
    assert plan.count('RENAME COLUMN "token_checksum" TO') == 1

    evidence = tmp_path / "evidence.json"
    said = command(FOLLOWER, evidence=evidence)
    assert "Exchanged token and token_checksum: the lock was held for" in said
    proof = said.splitlines()[-1]
    zeros = "0 nulls, 0 duplicates, 0 with another row's retired value, 0 with a remembered one"
    assert proof == (
        f"Verified 3 of 3 rows: of token {zeros}; of token_checksum {zeros}, "
        "0 not made of their token."
    )
    facts = json.loads(evidence.read_text())
    assert facts["members"]["token_checksum"]["astray"] == 0
    assert [each["column"] for each in facts["columns"]] == ["token", "token_checksum"]
    for each in facts["columns"]:
        assert each["live_values_before"]["sum"] != each["live_values_after"]["sum"]
    assert facts["columns"][0]["live_values_before"] == facts["live_values_before"]

    result = json.loads(command(filled, verify=True, json=True))
    assert result["passed"]
    assert set(result["members"]) == {"token", "token_checksum"}
    assert "Exchanged back token and token_checksum" in command(filled, revert=True)


@pytest.mark.parametrize("revert", [False, True], ids=["swap", "revert"])
def test_an_exchange_that_fails_in_its_midst_leaves_both_columns_as_they_were(
    empty_database: Database, filled: Replacement, *, revert: bool
) -> None:
    if revert:
        play(filled)
    with pytest.raises(LockNotAvailable, match="and was rolled back; nothing was changed"):
        list(swap(filled, using="default", revert=revert, max_hold_ms=0))
    # From the first renamed column to the last trigger.
    before = empty_database.dump()
    empty_database.run("CREATE SEQUENCE memory.statements")
    empty_database.run(
        "CREATE FUNCTION memory.fail() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN "
        "IF EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() "
        "AND relation = 'public.zoo_access'::regclass AND mode = 'AccessExclusiveLock') "
        "AND nextval('memory.statements') = current_setting('memory.at', true)::int "
        "THEN RAISE 'no statement today'; END IF; END$$"
    )
    empty_database.run("CREATE EVENT TRIGGER f ON ddl_command_start EXECUTE FUNCTION memory.fail()")
    failures = 0
    for number in range(1, 1000, 7):
        with connection.cursor() as cursor:
            cursor.execute(
                f"SET memory.at = {number}; SELECT setval('memory.statements', 1, false)"
            )
        try:
            play(filled, revert=revert)
        except DatabaseError as error:
            assert "no statement today" in str(error)  # noqa: PT017 - the last one succeeds
        else:
            break
        failures += 1
        assert alike(empty_database, FRESH if revert else OLD) == 3
        empty_database.run("DROP EVENT TRIGGER f")
        assert statements(empty_database.dump()) >= statements(before)
        empty_database.run(
            "CREATE EVENT TRIGGER f ON ddl_command_start EXECUTE FUNCTION memory.fail()"
        )
    assert failures > 3
    assert alike(empty_database, OLD if revert else FRESH) == 3


def test_a_session_that_is_ended_in_the_exchange_leaves_both_columns_as_they_were(
    empty_database: Database, filled: Replacement
) -> None:
    """Once the first member's columns are renamed, and the second one's are being renamed."""
    empty_database.run(
        "CREATE FUNCTION memory.kill() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN "
        "IF EXISTS (SELECT FROM pg_attribute "
        "WHERE attrelid = 'public.zoo_access'::regclass AND attname ~ 'token_checksum.*between') "
        "THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; END$$"
    )
    empty_database.run("CREATE EVENT TRIGGER k ON ddl_command_end EXECUTE FUNCTION memory.kill()")
    with pytest.raises(ConnectionLost, match="the swap was not committed"):
        play(filled)
    assert alike(empty_database, OLD) == 3
    assert alike(empty_database, "t.new_token = was.new_token") == 3
    empty_database.run("DROP EVENT TRIGGER k")
    assert play(filled).passed


def test_a_column_renamed_by_hand_is_told_and_refused(
    empty_database: Database, filled: Replacement
) -> None:
    play(filled)
    for old, new in (("token", "between"), ("new_token", "token"), ("between", "new_token")):
        empty_database.run(f"ALTER TABLE zoo_access RENAME {old} TO {new}")
    sentence = (
        "Of zoo.Access, token_checksum with new_token_checksum is exchanged, and token with "
        "new_token is not, though they are exchanged together: a column was renamed by hand. "
        "Rename it back by hand first."
    )
    for asked in (filled, FOLLOWER):
        (status,) = read("default", asked)
        assert status.next == sentence
        for act in (
            swap(asked, using="default"),
            swap(asked, using="default", revert=True),
            verify(asked, using="default"),
        ):
            with pytest.raises(Refused) as caught:
                list(act)
            assert str(caught.value) == sentence


def test_three_columns_are_named_as_a_person_would(empty_database: Database) -> None:
    replacement = expand(Both, BOTH.members[0])
    fill(replacement)
    empty_database.run(
        "ALTER TABLE zoo_both ADD CONSTRAINT apart CHECK (code <> token AND code <> token_copy)"
    )
    said = command(replacement, dry_run=True)
    assert "apart (on code, token and token_copy): carried over" in said
    assert "Exchanged code, token and token_copy: the lock was held" in command(replacement)
