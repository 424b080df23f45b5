"""After the swap: the leaked values stay in the retired column, and none comes back.

Two triggers, created in the swap's transaction and dropped in the revert's:

- INSERT copies the row's live value into the retired column. That column still has its old unique
  index, so inserting any leaked value is a unique violation. (On a partitioned table one that
  brings a retired value keeps it: a row that moves to another partition is inserted there.)
- UPDATE that sets the live column to the row's own retired value is a stale save: the live value
  stays, the rest of the save goes through, and the hit is counted. UPDATE that sets a really new
  live value copies it. Any other leaves the retired column as it was.

So a row written since the swap has the same value in both columns, and a revert loses no token.
(The leaked value of a row whose token is changed once more after the swap is forgotten with that
change; so is that of a deleted row.)

Hits are counted in two sequences owned by the retired column: they take no row lock, count even
when the transaction rolls back, go with the column, and store a number and a time, never a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.names import compose_name
from migrations_playbook.postgres.query import fetch_all, fetch_one
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.postgres.tables import Column, Table

# PostgreSQL fires triggers in the order of their names: these must sort before "pgtrigger_...",
# and must not begin with it, because django-pgtrigger prunes what it does not know there.
PREFIX = "migrations_playbook"


@dataclass(frozen=True)
class StaleWrites:
    """How often an old process has tried to write a leaked value back.

    Arguments:
        hits: how often since the swap.
        last: when last, or None.
    """

    hits: int
    last: datetime | None


@dataclass(frozen=True)
class Names:
    """The quarantine's objects: triggers and functions share a name, the sequences have theirs."""

    on_insert: str
    on_update: str
    hits: str
    last: str

    @classmethod
    def of(cls, table: str, retired: str) -> Names:
        return cls(
            on_insert=compose_name(PREFIX, "insert", table, retired),
            on_update=compose_name(PREFIX, "update", table, retired),
            hits=compose_name(table, retired, "stale_writes"),
            last=compose_name(table, retired, "last_stale_write"),
        )


def create(table: Table, live: str, retired: str, column: Column) -> list[Step]:
    """The steps that set the quarantine up, for a table whose columns are exchanged.

    Lock: ACCESS EXCLUSIVE is held already; CREATE TRIGGER alone takes SHARE ROW EXCLUSIVE.

    Arguments:
        table: the table.
        live: the live column's name.
        retired: the retired column's name.
        column: either of them, for the schema of its type.
    """
    names = Names.of(table.name, retired)
    # The functions compare values of the column's type, so the operators' schema must be in
    # their path; they count as the table's owner, so that the application needs no new right.
    path = sql.SQL(", ").join(
        sql.Identifier(schema)
        for schema in dict.fromkeys(["pg_catalog", column.type_schema, "pg_temp"])
    )
    parts = {
        "table": table.identifier,
        "live": sql.Identifier(live),
        "retired": sql.Identifier(retired),
        "on_insert": sql.Identifier(table.schema, names.on_insert),
        "on_update": sql.Identifier(table.schema, names.on_update),
        "insert_trigger": sql.Identifier(names.on_insert),
        "update_trigger": sql.Identifier(names.on_update),
        "hits": sql.Identifier(table.schema, names.hits),
        "last": sql.Identifier(table.schema, names.last),
        "hits_name": sql.Literal(sql.Identifier(table.schema, names.hits).as_string(None)),
        "last_name": sql.Literal(sql.Identifier(table.schema, names.last).as_string(None)),
        "path": path,
        "owner": sql.Identifier(table.owner),
        "column": sql.Identifier(table.schema, table.name, retired),
    }

    def step(what: str, text: str) -> Step:
        return Step(what, sql.SQL(text).format(**parts), Lock.ACCESS_EXCLUSIVE)

    return [
        # Whoever runs the swap, all of it belongs to the table's owner: a sequence must, to be
        # the column's, and SECURITY DEFINER must not lend out the rights of a superuser.
        step("Count stale writes", "CREATE SEQUENCE {hits}"),
        step("Note when the last stale write was", "CREATE SEQUENCE {last}"),
        *(
            step(what, text.replace("{sequence}", sequence))
            for sequence in ("{hits}", "{last}")
            for what, text in (
                ("Give it to the table's owner", "ALTER SEQUENCE {sequence} OWNER TO {owner}"),
                ("Let it go with the column", "ALTER SEQUENCE {sequence} OWNED BY {column}"),
            )
        ),
        step(
            "Copy what is inserted to the retired column",
            """CREATE FUNCTION {on_insert}() RETURNS trigger LANGUAGE plpgsql
    SET search_path = {path} AS $function$
BEGIN
    NEW.{retired} := NEW.{live};
    RETURN NEW;
END
$function$""",
        ),
        step(
            "Ignore stale writes, copy new values",
            """CREATE FUNCTION {on_update}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = {path} AS $function$
BEGIN
    IF NEW.{live} IS NOT DISTINCT FROM OLD.{live} THEN
        NEW.{retired} := OLD.{retired};
    ELSIF NEW.{live} IS DISTINCT FROM OLD.{retired} THEN
        NEW.{retired} := NEW.{live};
    ELSE
        NEW.{live} := OLD.{live};
        NEW.{retired} := OLD.{retired};
        PERFORM nextval({hits_name}),
                setval({last_name}, extract(epoch FROM clock_timestamp())::bigint);
    END IF;
    RETURN NEW;
END
$function$""",
        ),
        *(
            step(what, text.replace("{function}", function))
            for function in ("{on_insert}", "{on_update}")
            for what, text in (
                ("Give it to the table's owner", "ALTER FUNCTION {function}() OWNER TO {owner}"),
                # To fire a trigger takes no right to execute its function.
                ("Let nobody call it", "REVOKE ALL ON FUNCTION {function}() FROM PUBLIC"),
            )
        ),
        step(
            "Quarantine inserts",
            f"""CREATE TRIGGER {{insert_trigger}} BEFORE INSERT ON {{table}} FOR EACH ROW
    WHEN ({_is_new_row(table)})
    EXECUTE FUNCTION {{on_insert}}()""",
        ),
        step(
            "Quarantine updates",
            """CREATE TRIGGER {update_trigger} BEFORE UPDATE ON {table} FOR EACH ROW
    WHEN (NEW.{live} IS DISTINCT FROM OLD.{live} OR NEW.{retired} IS DISTINCT FROM OLD.{retired})
    EXECUTE FUNCTION {on_update}()""",
        ),
    ]


