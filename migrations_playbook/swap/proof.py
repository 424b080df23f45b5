"""The proof: nothing that is reachable under the live name is a leaked value.

Everything is counted inside the server: no value is sent to the client, whose memory is constant.

Lock: ACCESS SHARE, as any SELECT takes, in every function of this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import ProgrammingError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.postgres.query import (
    engine_transaction,
    fetch_all,
    fetch_row,
    fetch_value,
    pin_search_path,
    set_local,
)
from migrations_playbook.swap import quarantine
from migrations_playbook.swap.dependents.inventory import Inventory, read_inventory
from migrations_playbook.swap.dependents.materialized import read_left
from migrations_playbook.swap.events import Verified
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.readers import Reader, readers

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "REFERENCES")
# What each role may do with the live column: role, privilege, and the partition if it is one.
Rights = frozenset[tuple[str, str, str]]


@dataclass(frozen=True)
class Digest:
    """A set of live values, told by three numbers that do not depend on the order.

    Arguments:
        rows: how many there are.
        sum: the sum of PostgreSQL's 64-bit hashes of their texts.
        xor: the exclusive or of the same.
    """

    rows: int
    sum: int
    xor: int

    def as_json(self) -> dict[str, int | str]:
        # Strings: a JSON number beyond 2**53 is not exact everywhere.
        return {"rows": self.rows, "sum": str(self.sum), "xor": str(self.xor)}


def verify_values(
    connection: BaseDatabaseWrapper,
    pair: Pair,
    *,
    kept: int = 0,
    rights_changed: tuple[str, ...] = (),
) -> Verified:
    """Count what must be zero. Sequential scans and hash joins inside the server.

    Arguments:
        pair: the columns as they stand after the exchange.
        kept: rows that had the same value in both columns before the swap, rightly.
        rights_changed: what the exchange has found of that.
    """
    with engine_transaction(connection):
        pin_search_path(connection, pair.live.type_schema)
        # A few queries over many rows: to compile each takes longer than it saves.
        set_local(connection, "jit", "off")
        found = read_inventory(connection, pair)
        since = quarantine.swapped_since(connection, pair.table, pair.replacement.shadow)
        swapped = since is not None
        names: dict[str, sql.Composable] = {
            "table": pair.identifier,
            "live": sql.Identifier(pair.replacement.live),
            "retired": sql.Identifier(pair.replacement.shadow),
            # age() counts transactions: a row that is older than the swap was not written since.
            "older": sql.SQL("age(xmin) > age({}::xid)").format(sql.Literal(since))
            if swapped
            else sql.SQL("false"),
        }
        row = fetch_row(
            connection,
            sql.SQL("""
                SELECT count(*), count(*) FILTER (WHERE {live} IS NULL),
                       count(*) FILTER (WHERE {live} = {retired} AND {older})
                  FROM {table}""").format(**names),
        )
        rows, nulls, unchanged = row
        duplicates = leaked = 0
        for key in found.unique_keys:
            of_key = {**names, "table": key.table}
            duplicates += _duplicates(connection, of_key, key.columns)
            if swapped:
                leaked += _leaked(connection, of_key, key.columns)
        exposed, unread = _read_through(connection, pair, names) if swapped else ({}, ())
        return Verified(
            rows=rows,
            nulls=nulls if pair.live.not_null else 0,
            duplicates=duplicates,
            unchanged=max(0, unchanged - kept),
            leaked=leaked,
            views=len(exposed),
            exposed=sum(exposed.values()),
            still_bound=tuple(_still_bound(found)) if swapped else (),
            rights_changed=rights_changed,
            unread=unread,
            exposing=tuple(name for name, shown in exposed.items() if shown),
            left=tuple(each.name for each in read_left(connection, pair)),
        )


def digest_values(connection: BaseDatabaseWrapper, pair: Pair) -> Digest:
    """The digest of the set of live values. One parallel sequential scan."""
    row = fetch_row(
        connection,
        sql.SQL("""
            SELECT count(*), coalesce(sum(hash::numeric), 0), coalesce(bit_xor(hash), 0)
              FROM (SELECT pg_catalog.hashtextextended({live}::text, 0) AS hash
                      FROM {table} WHERE {live} IS NOT NULL) AS hashed""").format(
            live=sql.Identifier(pair.replacement.live), table=pair.identifier
        ),
    )
    return Digest(int(row[0]), int(row[1]), int(row[2]))


def read_rights(connection: BaseDatabaseWrapper, pair: Pair) -> Rights:
    """What each role may do with the live column, by whatever way it came to it.

    A partition is asked for by itself: who goes through the table needs no right on it.
    """
    return frozenset(
        fetch_all(
            connection,
            sql.SQL("""
                SELECT r.rolname, p.privilege,
                       CASE WHEN t.oid <> %s THEN ' on ' || t.oid::regclass::text ELSE '' END
                  FROM pg_catalog.pg_roles r
                 CROSS JOIN unnest(%s::text[]) AS p (privilege)
                 CROSS JOIN unnest(%s::oid[]) AS t (oid)
                 WHERE pg_catalog.has_column_privilege(r.oid, t.oid, %s::text, p.privilege)"""),
            [pair.table.oid, list(PRIVILEGES), pair.oids, pair.replacement.live],
        )
    )


def _duplicates(
    connection: BaseDatabaseWrapper, names: dict[str, sql.Composable], others: tuple[str, ...]
) -> int:
    return int(
        fetch_value(
            connection,
            sql.SQL("""
                SELECT count(*) FROM (SELECT FROM {table} WHERE {present}
                                       GROUP BY {key} HAVING count(*) > 1) AS repeated""").format(
                **names,
                key=sql.SQL(", ").join([names["live"], *map(sql.Identifier, others)]),
                present=sql.SQL(" AND ").join(
                    sql.SQL("{} IS NOT NULL").format(column)
                    for column in (names["live"], *map(sql.Identifier, others))
                ),
            ),
        )
    )


def _leaked(
    connection: BaseDatabaseWrapper, names: dict[str, sql.Composable], others: tuple[str, ...]
) -> int:
    """Rows whose live value is another row's retired one.

    A row written since the swap has the same value in both columns: it is apart.
    """
    return int(
        fetch_value(
            connection,
            sql.SQL("""
                SELECT count(*) FROM {table} AS a JOIN {table} AS b ON b.{retired} = a.{live}{same}
                 WHERE (a.tableoid, a.ctid) <> (b.tableoid, b.ctid)""").format(
                **names,
                same=sql.SQL("").join(
                    sql.SQL(" AND b.{c} = a.{c}").format(c=sql.Identifier(column))
                    for column in others
                ),
            ),
        )
    )


def _read_through(
    connection: BaseDatabaseWrapper, pair: Pair, names: dict[str, sql.Composable]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Read every view on the table, and the views on those; count the retired values they show.

    By view; and the views that may not be read.

    A text that holds the value is found too. Where a view shows the retired column itself, on
    purpose, nothing is counted.
    """
    with engine_transaction(connection):
        found = readers(connection, pair)
        # To sort a million texts takes longer than to hash them, whatever the planner guesses.
        set_local(connection, "enable_mergejoin", "off")
        exposed: dict[str, int] = {}
        unread = []
        for reader in found:
            name = f"{reader.schema}.{reader.name}"
            try:
                with engine_transaction(connection):
                    exposed[name] = _exposed(connection, reader, names)
            except ProgrammingError as error:
                if not isinstance(error.__cause__, pg_errors.InsufficientPrivilege):
                    raise
                unread.append(name)
        transaction.set_rollback(True, using=connection.alias)
    return exposed, tuple(unread)


