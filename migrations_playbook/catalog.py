"""What PostgreSQL says is true now. Reads only; every play asks here first.

There is no bookkeeping table to drift from the truth: the phase follows from the columns, their
attribute numbers, the triggers and the rows.

Lock: ACCESS SHARE at most, as any SELECT takes, in every function of this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.database import fetch_all, fetch_one, fetch_value, set_local
from migrations_playbook.shadow import BoundShadow
from migrations_playbook.tables import TREE

# Counting exactly is cheap while it stays under this, in milliseconds.
EXACT_COUNT_MS = 2000
# And how many pages a sample has, when it may not.
SAMPLE_PAGES = 1000


class Phase(StrEnum):
    """Where a shadow column stands; see `phase`."""

    NONE = "none"
    EXPANDED = "expanded"
    FILLED = "filled"
    SWAPPED = "swapped"


@dataclass(frozen=True)
class Column:
    """A column as pg_attribute has it.

    Arguments:
        number: its attribute number: what views, indexes and triggers are bound to.
        type: its type, with modifiers, as `format_type` writes it.
        type_schema: the schema of its type; its operators are looked up there.
        not_null: whether it has a NOT NULL.
        default: its default expression, or None.
        written_by: the transaction that last changed its catalog row.
    """

    name: str
    number: int
    type: str
    type_schema: str
    not_null: bool
    default: str | None
    written_by: str


@dataclass(frozen=True)
class Table:
    """A table as pg_class has it.

    Arguments:
        kind: `relkind`: "r" an ordinary table, "p" a partitioned one.
        estimate: the rows that the last ANALYZE or VACUUM saw; -1 when there was none.
        parent: the oid of what it is a partition of; None for the table itself.
        partitions: of a partitioned table those of all levels, the upper levels first. One that
            was attached may have its columns in another order: each has numbers of its own.
    """

    oid: int
    schema: str
    name: str
    owner: str
    kind: str
    estimate: float
    columns: dict[str, Column]
    parent: int | None = None
    partitions: tuple[Table, ...] = ()

    @property
    def identifier(self) -> sql.Identifier:
        """The schema-qualified name: it means the same whatever the search_path."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Leaf:
    """A table that holds rows itself: the table, or one of its partitions or children.

    Arguments:
        blocks: its length when it was asked for, in blocks.
    """

    schema: str
    name: str
    blocks: int

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class State:
    """All that a play needs to decide what is missing.

    Arguments:
        table: the table, or None when it does not exist.
        phase: see `phase`.
        problem: what keeps the shadow from being filled, in one sentence; None when all is well.
    """

    table: Table | None
    phase: Phase
    problem: str | None

    @property
    def swapped(self) -> bool:
        return self.phase is Phase.SWAPPED


def table(connection: BaseDatabaseWrapper, bound: BoundShadow) -> Table | None:
    """The shadow's table and its columns, or None when it is not there."""
    return named(connection, bound.table)


def named(connection: BaseDatabaseWrapper, identifier: sql.Identifier) -> Table | None:
    """A table by its name, its columns and partitions, or None when it is not there."""
    oid = fetch_value(
        connection, sql.SQL("SELECT pg_catalog.to_regclass(%s)::oid"), [identifier.as_string(None)]
    )
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT c.oid, n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner),
                   c.relkind::text, c.reltuples, tree.parent
              FROM {tree} AS tree
              JOIN pg_catalog.pg_class c ON c.oid = tree.oid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             ORDER BY tree.level, c.oid""").format(tree=TREE),
        [oid],
    )
    if not rows:
        return None
    columns = _columns(connection, [row[0] for row in rows])
    first, *others = (
        Table(oid, schema, name, owner, kind, estimate, columns[oid], parent)
        for oid, schema, name, owner, kind, estimate, parent in rows
    )
    return replace(first, partitions=tuple(others))


def _columns(connection: BaseDatabaseWrapper, oids: list[int]) -> dict[int, dict[str, Column]]:
    """Each table's columns by name."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT a.attrelid, a.attname, a.attnum, pg_catalog.format_type(a.atttypid, a.atttypmod),
                   n.nspname, a.attnotnull, pg_catalog.pg_get_expr(d.adbin, d.adrelid),
                   a.xmin::text
              FROM pg_catalog.pg_attribute a
              JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
              JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
              LEFT JOIN pg_catalog.pg_attrdef d
                     ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped"""),
        [oids],
    )
    found: dict[int, dict[str, Column]] = {oid: {} for oid in oids}
    for oid, name, *rest in rows:
        found[oid][name] = Column(name, *rest)
    return found


def leaves(connection: BaseDatabaseWrapper, found: Table) -> list[Leaf]:
    """The tables that hold the rows: `ctid` means something within one of them only."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT n.nspname, c.relname,
                   pg_catalog.pg_relation_size(c.oid)
                       / pg_catalog.current_setting('block_size')::bigint
              FROM {tree} AS tree
              JOIN pg_catalog.pg_class c ON c.oid = tree.oid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'r'
             ORDER BY c.oid""").format(tree=TREE),
        [found.oid],
    )
    return [Leaf(schema, name, int(blocks)) for schema, name, blocks in rows]


def state(connection: BaseDatabaseWrapper, bound: BoundShadow) -> State:
    """Where the shadow stands.

    - `none`: no shadow column: before the expand, or after the contract.
    - `expanded`: the shadow column is there, and some rows have no value in it yet.
    - `filled`: no null is left. The swap may run.
    - `swapped`: the live column's attribute number is higher than the shadow's. The shadow was
      added later, so a live name with the higher number can only mean that the names were
      exchanged. Dump and restore keep the order. (The table's own numbers: a partition that is
      attached later may have its columns in any order.)
    """
    found = table(connection, bound)
    if found is None or bound.shadow not in found.columns or bound.live not in found.columns:
        return State(found, Phase.NONE, None)
    if found.columns[bound.live].number > found.columns[bound.shadow].number:
        return State(found, Phase.SWAPPED, None)
    problem = _trigger_problem(connection, bound, found)
    if problem is not None or has_nulls(connection, bound, found):
        return State(found, Phase.EXPANDED, problem)
    return State(found, Phase.FILLED, None)


def has_nulls(connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table) -> bool:
    """Whether any row's shadow is null. A sequential scan when none is."""
    return bool(
        fetch_value(
            connection,
            sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} IS NULL)").format(
                found.identifier, sql.Identifier(bound.shadow)
            ),
        )
    )


