"""Publications: their column lists and row filters."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.roles import not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.definitions.reading import Reading, read_bound
from migrations_playbook.swap.pair import PUBLISHED

# A rename does not replicate: see docs/dependents.md.
SUBSCRIBERS = "its subscribers keep what they have"


LISTED = """
    SELECT o.oid, n.nspname, c.relname, p.pubname, pg_catalog.pg_get_userbyid(p.pubowner),
           ARRAY(SELECT a.attname
                   FROM unnest(o.prattrs) WITH ORDINALITY AS k (attnum, nth)
                   JOIN pg_catalog.pg_attribute a
                     ON a.attrelid = o.prrelid AND a.attnum = k.attnum ORDER BY k.nth),
           pg_catalog.pg_get_expr(o.prqual, o.prrelid), bound.names
      FROM {published}
      JOIN pg_catalog.pg_publication p ON p.oid = o.prpubid
      JOIN pg_catalog.pg_class c ON c.oid = o.prrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace {bound}
     ORDER BY p.pubname, o.prrelid"""


def read_publications(reading: Reading) -> Iterator[Dependent]:
    """Yield the publications that list the columns or filter by them, then all of the table.

    Lock: SHARE UPDATE EXCLUSIVE on the table.
    """
    listed = set()
    for oid, schema, table, name, owner, columns, condition, names in read_bound(
        reading, "pg_publication_rel", LISTED, published=PUBLISHED
    ):
        listed.add(name)
        address = ("pg_publication_rel", oid)
        yield Dependent(
            "publication",
            name,
            f"{describe_columns(reading.pair, names)}; {SUBSCRIBERS}",
            frozenset(names),
            frozenset({address}),
            refused=not_owned(reading.connection, "publication", name, owner)
            or reading.chain.refuse(address),
            steps=_publish_again(name, sql.Identifier(schema, table), columns, condition),
        )
    for name in _read_with_table(reading):
        if name not in listed:
            yield Dependent("publication", name, f"with the whole table; {SUBSCRIBERS}")


def _publish_again(
    name: str, table: sql.Identifier, columns: list[str], condition: str | None
) -> Steps:
    """Take a table out of a publication, and add it with the same columns and filter."""
    publication = sql.Identifier(name)
    added = [sql.SQL("ALTER PUBLICATION {} ADD TABLE ONLY {}").format(publication, table)]
    if columns:
        added.append(sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))))
    if condition is not None:
        added.append(sql.SQL("WHERE ({})").format(sql.SQL(condition)))
    return Steps(
        before_rename=(
            Step(
                f"Take the table out of the publication {name}",
                sql.SQL("ALTER PUBLICATION {} DROP TABLE ONLY {}").format(publication, table),
                Lock.SHARE_UPDATE_EXCLUSIVE,
            ),
        ),
        after_rename=(
            Step(
                f"Publish the new columns in {name}",
                sql.SQL(" ").join(added),
                Lock.SHARE_UPDATE_EXCLUSIVE,
            ),
        ),
    )


def _read_with_table(reading: Reading) -> list[str]:
    """Read the publications that have the table or a partition, by name."""
    rows = fetch_all(
        reading.connection,
        sql.SQL("""
            SELECT DISTINCT p.pubname
              FROM pg_catalog.pg_publication_tables p
              JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
              JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
             WHERE c.oid = ANY (%s) ORDER BY p.pubname"""),
        [reading.pair.oids],
    )
    return [name for (name,) in rows]


KIND = DependentKind(
    read_publications,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'publication', oid, xmin) FROM pg_catalog.pg_publication_rel
         WHERE prrelid IN (SELECT oid FROM relation)"""),
)