def _is_new_row(table: Table) -> str:
    """The condition under which an insert is of a row that never had another value."""
    if table.kind == "p":
        # A row that an UPDATE moves to another partition is inserted there, and brings its leaked
        # value: a stale save is known by it.
        return "NEW.{retired} IS NULL"
    return "NEW.{retired} IS DISTINCT FROM NEW.{live}"


def drop(table: Table, retired: str) -> list[Step]:
    """The steps that take the quarantine away: in a revert, and in the contract.

    Lock: ACCESS EXCLUSIVE on the table (DROP TRIGGER).
    """
    names = Names.of(table.name, retired)
    steps = [
        Step(
            "Drop a quarantine trigger",
            sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
                sql.Identifier(trigger), table.identifier
            ),
            Lock.ACCESS_EXCLUSIVE,
        )
        for trigger in (names.on_insert, names.on_update)
    ]
    steps += [
        Step(
            "Drop a quarantine function",
            sql.SQL("DROP FUNCTION IF EXISTS {}()").format(sql.Identifier(table.schema, function)),
            Lock.NONE,
        )
        for function in (names.on_insert, names.on_update)
    ]
    steps += [
        Step(
            "Drop a count of stale writes",
            sql.SQL("DROP SEQUENCE IF EXISTS {}").format(sql.Identifier(table.schema, sequence)),
            Lock.NONE,
        )
        for sequence in (names.hits, names.last)
    ]
    return steps


def stale_writes(connection: BaseDatabaseWrapper, table: Table, retired: str) -> StaleWrites | None:
    """How often an old process has tried to write a leaked value back; None without quarantine.

    Lock: none that conflicts with anything.
    """
    names = Names.of(table.name, retired)
    values: dict[str, int | None] = dict(
        fetch_all(
            connection,
            sql.SQL("""
                SELECT sequencename, last_value FROM pg_catalog.pg_sequences
                 WHERE schemaname = %s AND sequencename = ANY (%s)"""),
            [table.schema, [names.hits, names.last]],
        )
    )
    if names.hits not in values:
        return None
    last = values[names.last]
    return StaleWrites(
        hits=values[names.hits] or 0,
        last=None if last is None else datetime.fromtimestamp(last, UTC),
    )


def swapped_since(connection: BaseDatabaseWrapper, table: Table, retired: str) -> str | None:
    """The transaction that made the quarantine, which is the swap's; None without quarantine.

    A row whose own xmin is older was not written since the swap.
    """
    row = fetch_one(
        connection,
        sql.SQL("""
            SELECT xmin::text FROM pg_catalog.pg_trigger
             WHERE tgrelid = %s AND tgname = %s"""),
        [table.oid, Names.of(table.name, retired).on_update],
    )
    return None if row is None else str(row[0])


def read_sequences(
    connection: BaseDatabaseWrapper, table: Table, retired: str
) -> set[tuple[str, int]]:
    """Read which objects of the catalog are the counts of stale writes.

    Lock: none that conflicts with anything.
    """
    names = Names.of(table.name, retired)
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT c.oid FROM pg_catalog.pg_class c
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'S' AND n.nspname = %s AND c.relname = ANY (%s)"""),
        [table.schema, [names.hits, names.last]],
    )
    return {("pg_class", oid) for (oid,) in rows}
