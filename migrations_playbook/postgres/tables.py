"""Tables as the catalog has them: columns, partitions, sizes. Reads only.

Lock: ACCESS SHARE at most, as any SELECT takes, in every function of this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.errors import Refused
from migrations_playbook.postgres.names import Named
from migrations_playbook.postgres.query import fetch_all, fetch_row, fetch_value

# A table and its partitions of all levels, to be looked up in FROM. The only parameter is an oid,
# or a name to be cast to regclass; a table without partitions is a tree by itself. A partition that
# is being detached is out already for whoever goes through the table, ALTER TABLE included.
TREE = sql.SQL("""(
    WITH RECURSIVE tree (oid, parent, level) AS (
        SELECT %s::regclass::oid, NULL::oid, 0
        UNION
        SELECT i.inhrelid, i.inhparent, tree.level + 1
          FROM pg_catalog.pg_inherits i
          JOIN tree ON i.inhparent = tree.oid AND NOT i.inhdetachpending)
    SELECT oid, parent, level FROM tree)""")

# The next step of a recursion over the views that read the relations of `reader (oid)`: `r` is the
# rule of such a view, whose query reads one.
READ_BY = sql.SQL("""reader
          JOIN pg_catalog.pg_depend d
            ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = reader.oid
           AND d.classid = 'pg_catalog.pg_rewrite'::regclass
          JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN'""")

# `relkind` of a foreign table, which LOCK TABLE does not lock.
FOREIGN = "f"


@dataclass(frozen=True)
class Column:
    """A column as pg_attribute has it.

    Arguments:
        number: its attribute number, to which views, indexes and triggers are bound.
        type: its type, with modifiers, as `format_type` writes it.
        type_schema: the schema of its type; its operators are looked up there.
        not_null: whether the column has a NOT NULL.
        default: its default expression, or None.
        collation: the oid of its collation, or 0.
    """

    name: str
    number: int
    type: str
    type_schema: str
    not_null: bool
    default: str | None
    collation: int

    @property
    def identifier(self) -> sql.Identifier:
        """The column's name, to be composed into SQL."""
        return sql.Identifier(self.name)


@dataclass(frozen=True)
class Table(Named):
    """A table as pg_class has it.

    Arguments:
        kind: `relkind`: "r" an ordinary table, "p" a partitioned one.
        estimate: the rows that the last ANALYZE or VACUUM saw; -1 without either.
        parent: the oid of a partition's table; None for the table itself.
        partitions: the partitions of all levels, the upper levels first. An attached partition may
            have its columns in another order: each has numbers of its own.
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

    def has_exchanged(self, live: str, shadow: str) -> bool:
        """Tell whether two columns bear each other's first names.

        The shadow was added later, attribute numbers never change, and dump and restore keep their
        order. So a live name with the higher number can only mean an exchange of the names. (Ask
        the table itself: an attached partition may have its columns in any order.)
        """
        return self.columns[live].number > self.columns[shadow].number


@dataclass(frozen=True)
class Leaf(Named):
    """A table with rows of its own: the table, or a partition or child.

    Arguments:
        blocks: its length when last read, in blocks.
    """

    schema: str
    name: str
    blocks: int


def find_schemas(connection: BaseDatabaseWrapper, table: str, column: str) -> list[str]:
    """List the schemas that have a table of this name with this column, in alphabetical order."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT n.nspname FROM pg_catalog.pg_class c
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
             WHERE c.relname = %s AND c.relkind IN ('r', 'p')
               AND a.attname = %s AND NOT a.attisdropped
             ORDER BY n.nspname"""),
        [table, column],
    )
    return [name for (name,) in rows]


def read_table(connection: BaseDatabaseWrapper, identifier: sql.Identifier) -> Table | None:
    """Read a table by its name, with columns and partitions; None when missing."""
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
    """Read each table's columns by name."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT a.attrelid, a.attname, a.attnum, pg_catalog.format_type(a.atttypid, a.atttypmod),
                   n.nspname, a.attnotnull, pg_catalog.pg_get_expr(d.adbin, d.adrelid),
                   a.attcollation
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


def read_leaves(connection: BaseDatabaseWrapper, table: Table) -> list[Leaf]:
    """Read the tables with the rows: `ctid` means something within a single table only."""
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
        [table.oid],
    )
    return [Leaf(schema, name, int(blocks)) for schema, name, blocks in rows]


