"""Views on the table, read through: whether a leaked value can be seen in any.

A view runs somebody's code, which finds its names along the session's own search_path: the path is
pinned elsewhere, but not here. An unreadable view is named, and proves nothing against the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import pq, sql

from migrations_playbook.errors import primary_message
from migrations_playbook.meaning.expressions import BYTEWISE
from migrations_playbook.postgres.names import Named
from migrations_playbook.postgres.query import (
    engine_transaction,
    execute,
    fetch_all,
    fetch_value,
    pin_search_path,
    set_local,
    taken_back,
)
from migrations_playbook.postgres.sessions import is_connection_lost
from migrations_playbook.postgres.tables import READ_BY
from migrations_playbook.swap.dependents.base import without_semicolon
from migrations_playbook.swap.dependents.readers.through_functions import SEEN, seen_parameters
from migrations_playbook.swap.pair import Member, Pair

AS_TEXT = sql.SQL(f"::text{BYTEWISE}")
# A relation and an attribute number.
Place = tuple[int, int]


@dataclass(frozen=True)
class Reader(Named):
    """A view that reads the table, itself or through another view.

    Arguments:
        columns: its columns that could hold the value, without retired columns; and whether each is
            of the same type, or a text.
        key: its columns that show the primary key, in the key's order; None unless all are shown.
    """

    schema: str
    name: str
    columns: tuple[tuple[str, bool], ...]
    key: tuple[str, ...] | None


@dataclass(frozen=True)
class Seen:
    """The findings in the views.

    Arguments:
        shown: for each view read, how often a retired value shows under another name than the
            retired column's.
        unread: the views not read, each with the reason; an empty reason where a right is missing.
    """

    shown: dict[str, int]
    unread: dict[str, str]


class Places:
    """Where the retired columns and the key's columns are shown, through any number of views.

    Arguments:
        known: by relation and attribute number the key's position, or None for a retired value.
    """

    def __init__(self, known: dict[Place, int | None], width: int) -> None:
        self.known = known
        self.width = width
        self.retired_in: dict[int, set[str]] = {}
        self._keys: dict[int, dict[int, str]] = {}

    @classmethod
    def of(cls, pair: Pair) -> Places:
        """Begin with the table and its partitions."""
        known: dict[Place, int | None] = {}
        for each in pair.relations:
            known |= {(each.table.oid, one.shadow.number): None for one in each.members}
            for position, name in enumerate(pair.replacement.key):
                known[each.table.oid, each.table.columns[name].number] = position
        return cls(known, len(pair.replacement.key))

    def follow(self, view: int, columns: list[tuple[str, Place]]) -> None:
        """Take in where a view's columns come from."""
        self.retired_in[view], self._keys[view] = set(), {}
        for number, (column, origin) in enumerate(columns, start=1):
            if origin not in self.known:
                continue
            position = self.known[view, number] = self.known[origin]
            if position is None:
                self.retired_in[view].add(column)
            else:
                self._keys[view].setdefault(position, column)

    def key_in(self, view: int) -> tuple[str, ...] | None:
        """Find the columns of a view that show the whole key; None unless all are shown."""
        found = self._keys[view]
        if len(found) < self.width:
            return None
        return tuple(found[position] for position in range(self.width))


def find_unreadable(connection: BaseDatabaseWrapper, pair: Pair) -> dict[str, str]:
    """Read a row of every view; find the failing views, each with the reason.

    Lock: ACCESS SHARE on the views and their tables.
    """
    failed = {}
    with taken_back(connection):
        for reader in read_readers(connection, pair, pair.members[0]):
            query = sql.SQL("SELECT * FROM {} LIMIT 1").format(reader.identifier)
            if (reason := _failure(connection, query)) is not None:
                failed[str(reader)] = reason
    return failed


def _failure(connection: BaseDatabaseWrapper, query: sql.Composable) -> str | None:
    """Run a query; say why the query fails, an empty text where a right is missing, or None."""
    try:
        with engine_transaction(connection):
            execute(connection, query)
    except DatabaseError as error:
        if is_connection_lost(error):
            raise
        denied = isinstance(error.__cause__, pg_errors.InsufficientPrivilege)
        return "" if denied else primary_message(error)
    return None


def read_through(
    connection: BaseDatabaseWrapper, pair: Pair, member: Member, *, unique: bool
) -> Seen:
    """Read every view on the table, and views on views; count a member's retired values shown.

    A text with the value in the middle is found too. A view that shows a retired column itself
    does so on purpose: nothing is counted.

    Lock: ACCESS SHARE on the views and their tables.

    Arguments:
        unique: whether the column is unique, so that a value is a secret by itself. Elsewhere two
            rows may have the same value, and a view's rows are compared with their own, by the key.
    """
    seen = Seen({}, {})
    with taken_back(connection):
        execute(connection, sql.SQL("SET LOCAL search_path TO DEFAULT"))
        own = fetch_value(connection, sql.SQL("SELECT pg_catalog.current_schemas(false)::text[]"))
        # Our own comparisons find PostgreSQL's operators first, then the operators of the column's
        # type.
        pin_search_path(connection, *pair.type_schemas, *own)
        # To sort a million texts takes longer than to hash them, whatever the planner guesses.
        set_local(connection, "enable_mergejoin", "off")
        for reader in read_readers(connection, pair, member):
            try:
                with engine_transaction(connection):
                    seen.shown[str(reader)] = _count_shown(
                        connection, member, reader, unique=unique
                    )
            except DatabaseError as error:
                if is_connection_lost(error):
                    raise
                denied = isinstance(error.__cause__, pg_errors.InsufficientPrivilege)
                seen.unread[str(reader)] = "" if denied else primary_message(error)
    return seen


