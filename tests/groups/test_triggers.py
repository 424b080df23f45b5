# ruff: noqa: S608 - the table is the tests' own
"""No write of either release gives a follower another value than its own leader's."""

from __future__ import annotations

import pytest

from migrations_playbook.replacement import Replacement
from tests.fixtures.database import Database
from tests.fixtures.models_groups import ACCESS, BOTH, PASS, Access, Both, Pass
from tests.fixtures.models_zoo import expand, fill
from tests.fixtures.tickets import past_the_triggers

# The shadows of a row that are not each other's, or that are the live values.
ASTRAY = """
    SELECT count(*) FROM zoo_access
     WHERE new_token IS NULL OR new_token = token OR new_token_checksum = token_checksum
        OR new_token_checksum IS DISTINCT FROM
           encode(sha256(convert_to(new_token, 'UTF8')), 'hex')"""


@pytest.fixture
def access(empty_database: Database) -> Replacement:
    return expand(Access, ACCESS.members[0])


@pytest.fixture
def passes(empty_database: Database) -> Replacement:
    return expand(Pass, PASS.members[0])


def test_a_group_is_one_replacement_of_several_columns(access: Replacement) -> None:
    follower = Replacement(Access, ACCESS.members[1])
    assert access.group == follower.group == (access, follower)
    assert follower.lead == access
    assert access.trigger_names == follower.trigger_names
    assert len(access.trigger_names) == 2


def create(database: Database) -> None:
    Access._default_manager.create()


def bulk_create(database: Database) -> None:
    Access._default_manager.bulk_create([Access(pk=pk, token_checksum=str(pk)) for pk in (98, 99)])


def insert(database: Database) -> None:
    database.run("INSERT INTO zoo_access (token, token_checksum, note) VALUES ('a', 'b', '')")


def insert_chosen(database: Database) -> None:
    database.run(
        "INSERT INTO zoo_access (token, token_checksum, new_token, new_token_checksum, note)"
        " VALUES ('a', 'b', 'chosen', 'chosen', '')"
    )


def upsert(database: Database) -> None:
    database.run(
        "INSERT INTO zoo_access (id, token, token_checksum, note)"
        " SELECT id, 'a', 'b', '' FROM zoo_access WHERE id = (SELECT min(id) FROM zoo_access)"
        " ON CONFLICT (id) DO UPDATE SET note = 'upserted'"
    )


def copy(database: Database) -> None:
    with (
        database.connect(autocommit=True) as session,
        session.cursor() as cursor,
        cursor.copy("COPY zoo_access (token, token_checksum, note) FROM STDIN") as stream,
    ):
        stream.write_row(["a", "b", ""])
        stream.write_row(["c", "d", ""])


def save(database: Database) -> None:
    """Of an object that was loaded before the row was filled."""
    loaded = Access._default_manager.earliest("id")
    database.run("UPDATE zoo_access SET note = 'filled'")
    loaded.new_token = loaded.new_token_checksum = None
    loaded.save()


def update(database: Database) -> None:
    database.run("UPDATE zoo_access SET note = 'read'")


def update_chosen(database: Database) -> None:
    database.run("UPDATE zoo_access SET new_token = 'chosen'")


def update_chosen_follower(database: Database) -> None:
    database.run("UPDATE zoo_access SET new_token_checksum = 'chosen'")


def update_chosen_both(database: Database) -> None:
    database.run(
        "UPDATE zoo_access SET new_token = id || 'chosen', new_token_checksum = id || 'chosen'"
    )


def empty_both(database: Database) -> None:
    database.run("UPDATE zoo_access SET new_token = NULL, new_token_checksum = NULL")


WRITES = [
    create,
    bulk_create,
    insert,
    insert_chosen,
    upsert,
    copy,
    save,
    update,
    update_chosen,
    update_chosen_follower,
    update_chosen_both,
    empty_both,
]


CHANGED = """
    SELECT count(*) FROM was JOIN zoo_access USING (id)
     WHERE was.new_token <> zoo_access.new_token"""