def count_nulls(connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table) -> int:
    """How many rows' shadow is null, exactly.

    One sequential scan by one process: parallel ones would take the site's cores.
    """
    with transaction.atomic(using=connection.alias):
        set_local(connection, "max_parallel_workers_per_gather", "0")
        return int(
            fetch_value(
                connection,
                sql.SQL("SELECT count(*) FROM {} WHERE {} IS NULL").format(
                    found.identifier, sql.Identifier(bound.shadow)
                ),
            )
        )


def count_nulls_within(
    connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table, limit_ms: int
) -> int | None:
    """How many rows' shadow is null, or None when counting takes longer than `limit_ms`."""
    try:
        with transaction.atomic(using=connection.alias):
            set_local(connection, "statement_timeout", f"{limit_ms}ms")
            return count_nulls(connection, bound, found)
    except OperationalError as error:
        if not isinstance(error.__cause__, pg_errors.QueryCanceled):
            raise
    return None


def estimate_nulls(
    connection: BaseDatabaseWrapper,
    bound: BoundShadow,
    found: Table,
    limit_ms: int = EXACT_COUNT_MS,
) -> tuple[int, bool]:
    """How many rows' shadow is null, and whether that is exact.

    Counts for up to `limit_ms`, then takes a sample.
    """
    exact = count_nulls_within(connection, bound, found, limit_ms)
    if exact is not None:
        return exact, True
    return sample_nulls(connection, bound, found), False


def sample_nulls(
    connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table, pages: int = SAMPLE_PAGES
) -> int:
    """About how many rows' shadow is null, from pages at random: a few per cent off.

    The planner's statistics do not know a column that was just added, and are of yesterday.
    """
    in_all = sum(leaf.blocks for leaf in leaves(connection, found))
    share = min(1.0, pages / max(1, in_all))
    seen = fetch_value(
        connection,
        sql.SQL("SELECT count(*) FROM {} TABLESAMPLE SYSTEM (%s) WHERE {} IS NULL").format(
            found.identifier, sql.Identifier(bound.shadow)
        ),
        [100 * share],
    )
    return round(float(seen) / share)


def sizes(connection: BaseDatabaseWrapper, found: Table) -> tuple[int, int]:
    """The bytes of the table's heap (with TOAST) and of its indexes, all partitions together."""
    row = fetch_one(
        connection,
        sql.SQL("""
            SELECT sum(pg_catalog.pg_table_size(oid)), sum(pg_catalog.pg_indexes_size(oid))
              FROM {tree} AS tree""").format(tree=TREE),
        [found.oid],
    )
    assert row is not None
    return int(row[0]), int(row[1])


def was_exchanged_before(bound: BoundShadow, found: Table) -> bool:
    """Whether the columns have been exchanged and exchanged back.

    A revert renames both columns in one transaction, so both catalog rows were then last written
    by the same one; the expand and whatever made the live column are two.
    """
    return found.columns[bound.live].written_by == found.columns[bound.shadow].written_by


def _trigger_problem(
    connection: BaseDatabaseWrapper, bound: BoundShadow, found: Table
) -> str | None:
    # A partition has a clone of the trigger, which can be disabled by itself.
    enabled: dict[str, bool] = dict(
        fetch_all(
            connection,
            sql.SQL("""
                SELECT tgname, bool_and(tgenabled <> 'D')
                  FROM pg_catalog.pg_trigger JOIN {tree} AS tree ON tree.oid = tgrelid
                 WHERE tgname = ANY (%s)
                 GROUP BY tgname HAVING bool_or(tgrelid = %s)""").format(tree=TREE),
            [found.oid, list(bound.trigger_names), found.oid],
        )
    )
    for name in bound.trigger_names:
        if name not in enabled:
            return (
                f'The trigger "{name}" is missing on {found}, so new rows stay without a value. '
                'Run "manage.py pgtrigger install" first.'
            )
        if not enabled[name]:
            return (
                f'The trigger "{name}" on {found} is disabled, so new rows stay without a value. '
                'Run "manage.py pgtrigger enable" first.'
            )
    return None