def _exposed(
    connection: BaseDatabaseWrapper, reader: Reader, names: dict[str, sql.Composable]
) -> int:
    """How often a view shows a retired value: columns of its type in one join, texts in another."""
    return sum(
        int(
            fetch_value(
                connection,
                sql.SQL("""
                    SELECT count(*) FROM ({shown}) AS shown (value)
                      JOIN {table} AS t ON t.{retired}{cast} = shown.value
                     WHERE t.{retired} IS DISTINCT FROM t.{live}""").format(
                    **names,
                    cast=cast,
                    shown=sql.SQL(" UNION ALL ").join(
                        sql.SQL("SELECT {}{} FROM {}").format(
                            sql.Identifier(column), cast, reader.identifier
                        )
                        for column in columns
                    ),
                ),
            )
        )
        for cast, columns in (
            (sql.SQL(""), [column for column, same_type in reader.columns if same_type]),
            # Byte by byte: equal texts are that in every deterministic collation, and to compare
            # them by the rules of a language takes three times as long.
            (
                sql.SQL('::text COLLATE pg_catalog."C"'),
                [column for column, same_type in reader.columns if not same_type],
            ),
        )
        if columns
    )


def _still_bound(inventory: Inventory) -> Iterator[str]:
    """Name what is refused and on the retired column: it came to the column since the swap."""
    for each in inventory.refused:
        if inventory.pair.replacement.shadow in each.columns:
            yield str(each)


def changed_rights(before: Rights, after: Rights) -> tuple[str, ...]:
    """Who may do more or less with the live column than before: `role (privilege)`."""
    return tuple(sorted({f"{role} ({what}{on})" for role, what, on in before ^ after}))