@pytest.mark.parametrize("filled", [False, True], ids=["expanded", "filled"])
def test_whatever_is_written_each_checksum_is_its_own_tokens(
    empty_database: Database,
    access: Replacement,
    *,
    filled: bool,
) -> None:
    """Each write meets three rows of before the expand, or that are filled."""
    empty_database.run("CREATE TABLE was AS SELECT * FROM zoo_access")
    with empty_database.connect(autocommit=True) as restored:
        restored.execute("SET session_replication_role = replica")
        for write in WRITES:
            restored.execute("TRUNCATE zoo_access")
            restored.execute(
                "INSERT INTO zoo_access (token, token_checksum, note)"
                " SELECT 't' || n, 'c' || n, '' FROM generate_series(1, 3) AS n"
            )
            if filled:
                fill(access)
            restored.execute("TRUNCATE was")
            restored.execute("INSERT INTO was SELECT * FROM zoo_access")
            write(empty_database)
            touched = "SELECT count(*) FROM zoo_access WHERE new_token IS NOT NULL"
            assert empty_database.value(touched) > 0, write.__name__
            assert empty_database.value(CHANGED) == 0, write.__name__
            fill(access)
            assert empty_database.value(ASTRAY) == 0, write.__name__


def test_a_row_without_a_secret_has_no_shadows_and_gets_them_with_its_secret(
    empty_database: Database, passes: Replacement
) -> None:
    write, shadows = empty_database.run, 'new_secret, "New Capitals", new_mark'
    write("INSERT INTO zoo_pass (note) VALUES ('none'), ('revoked')")
    write("UPDATE zoo_pass SET secret = 'a', \"The Capitals\" = 'A', mark = 'A' WHERE id = 5")
    fill(passes)
    given = f"SELECT count(*) FROM zoo_pass WHERE num_nulls({shadows}) = 0"
    assert empty_database.value(given) == 4
    write("UPDATE zoo_pass SET secret = NULL WHERE id = 5")
    null = f"SELECT num_nulls({shadows}) FROM zoo_pass WHERE id >= 4"
    assert empty_database.fetch(null) == [(3,), (3,)]
    write("UPDATE zoo_pass SET secret = 'b' WHERE id = 4")
    assert empty_database.fetch(f"{null} ORDER BY id") == [(2,), (3,)]
    write("UPDATE zoo_pass SET mark = 'B', \"The Capitals\" = 'B' WHERE id = 4")
    assert empty_database.fetch(f"{null} ORDER BY id") == [(0,), (3,)]


def test_a_mark_of_one_character_is_another_one_too(
    empty_database: Database, passes: Replacement
) -> None:
    """One row in sixteen draws a secret with the mark that it has, and draws again."""
    rows = "FROM generate_series(1, 200) AS g"
    values = "SELECT g::text, g::text, '0', '' "
    insert = f'INSERT INTO zoo_pass (secret, "The Capitals", mark, note) {values} {rows}'
    empty_database.run(insert)
    past_the_triggers(empty_database, insert)
    fill(passes)
    counts = """
        SELECT count(*), count(*) FILTER (WHERE new_mark = mark), count(DISTINCT new_secret),
               count(*) FILTER (WHERE "New Capitals" IS DISTINCT FROM upper(new_secret)
                                OR new_mark IS DISTINCT FROM left("New Capitals", 1))
          FROM zoo_pass"""
    assert empty_database.fetch(counts) == [(403, 0, 403, 0)]


def test_two_rotations_and_a_copy_are_filled_in_one_pass(empty_database: Database) -> None:
    both = expand(Both, BOTH.members[0])
    fill(both)
    counts = """
        SELECT count(DISTINCT new_code), count(DISTINCT new_token), count(*) FILTER (WHERE
               new_code = new_token OR new_token_copy IS DISTINCT FROM new_token)
          FROM zoo_both"""
    assert empty_database.fetch(counts) == [(3, 3, 0)]


def test_a_stale_save_changes_neither_live_column(
    empty_database: Database, access: Replacement
) -> None:
    """Of an object that was loaded while the columns were exchanged."""
    fill(access)
    empty_database.run("CREATE TABLE was AS SELECT * FROM zoo_access")
    stale = Access._default_manager.earliest("id")
    stale.token, stale.new_token = str(stale.new_token), stale.token
    stale.new_token_checksum = stale.token_checksum
    stale.note = "saved"
    stale.save()
    same = "SELECT count(*) FROM was NATURAL JOIN (SELECT {} FROM zoo_access) AS now"
    columns = "id, token, token_checksum, new_token, new_token_checksum"
    assert empty_database.value(same.format(columns)) == 3
    assert empty_database.value("SELECT count(*) FROM zoo_access WHERE note = 'saved'") == 1


def test_a_new_token_that_shares_its_mark_with_the_shadow_is_no_stale_save(
    empty_database: Database, passes: Replacement
) -> None:
    fill(passes)
    empty_database.run(
        "UPDATE zoo_pass SET secret = 'another', \"The Capitals\" = 'ANOTHER', mark = new_mark"
    )
    kept = "SELECT count(*) FROM zoo_pass WHERE secret = 'another' AND mark = new_mark"
    assert empty_database.value(kept) == 3
