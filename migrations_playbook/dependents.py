"""What is bound to the columns, and what the exchange does about it.

PostgreSQL binds indexes, constraints, triggers, views and much else to a column's attribute
number: after a rename they stay with the leaked values. Each is carried over in the swap's
transaction, or the swap refuses and names it.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.catalog import Table
from migrations_playbook.database import fetch_all, name_of
from migrations_playbook.steps import Lock, Step


@dataclass(frozen=True)
class Index:
    """An index that has one of the columns as its only key column.

    Arguments:
        name: the index's name, and its constraint's if it has one.
        unique: whether it is unique.
        constraint: whether it belongs to a UNIQUE constraint.
        valid: False for what a failed concurrent build leaves behind.
    """

    name: str
    unique: bool
    constraint: bool
    valid: bool

    def twin_name(self, shadow: str) -> str:
        """The name of its counterpart on the shadow column."""
        return name_of(self.name, shadow)


@dataclass(frozen=True)
class Trigger:
    """A trigger that is bound to one of the columns, as the catalog states it."""

    name: str
    definition: str
    enabled: str
    comment: str | None

    def drop(self, found: Table) -> Step:
        """Lock: ACCESS EXCLUSIVE on the table."""
        return Step(
            f"Take the trigger {self.name} off the old columns",
            sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(self.name), found.identifier),
            Lock.ACCESS_EXCLUSIVE,
        )

    def restate(self, found: Table) -> list[Step]:
        """Say the same text again: its names now mean the other columns.

        Lock: SHARE ROW EXCLUSIVE on the table for CREATE TRIGGER.
        """
        name = sql.Identifier(self.name)
        steps = [
            Step(
                f"Put the trigger {self.name} on the new columns",
                sql.SQL(self.definition),
                Lock.ACCESS_EXCLUSIVE,
            )
        ]
        how = {"D": "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}.get(self.enabled)
        if how:
            steps.append(
                Step(
                    f"Keep the trigger {self.name} as it was set",
                    sql.SQL("ALTER TABLE {} {} TRIGGER {}").format(
                        found.identifier,
                        sql.SQL(how),
                        name,
                    ),
                    Lock.ACCESS_EXCLUSIVE,
                )
            )
        if self.comment is not None:
            steps.append(
                Step(
                    f"Keep the comment of the trigger {self.name}",
                    sql.SQL("COMMENT ON TRIGGER {} ON {} IS {}").format(
                        name, found.identifier, sql.Literal(self.comment)
                    ),
                    Lock.SHARE_UPDATE_EXCLUSIVE,
                )
            )
        return steps


def indexes(connection: BaseDatabaseWrapper, found: Table, column: str) -> list[Index]:
    """The plain indexes whose only key column is this one; by name."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT c.relname, i.indisunique, k.oid IS NOT NULL, i.indisvalid AND i.indisready
              FROM pg_catalog.pg_index i
              JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
              LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid
                                                  AND k.conrelid = i.indrelid AND k.contype = 'u'
             WHERE i.indrelid = %s AND i.indkey::text = %s::text
               AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT i.indisprimary
             ORDER BY c.relname"""),
        [found.oid, found.columns[column].number],
    )
    return [Index(*row) for row in rows]


def triggers(connection: BaseDatabaseWrapper, found: Table, *columns: str) -> list[Trigger]:
    """The triggers of the table that are bound to any of the columns; by name."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT t.tgname, pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled::text,
                   pg_catalog.obj_description(t.oid, 'pg_trigger')
              FROM pg_catalog.pg_trigger t
             WHERE t.tgrelid = %s AND NOT t.tgisinternal
               AND EXISTS (SELECT FROM pg_catalog.pg_depend d
                            WHERE d.classid = 'pg_catalog.pg_trigger'::regclass
                              AND d.objid = t.oid AND d.refobjid = t.tgrelid
                              AND d.refobjsubid = ANY (%s))
             ORDER BY t.tgname"""),
        [found.oid, [found.columns[column].number for column in columns]],
    )
    return [Trigger(*row) for row in rows]


def refused(connection: BaseDatabaseWrapper, found: Table, column: str) -> list[str]:
    """What is bound to the column and cannot be carried over, each as PostgreSQL describes it."""
    carried = [index.name for index in indexes(connection, found, column)]
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
              FROM pg_catalog.pg_depend d
             WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
               AND d.refobjid = %s AND d.refobjsubid = %s
               AND d.classid <> 'pg_catalog.pg_trigger'::regclass
               AND NOT (d.classid = 'pg_catalog.pg_attrdef'::regclass
                        AND EXISTS (SELECT FROM pg_catalog.pg_attrdef a
                                     WHERE a.oid = d.objid AND a.adrelid = d.refobjid
                                       AND a.adnum = d.refobjsubid))
               AND NOT (d.classid = 'pg_catalog.pg_class'::regclass
                        AND EXISTS (SELECT FROM pg_catalog.pg_class c
                                     WHERE c.oid = d.objid AND c.relname = ANY (%s)))
               AND NOT (d.classid = 'pg_catalog.pg_constraint'::regclass
                        AND EXISTS (SELECT FROM pg_catalog.pg_constraint k
                                     WHERE k.oid = d.objid
                                       AND (k.contype = 'n' OR k.conname = ANY (%s))))
             ORDER BY 1"""),
        [found.oid, found.columns[column].number, carried, carried],
    )
    return [row[0] for row in rows]