def _count_shown(
    connection: BaseDatabaseWrapper, member: Member, reader: Reader, *, unique: bool
) -> int:
    """Count the retired values in a view: columns of the type in one join, texts in another.

    A text is compared byte by byte: equal texts have equal bytes in every deterministic collation,
    and a comparison by the rules of a language takes three times as long.
    """
    same = [column for column, same_type in reader.columns if same_type]
    texts = [column for column, same_type in reader.columns if not same_type]
    key = () if unique else reader.key
    queries = [
        _shown_query(member, reader, columns, cast, key)
        for cast, columns in (
            (sql.SQL(""), same),
            (AS_TEXT, texts),
        )
        if columns and key is not None
    ]
    # A view that can show nothing is to be readable all the same.
    readable = sql.SQL("SELECT 0 FROM {} LIMIT 1").format(reader.identifier)
    return sum(int(fetch_value(connection, query) or 0) for query in queries or [readable])


def _shown_query(
    member: Member, reader: Reader, columns: list[str], cast: sql.SQL, key: tuple[str, ...]
) -> sql.Composed:
    shown = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} FROM {}").format(
            sql.SQL(", ").join(
                [sql.Identifier(column) + cast, *(sql.Identifier(each) for each in key)]
            ),
            reader.identifier,
        )
        for column in columns
    )
    names = [f"key_{position}" for position in range(len(key))]
    same_row = sql.SQL("").join(
        sql.SQL(" AND t.{} = shown.{}").format(sql.Identifier(of_table), sql.Identifier(name))
        for of_table, name in zip(member.replacement.key, names, strict=False)
    )
    return sql.SQL("""
        SELECT count(*) FROM ({shown}) AS shown ({names})
          JOIN {table} AS t ON t.{retired}{cast} = shown.value{same_row}
         WHERE t.{retired} IS DISTINCT FROM t.{live}""").format(
        shown=shown,
        names=sql.SQL(", ").join(map(sql.Identifier, ["value", *names])),
        table=member.table.identifier,
        retired=member.shadow.identifier,
        live=member.live.identifier,
        cast=cast,
        same_row=same_row,
    )


READERS = sql.SQL("""
    WITH RECURSIVE {seen}, reader (oid, depth) AS (
        (SELECT unnest(%s::oid[]), 0
         UNION ALL
         -- A copy of what a function returns. (A view of that keeps nothing.)
         SELECT seen.oid, 1 FROM seen JOIN pg_catalog.pg_class c ON c.oid = seen.oid
          WHERE seen.called AND seen.class = 'pg_catalog.pg_class'::regclass AND c.relkind = 'm')
        UNION
        SELECT r.ev_class, reader.depth + 1
          FROM {read_by}
         WHERE r.ev_class <> reader.oid AND reader.depth < 64)
    SELECT c.oid, n.nspname, c.relname, pg_catalog.pg_get_viewdef(c.oid),
           ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND a.atttypid = live.atttypid ORDER BY a.attnum),
           ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
                   JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND a.atttypid <> live.atttypid AND t.typcategory = 'S'
                  ORDER BY a.attnum)
      FROM (SELECT oid, max(depth) AS depth FROM reader GROUP BY oid) AS found
      JOIN pg_catalog.pg_class c ON c.oid = found.oid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_attribute live ON live.attrelid = %s AND live.attnum = %s
     WHERE found.depth > 0
       AND (c.relkind = 'v' OR c.relkind = 'm' AND c.relispopulated)
       AND NOT pg_catalog.pg_is_other_temp_schema(n.oid)
     ORDER BY found.depth, c.oid""").format(read_by=READ_BY, seen=SEEN)


def read_readers(connection: BaseDatabaseWrapper, pair: Pair, member: Member) -> list[Reader]:
    """Read the views on the table or its partitions, and views on views, as deep as they go.

    PostgreSQL says where a result column comes from: so the retired columns are recognised through
    any number of views. A view may show a retired column on purpose.

    Lock: ACCESS SHARE on the views and the table, to describe their queries.

    Arguments:
        member: the columns whose values are looked for.
    """
    rows = fetch_all(
        connection,
        READERS,
        [*seen_parameters(pair), pair.oids, pair.table.oid, member.live.number],
    )
    # Where the retired values and the key are known to be, by relation and attribute number.
    place = Places.of(pair)
    result = []
    for oid, schema, name, text, same, texts in rows:
        place.follow(oid, _origins(connection, text))
        candidates = [(each, True) for each in same] + [(each, False) for each in texts]
        columns = tuple(each for each in candidates if each[0] not in place.retired_in[oid])
        result.append(Reader(schema, name, columns, place.key_in(oid)))
    return result


def _origins(connection: BaseDatabaseWrapper, text: str) -> list[tuple[str, Place]]:
    """Describe a query's columns, each with its source: a relation and a column.

    The query is parsed and never planned: a planner runs functions marked as stable. Nor is the
    query run, so policies that hide rows make no difference.
    """
    with taken_back(connection, row_security="on"), connection.cursor() as cursor:
        protocol = cursor.connection.pgconn
        for result in (
            protocol.prepare(b"", without_semicolon(text).encode()),
            protocol.describe_prepared(b""),
        ):
            if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                raise psycopg.OperationalError("a view's own text could not be described")
        return [
            (str(result.fname(n).decode()), (result.ftable(n), result.ftablecol(n)))
            for n in range(result.nfields)
        ]