def measure_sizes(connection: BaseDatabaseWrapper, table: Table) -> tuple[int, int]:
    """Read the bytes of the table's heap (with TOAST) and indexes, all partitions together."""
    row = fetch_row(
        connection,
        sql.SQL("""
            SELECT sum(pg_catalog.pg_table_size(oid)), sum(pg_catalog.pg_indexes_size(oid))
              FROM {tree} AS tree""").format(tree=TREE),
        [table.oid],
    )
    return int(row[0]), int(row[1])


def sum_statistic(connection: BaseDatabaseWrapper, table: Table, function: str) -> int:
    """Add up one of the server's statistics of the table, all partitions together.

    Lock: none.

    Arguments:
        function: the server's function of a table's oid, `pg_stat_get_dead_tuples` say.
    """
    return int(
        fetch_value(
            connection,
            sql.SQL("SELECT coalesce(sum({function}(oid)), 0) FROM {tree} AS tree").format(
                function=sql.Identifier("pg_catalog", function), tree=TREE
            ),
            [table.oid],
        )
    )


def is_empty(connection: BaseDatabaseWrapper, table: Table) -> bool:
    """Tell whether the table has no row."""
    return not fetch_value(
        connection, sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table.identifier)
    )


def has_more(connection: BaseDatabaseWrapper, table: Table, rows: int) -> bool:
    """Tell whether a table has more rows. Reads no more than needed. Lock: ACCESS SHARE."""
    found = fetch_value(
        connection,
        sql.SQL("SELECT count(*) FROM (SELECT FROM {} LIMIT %s) AS first").format(table.identifier),
        [rows + 1],
    )
    return int(found) > rows


def find_subscription(connection: BaseDatabaseWrapper, table: sql.Identifier) -> str | None:
    """Find out whether a subscription writes into a table: what the table is then, or None.

    Rows come in by the publisher's columns, and the apply worker fires no ordinary trigger: a new
    row stays without a fresh value, and fresh values are overwritten with leaked values.

    Lock: none that conflicts with anything.

    Returns:
        What the table is, with what to do, to end a sentence.
    """
    names = fetch_value(
        connection,
        sql.SQL("""
            SELECT string_agg(DISTINCT pg_catalog.quote_ident(s.subname), ', ')
              FROM {tree} AS tree
              -- What is subscribed to may be each partition by itself.
              JOIN pg_catalog.pg_subscription_rel r ON r.srrelid = tree.oid
              JOIN pg_catalog.pg_subscription s ON s.oid = r.srsubid""").format(tree=TREE),
        [table.as_string(None)],
    )
    if names is None:
        return None
    return (
        f"filled by a subscription ({names}), whose rows come past the triggers: rotate the column "
        "on the publisher, or take the table out of the subscription first"
    )


def find_rules(connection: BaseDatabaseWrapper, table: sql.Identifier) -> str | None:
    """Find the rules on updates of a table or its partitions, by name; None without any.

    Beside such a rule PostgreSQL takes no UPDATE inside a query, as a batch is. A rule that stands
    for nothing besides (DO ALSO NOTHING) counts too.

    Lock: none that conflicts with anything.
    """
    names: str | None = fetch_value(
        connection,
        sql.SQL("""
            SELECT string_agg(pg_catalog.quote_ident(w.rulename), ', ')
              FROM {tree} AS tree
              JOIN pg_catalog.pg_rewrite w ON w.ev_class = tree.oid
             WHERE w.ev_type = '2' AND w.ev_enabled <> 'D'""").format(tree=TREE),
        [table.as_string(None)],
    )
    return names


def refuse_unfillable(connection: BaseDatabaseWrapper, table: Table) -> None:
    """Refuse where a subscription writes into the table, or a rule rewrites its updates.

    Lock: none that conflicts with anything.

    Raises:
        Refused: names the subscription or the rule, and the remedy.
    """
    subscribed = find_subscription(connection, table.identifier)
    why = None if subscribed is None else f"it is {subscribed}"
    rules = find_rules(connection, table.identifier)
    if why is None and rules is not None:
        why = f"its updates are rewritten by a rule ({rules}): drop the rule, or make it a trigger"
    if why is not None:
        raise Refused(f"{table} cannot be filled; nothing was changed: {why}.")
