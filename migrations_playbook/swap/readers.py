"""Which views show the table's rows, and in which of their columns a leaked value could be."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import engine_transaction, fetch_all
from migrations_playbook.swap.pair import Pair


@dataclass(frozen=True)
class Reader:
    """A view that reads the table, itself or through another view.

    Arguments:
        columns: those of its columns that could hold the value and are not the retired column;
            and whether each is of the same type, or a text.
    """

    schema: str
    name: str
    columns: tuple[tuple[str, bool], ...]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


def readers(connection: BaseDatabaseWrapper, pair: Pair) -> list[Reader]:
    """The views on the table or its partitions and the views on those, as deep as they go.

    The retired column is recognised through any number of views by where PostgreSQL says that a
    result column comes from; a view may show it on purpose.

    Lock: ACCESS SHARE on the views and the table, to describe their queries.
    """
    rows = fetch_all(
        connection,
        sql.SQL("""
            WITH RECURSIVE reader (oid, depth) AS (
                SELECT unnest(%s::oid[]), 0
                UNION
                SELECT r.ev_class, reader.depth + 1
                  FROM reader
                  JOIN pg_catalog.pg_depend d
                    ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = reader.oid
                   AND d.classid = 'pg_catalog.pg_rewrite'::regclass
                  JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN'
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
             ORDER BY found.depth, c.oid"""),
        [pair.oids, pair.table.oid, pair.live.number],
    )
    # Where the retired values are known to be: relation and attribute number.
    retired = {(each.table.oid, each.shadow.number) for each in pair.relations}
    result = []
    for oid, schema, name, text, same, texts in rows:
        on_purpose = set()
        for number, (column, origin) in enumerate(_origins(connection, text), start=1):
            if origin in retired:
                retired.add((oid, number))
                on_purpose.add(column)
        candidates = [(each, True) for each in same] + [(each, False) for each in texts]
        result.append(
            Reader(schema, name, tuple(each for each in candidates if each[0] not in on_purpose))
        )
    return result


def _origins(connection: BaseDatabaseWrapper, text: str) -> list[tuple[str, tuple[int, int]]]:
    """A query's columns, each with the table and the attribute number that it comes from."""
    # Described, and not read: whose rows a policy would hide makes no difference.
    with engine_transaction(connection, row_security="on"), connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM ({text.rstrip().removesuffix(';')}) AS q LIMIT 0", None)  # noqa: S608 - PostgreSQL's own text
        result = cursor.cursor.pgresult
        transaction.set_rollback(True, using=connection.alias)
        return [
            (str(result.fname(n).decode()), (result.ftable(n), result.ftablecol(n)))
            for n in range(result.nfields)
        ]
