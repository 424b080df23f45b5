"""What keeps a value that a function has read: bound to the function, and to no column."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from tests.fixtures.database import Database
from tests.fixtures.tickets import refusal

PARSED = (
    "CREATE FUNCTION tokens() RETURNS SETOF uuid LANGUAGE sql "
    "BEGIN ATOMIC SELECT token FROM public.tickets_ticket; END"
)
TEXT = (
    "CREATE FUNCTION tokens() RETURNS SETOF uuid LANGUAGE plpgsql AS $$ DECLARE ticket record; "
    'BEGIN FOR ticket IN SELECT * FROM ONLY public."tickets_ticket" '
    "LOOP RETURN NEXT ticket.token; END LOOP; END $$"
)
ONE = (
    "CREATE FUNCTION token_of(bigint) RETURNS text IMMUTABLE LANGUAGE sql "
    "RETURN (SELECT token::text FROM public.tickets_ticket WHERE id = $1)"
)
LEAKED = "SELECT count(*) FROM copies JOIN memory.ticket USING (token)"


@pytest.mark.parametrize(
    "made_by",
    [
        (PARSED, "CREATE MATERIALIZED VIEW copies AS SELECT tokens() AS token"),
        (TEXT, "CREATE MATERIALIZED VIEW copies AS SELECT tokens() AS token"),
        (
            PARSED,
            "CREATE VIEW plain AS SELECT tokens() AS token",
            (
                "CREATE FUNCTION again() RETURNS SETOF plain LANGUAGE sql "
                "BEGIN ATOMIC SELECT token FROM plain; END"
            ),
            "CREATE MATERIALIZED VIEW copies AS SELECT (again()).token",
        ),
        (
            ONE,
            (
                "CREATE FUNCTION joined(text, bigint) RETURNS text LANGUAGE sql "
                "RETURN concat($1, token_of($2), ' ')"
            ),
            "CREATE AGGREGATE tokens_of(bigint) (sfunc = joined, stype = text)",
            "CREATE TABLE numbers AS SELECT id FROM tickets_ticket",
            (
                "CREATE MATERIALIZED VIEW copies AS SELECT unnest(string_to_array(rtrim("
                "tokens_of(id)), ' ')::uuid[]) AS token FROM numbers"
            ),
        ),
    ],
    ids=["parsed", "of text", "above a view", "an aggregate"],
)
def test_a_copy_of_what_a_function_returns_is_refused_or_built_anew(
    made_by: tuple[str, ...], filled: Database
) -> None:
    for statement in made_by:
        filled.run(statement)
    assert filled.value(LEAKED) == 5
    complaint = refusal("swap_token_columns")[1]
    assert "materialized view public.copies (through a function): it holds copies" in complaint
    for revert, leaked in ((False, 0), (True, 5)):
        call_command("swap_token_columns", refresh_materialized_views=True, revert=revert)
        assert filled.value(LEAKED) == leaked
        assert filled.value("SELECT count(*) FROM copies") == 5


def test_a_copy_that_is_made_while_swapped_of_an_old_function_fails_the_proof(
    filled: Database,
) -> None:
    """Its function reads the retired column, as one written for a comparison may go on doing."""
    call_command("swap_token_columns")
    filled.run(PARSED.replace("SELECT token", "SELECT new_token"))
    filled.run("CREATE MATERIALIZED VIEW copies AS SELECT tokens() AS token")
    assert "5 shown by views (public.copies)" in refusal("swap_token_columns", "--verify")[1]


def test_a_copy_of_another_functions_values_is_none_of_its_business(filled: Database) -> None:
    filled.run(
        "CREATE FUNCTION tokens() RETURNS uuid LANGUAGE sql AS "
        "'/* token * 1, like that of public.tickets_ticket */ SELECT gen_random_uuid()'"
    )
    filled.run("CREATE MATERIALIZED VIEW copies AS SELECT tokens() AS token")
    before = filled.fetch("SELECT token FROM copies")
    call_command("swap_token_columns")
    assert filled.fetch("SELECT token FROM copies") == before


@pytest.mark.parametrize(
    ("made_by", "name"),
    [
        ("CREATE INDEX kept ON lines (token_of(ticket))", "index public.kept"),
        (
            "ALTER TABLE lines ADD token text GENERATED ALWAYS AS (token_of(ticket)) STORED",
            "generated column token of table public.lines",
        ),
    ],
    ids=["an index", "a generated column"],
)
def test_what_another_table_keeps_of_a_function_is_refused(
    made_by: str, name: str, filled: Database
) -> None:
    """PostgreSQL believes a function that says it is immutable, and keeps its values for ever."""
    for statement in (
        ONE,
        "CREATE TABLE lines AS SELECT id AS ticket FROM tickets_ticket",
        made_by,
    ):
        filled.run(statement)
    complaint = refusal("swap_token_columns")[1]
    assert f"{name} (through public.token_of(bigint)): it keeps what" in complaint
