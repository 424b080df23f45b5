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
from migrations_playbook.swap.dependents.reading import Reading, read_bound

# A rename does not replicate: see docs/dependents.md.
SUBSCRIBERS = "its subscribers keep what they have"


LISTED = """
    SELECT o.oid, n.nspname, c.relname, p.pubname, pg_catalog.pg_get_userbyid(p.pubowner),
           ARRAY(SELECT a.attname
                   FROM unnest(o.prattrs) WITH ORDINALITY AS k (attnum, nth)
                   JOIN pg_catalog.pg_attribute a
                     ON a.attrelid = o.prrelid AND a.attnum = k.attnum ORDER BY k.nth),
           pg_catalog.pg_get_expr(o.prqual, o.prrelid), bound.names
      FROM pg_catalog.pg_publication_rel o
      JOIN pg_catalog.pg_publication p ON p.oid = o.prpubid
      JOIN pg_catalog.pg_class c ON c.oid = o.prrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace {bound}
     ORDER BY p.pubname, o.prrelid"""


def read_publications(reading: Reading) -> Iterator[Dependent]:
    """Yield the publications that list the columns or filter by them, then all of the table.

    Lock: SHARE UPDATE EXCLUSIVE on the table.
    """
    listed_names = set()
    for oid, on_schema, on_table, name, owner, columns, condition, names in read_bound(
        reading,
        "pg_publication_rel",
        LISTED,
    ):
        listed_names.add(name)
        publication, table = sql.Identifier(name), sql.Identifier(on_schema, on_table)
        listed = (
            sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns)))
            if columns
            else sql.SQL("")
        )
        where = (
            sql.SQL(" WHERE ({})").format(sql.SQL(condition))
            if condition is not None
            else sql.SQL("")
        )
        yield Dependent(
            "publication",
            name,
            f"{describe_columns(reading.pair, names)}; {SUBSCRIBERS}",
            frozenset(names),
            frozenset({("pg_publication_rel", oid)}),
            refused=not_owned(reading.connection, "publication", name, owner)
            or reading.chain.refuse(("pg_publication_rel", oid)),
            steps=Steps(
                before_rename=(
                    Step(
                        f"Take the table out of the publication {name}",
                        sql.SQL("ALTER PUBLICATION {} DROP TABLE ONLY {}").format(
                            publication, table
                        ),
                        Lock.SHARE_UPDATE_EXCLUSIVE,
                    ),
                ),
                after_rename=(
                    Step(
                        f"Publish the new columns in {name}",
                        sql.SQL("ALTER PUBLICATION {} ADD TABLE ONLY {}{}{}").format(
                            publication, table, listed, where
                        ),
                        Lock.SHARE_UPDATE_EXCLUSIVE,
                    ),
                ),
            ),
        )

    for (name,) in fetch_all(
        reading.connection,
        sql.SQL("""
            SELECT DISTINCT p.pubname
              FROM pg_catalog.pg_publication_tables p
              JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
              JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
             WHERE c.oid = ANY (%s) ORDER BY p.pubname"""),
        [reading.pair.oids],
    ):
        if name not in listed_names:
            yield Dependent("publication", name, f"with the whole table; {SUBSCRIBERS}")


KIND = DependentKind(
    read_publications,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'publication', oid, xmin) FROM pg_catalog.pg_publication_rel
         WHERE prrelid IN (SELECT oid FROM relation)"""),
)
