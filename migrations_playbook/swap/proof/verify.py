"""The proof: no value reachable under the live name is a leaked value.

Everything is counted inside the server: no value is sent to the client, whose memory is constant.

Lock: ACCESS SHARE, as any SELECT takes, in every function of this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

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
from migrations_playbook.quarantine.digests import is_remembered_sql, unsettled_texts
from migrations_playbook.quarantine.watch import has_memory
from migrations_playbook.swap.dependents.inventory import Inventory, read_inventory
from migrations_playbook.swap.dependents.materialized import read_left
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.proof.house import find_problems
from migrations_playbook.swap.proof.readers import read_through
from migrations_playbook.swap.reports import Verified

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "REFERENCES")
# Unread views are named; so is the memory, by this.
MEMORY = "the memory of leaked values"
# Each role's privileges on the live column: role, privilege, and the partition, if any.
Rights = frozenset[tuple[str, str, str]]


@dataclass(frozen=True)
class Digest:
    """A set of live values, told by three numbers that do not depend on the order.

    Arguments:
        rows: how many rows have a value.
        sum: the sum of PostgreSQL's 64-bit hashes of their texts.
        xor: the exclusive or of the same.
    """

    rows: int
    sum: int
    xor: int

    def as_json(self) -> dict[str, int | str]:
        """Build the form of the digest in the evidence."""
        # Strings: a JSON number beyond 2**53 is not exact everywhere.
        return {"rows": self.rows, "sum": str(self.sum), "xor": str(self.xor)}


def verify_values(
    connection: BaseDatabaseWrapper, pair: Pair, *, rights_changed: tuple[str, ...] = ()
) -> Verified:
    """Count the numbers that must be zero. Sequential scans and hash joins inside the server.

    Arguments:
        pair: the columns as they stand after the exchange.
        rights_changed: the changes of rights found by the exchange.
    """
    with engine_transaction(connection):
        pin_search_path(connection, pair.live.type_schema)
        # A few queries over many rows: compiling each costs more time than saved.
        set_local(connection, "jit", "off")
        found = read_inventory(connection, pair)
        names: dict[str, sql.Composable] = {
            "table": pair.identifier,
            "live": sql.Identifier(pair.replacement.live),
            "retired": sql.Identifier(pair.replacement.shadow),
        }
        row = fetch_row(
            connection,
            sql.SQL("""
                SELECT count(*), count({live}), count(*) FILTER (WHERE {live} = {retired}),
                       count(*) FILTER (WHERE {retired} IS NULL AND {live} IS NOT NULL)
                  FROM {table}""").format(**names),
        )
        rows, values, same, untriggered = row
        counted = Verified(
            rows=rows,
            values=values,
            nulls=rows - values if pair.live.not_null else 0,
            duplicates=sum(
                _duplicates(connection, {**names, "table": key.table}, key.columns)
                for key in found.unique_keys
            ),
            leaked=0,
            rights_changed=rights_changed,
            left=tuple(each.name for each in read_left(connection, pair)),
        )
        if not pair.swapped:
            return counted
        leaked = sum(
            _leaked(connection, {**names, "table": key.table}, key.columns)
            for key in found.unique_keys
        )
        remembered = _remembered(connection, found)
        seen = read_through(connection, pair, unique=bool(found.unique_keys))
        return replace(
            counted,
            leaked=leaked,
            returned=remembered or 0,
            same=same,
            untriggered=untriggered,
            views=len(seen.shown),
            exposed=sum(seen.shown.values()),
            still_bound=tuple(_still_bound(found)),
            unread=seen.unread if remembered is not None else {**seen.unread, MEMORY: ""},
            exposing=tuple(name for name, shown in seen.shown.items() if shown),
            problems=find_problems(connection, found),
        )


def digest_values(connection: BaseDatabaseWrapper, pair: Pair) -> Digest:
    """Build the digest of the set of live values. A single, parallel, sequential scan.

    A value has the same text for every role at any time.
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
    """Read each role's privileges on the live column, however acquired.

    Partitions are asked for separately: access through the table needs no right on a partition.
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
    """Count rows whose live value is another row's retired value.

    A row written since the swap has the same value in both columns, and is counted apart.
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


def _remembered(connection: BaseDatabaseWrapper, inventory: Inventory) -> int | None:
    """Count rows whose live value is remembered as leaked; None where the role may not look."""
    quarantine = inventory.quarantine
    if not has_memory(connection, quarantine):
        return 0
    memory = quarantine.object("leaked").as_string(None)
    if not fetch_value(
        connection, sql.SQL("SELECT pg_catalog.has_table_privilege(%s, 'SELECT')"), [memory]
    ):
        return None
    for name, value in unsettled_texts(quarantine).items():
        set_local(connection, name, value)
    return int(
        fetch_value(
            connection,
            sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
                inventory.pair.identifier, is_remembered_sql(quarantine, quarantine.live)
            ),
        )
    )


def _still_bound(inventory: Inventory) -> Iterator[str]:
    """Name refused objects on the retired column: bound there since the swap."""
    for each in inventory.refused:
        if inventory.pair.replacement.shadow in each.columns:
            yield str(each)


def changed_rights(before: Rights, after: Rights) -> tuple[str, ...]:
    """List who may do more or less with the live column than before: `role (privilege)`."""
    return tuple(sorted({f"{role} ({what}{on})" for role, what, on in before ^ after}))
