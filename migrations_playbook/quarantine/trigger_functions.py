"""The three functions of the quarantine: their effect on a row, and the steps to create them."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.quarantine.base import MOVED, Quarantine, mark_row
from migrations_playbook.quarantine.digests import digest_sql, is_remembered_sql, text_settings

# `relkind` of a partitioned table.
PARTITIONED = "p"

WARD = """
BEGIN
    NEW.{retired} := OLD.{retired};
    {warded}
    RETURN NEW;
END"""

WARDED = """IF {is_stale} THEN
        {keep}
        PERFORM {count};
    END IF;"""

COPY = """
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF {partitioned} AND current_setting({moved}, true) = {mark_of_new} THEN
            RETURN NEW;
        ELSIF {is_remembered} THEN
            RAISE unique_violation USING MESSAGE = {has_leaked};
        END IF;
    END IF;
    NEW.{retired} := NEW.{live};
    RETURN NEW;
END"""

REMEMBER = """
BEGIN
    -- Of an UPDATE the trigger's condition tells what is to be remembered.
    IF {unique} AND OLD.{leaked} IS NOT NULL
        AND (TG_OP = 'UPDATE' OR OLD.{leaked} IS DISTINCT FROM OLD.{fresh})
    THEN
        INSERT INTO {memory} VALUES ({digest_of_old}) ON CONFLICT DO NOTHING;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        RETURN NEW;
    ELSIF {partitioned} THEN
        PERFORM set_config({moved}, {mark_of_old}, true);
    END IF;
    RETURN OLD;
END"""


def ward_steps(quarantine: Quarantine) -> list[Step]:
    """Build the steps to create *ward*. Lock: none.

    What is made of another value may be no secret by itself, as a prefix is: the new one may be the
    same as the old one. So the values that are drawn tell, for all that are written together; what
    is made tells, for itself, only where none of those is written.
    """
    drawn = [each for each in quarantine.together if each.drawn]
    warded = [_ward(sql.SQL(" OR ").join(map(_is_stale, drawn)), quarantine.together)]
    if not quarantine.drawn:
        unwritten = [
            sql.SQL("NEW.{live} IS NOT DISTINCT FROM OLD.{live}").format(
                live=sql.Identifier(each.live)
            )
            for each in drawn
        ]
        alone = sql.SQL(" AND ").join([_is_stale(quarantine), *unwritten])
        warded.append(_ward(alone, (quarantine,)))
    return _create(
        quarantine, "ward", "Ward off stale writes", WARD, warded=sql.SQL("\n    ").join(warded)
    )


def _ward(is_stale: sql.Composable, kept: Sequence[Quarantine]) -> sql.Composable:
    """Compose the statements to keep live values, and to count."""
    keep = (
        sql.SQL("NEW.{live} := OLD.{live};").format(live=sql.Identifier(each.live)) for each in kept
    )
    count = (
        sql.SQL("nextval({}), setval({}, extract(epoch FROM clock_timestamp())::bigint)").format(
            *(sql.Literal(each.object(kind).as_string(None)) for kind in ("hits", "last"))
        )
        for each in kept
    )
    return sql.SQL(WARDED).format(
        is_stale=is_stale, keep=sql.SQL(" ").join(keep), count=sql.SQL(", ").join(count)
    )


def _is_stale(quarantine: Quarantine) -> sql.Composable:
    """Compose the condition that an UPDATE would bring a leaked value back."""
    return sql.SQL(
        "(NEW.{live} IS DISTINCT FROM OLD.{live} AND (NEW.{live} = OLD.{retired} OR {remembered}))"
    ).format(
        live=sql.Identifier(quarantine.live),
        retired=sql.Identifier(quarantine.retired),
        remembered=is_remembered_sql(quarantine, quarantine.live, "NEW."),
    )


def copy_steps(quarantine: Quarantine) -> list[Step]:
    """Build the steps to create *copy*. Lock: none."""
    return _create(quarantine, "copy", "Copy new values to the retired column", COPY)


def remember_steps(quarantine: Quarantine, *, leaked: str, fresh: str) -> list[Step]:
    """Build the steps to create *remember*. Lock: none.

    Arguments:
        leaked: the column with the leaked values.
        fresh: the other column.
    """
    return _create(
        quarantine,
        "remember",
        "Remember leaked values that leave their column",
        REMEMBER,
        leaked=sql.Identifier(leaked),
        fresh=sql.Identifier(fresh),
        digest_of_old=digest_sql(quarantine, leaked, "OLD."),
    )


def _mark(quarantine: Quarantine, row: str) -> sql.Composable:
    """Compose the mark of a row that moves to another partition: the same for all its columns."""
    columns = ", ".join(
        f"{row}.{sql.Identifier(each).as_string(None)}"
        for each in quarantine.marked or (quarantine.retired,)
    )
    return sql.SQL(mark_row(columns))


def _create(
    quarantine: Quarantine, kind: str, what: str, body: str, **parts: sql.Composable
) -> list[Step]:
    """Build the steps to create a function with the rights of the table's owner.

    So the application needs no right on the memory and the sequences. The schemas of the types are
    in the function's path, for their operators; those of the kin's too, which *ward* compares.
    """
    columns = quarantine.table.columns
    compared = [name for each in quarantine.together for name in each.compared]
    schemas = [columns[each].type_schema for each in compared]
    retired = sql.Identifier(quarantine.retired)
    parts |= {
        "live": sql.Identifier(quarantine.live),
        "retired": retired,
        "memory": quarantine.object("leaked"),
        "unique": sql.Literal(quarantine.key is not None),
        "partitioned": sql.Literal(quarantine.table.kind == PARTITIONED),
        "is_remembered": is_remembered_sql(quarantine, quarantine.live, "NEW."),
        "has_leaked": sql.Literal(f'a leaked value of "{quarantine.live}" is written again'),
        "moved": sql.Literal(MOVED),
        "mark_of_new": _mark(quarantine, "NEW"),
        "mark_of_old": _mark(quarantine, "OLD"),
    }
    function = quarantine.object(kind)
    statements = {
        what: sql.SQL(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql\n"
            "    SECURITY DEFINER SET search_path = {path}{settings} AS $function$"
            "{body}\n$function$"
        ).format(
            function=function,
            path=sql.SQL(", ").join(
                map(sql.Identifier, dict.fromkeys(["pg_catalog", *schemas, "pg_temp"]))
            ),
            settings=text_settings(quarantine),
            body=sql.SQL(body).format(**parts),
        ),
        # SECURITY DEFINER must not lend out the rights of whoever runs the swap.
        "Give the function to the table's owner": sql.SQL("ALTER FUNCTION {}() OWNER TO {}").format(
            function, sql.Identifier(quarantine.table.owner)
        ),
        # To fire a trigger takes no right to execute its function.
        "Let nobody call the function": sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(
            function
        ),
    }
    return [Step(what, statement, Lock.NONE) for what, statement in statements.items()]
