"""The proof: nothing that is reachable under the live name is a leaked value.

Everything is counted inside the server: no value is sent to the client, whose memory is constant.

Lock: ACCESS SHARE, as any SELECT takes, in every function of this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
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
from migrations_playbook.swap.readers import Seen, read_through

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "REFERENCES")
SEEN = Seen({}, {})
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
        seen = read_through(connection, pair, unique=bool(found.unique_keys)) if swapped else SEEN
        return Verified(
            rows=rows,
            nulls=nulls if pair.live.not_null else 0,
            duplicates=duplicates,
            unchanged=max(0, unchanged - kept),
            leaked=leaked,
            views=len(seen.shown),
            exposed=sum(seen.shown.values()),
            still_bound=tuple(_still_bound(found)) if swapped else (),
            rights_changed=rights_changed,
            unread=seen.unread,
            exposing=tuple(name for name, shown in seen.shown.items() if shown),
            left=tuple(each.name for each in read_left(connection, pair)),
        )


def digest_values(connection: BaseDatabaseWrapper, pair: Pair) -> Digest:
    """Build the digest of the set of live values. One parallel sequential scan.

    A value has the same text whatever role asks, and whenever.
    """
    with engine_transaction(connection, TimeZone="UTC"):
        pin_search_path(connection)
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


def _still_bound(inventory: Inventory) -> Iterator[str]:
    """Name what is refused and on the retired column: it came to the column since the swap."""
    for each in inventory.refused:
        if inventory.pair.replacement.shadow in each.columns:
            yield str(each)


def changed_rights(before: Rights, after: Rights) -> tuple[str, ...]:
    """Who may do more or less with the live column than before: `role (privilege)`."""
    return tuple(sorted({f"{role} ({what}{on})" for role, what, on in before ^ after}))
