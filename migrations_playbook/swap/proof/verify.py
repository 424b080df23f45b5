"""The proof, in numbers: the rows' own are told by `swap.rows`.

Everything is counted inside the server: no value is sent to the client, whose memory is constant.

Lock: ACCESS SHARE, as any SELECT takes, in every function of this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from migrations_playbook.swap.dependents.inventory import Inventory, read_inventory
from migrations_playbook.swap.pair import Member, Pair
from migrations_playbook.swap.reports import Verified, put_together
from migrations_playbook.swap.rows.kinds import rows_of

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "REFERENCES")
# Each role's privileges on the live columns: role, privilege, and the place, where there are more.
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
        pin_search_path(connection, *pair.type_schemas)
        # A few queries over many rows: compiling each costs more time than saved.
        set_local(connection, "jit", "off")
        found = read_inventory(connection, pair)
        proven = pair.swapped or not pair.replacement.meaning.keeps_out
        rows, counted = rows_of(pair), {}
        for each in pair.members:
            plain = _count(connection, found, each)
            counted[each.live.name] = (
                rows.prove(connection, found, each, plain) if proven else plain
            )
        return replace(
            put_together(counted),
            rights_changed=rights_changed,
            left=tuple(each.name for each in found.left if each.holds_copies),
            still_bound=tuple(_still_bound(found)) if pair.swapped else (),
            problems=rows.find_problems(connection, found) if proven else (),
        )


def _count(connection: BaseDatabaseWrapper, inventory: Inventory, member: Member) -> Verified:
    """Count a member's live values, and those that are there twice."""
    names = {"table": member.table.identifier, "live": member.live.identifier}
    rows, values = fetch_row(
        connection, sql.SQL("SELECT count(*), count({live}) FROM {table}").format(**names)
    )
    return Verified(
        rows=rows,
        values=values,
        nulls=rows - values if member.live.not_null else 0,
        duplicates=sum(
            _duplicates(connection, {**names, "table": key.table}, key.columns)
            for key in inventory.unique_keys(member)
        ),
        leaked=0,
    )


def digest_values(connection: BaseDatabaseWrapper, member: Member) -> Digest:
    """Build the digest of the set of a member's live values. A single, parallel, sequential scan.

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
                live=member.live.identifier, table=member.table.identifier
            ),
        )
    return Digest(int(row[0]), int(row[1]), int(row[2]))


def read_rights(connection: BaseDatabaseWrapper, pair: Pair) -> Rights:
    """Read each role's privileges on the live columns, however acquired.

    Partitions are asked for separately: access through the table needs no right on a partition.
    """
    return frozenset(
        fetch_all(
            connection,
            sql.SQL("""
                SELECT r.rolname, p.privilege,
                       CASE WHEN %s THEN ' on ' || live.name ELSE '' END
                       || CASE WHEN t.oid <> %s THEN ' on ' || t.oid::regclass::text ELSE '' END
                  FROM pg_catalog.pg_roles r
                 CROSS JOIN unnest(%s::text[]) AS p (privilege)
                 CROSS JOIN unnest(%s::oid[]) AS t (oid)
                 CROSS JOIN unnest(%s::text[]) AS live (name)
                 WHERE pg_catalog.has_column_privilege(r.oid, t.oid, live.name, p.privilege)"""),
            [
                len(pair.members) > 1,
                pair.table.oid,
                list(PRIVILEGES),
                pair.oids,
                sorted(pair.lives),
            ],
        )
    )


def _duplicates(
    connection: BaseDatabaseWrapper, names: Mapping[str, sql.Identifier], others: tuple[str, ...]
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


def _still_bound(inventory: Inventory) -> Iterator[str]:
    """Name refused objects on a retired column: bound there since the swap."""
    for each in inventory.refused:
        if not inventory.pair.shadows.isdisjoint(each.columns):
            yield str(each)


def changed_rights(before: Rights, after: Rights) -> tuple[str, ...]:
    """List who may do more or less with a live column than before: `role (privilege)`."""
    return tuple(sorted({f"{role} ({what}{on})" for role, what, on in before ^ after}))
