"""Extended statistics: empty until the ANALYZE after the exchange."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.roles import not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    comment_steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.definitions.reading import Reading, read_bound

WEAK = Lock.SHARE_UPDATE_EXCLUSIVE

STATISTICS = """
    SELECT o.oid, m.nspname, c.relname, n.nspname, o.stxname,
           pg_catalog.pg_get_userbyid(o.stxowner),
           pg_catalog.pg_get_statisticsobjdef(o.oid), o.stxstattarget,
           pg_catalog.obj_description(o.oid, 'pg_statistic_ext'), bound.names
      FROM pg_catalog.pg_statistic_ext o
      JOIN pg_catalog.pg_class c ON c.oid = o.stxrelid
      JOIN pg_catalog.pg_namespace m ON m.oid = c.relnamespace
      JOIN pg_catalog.pg_namespace n ON n.oid = o.stxnamespace {bound}
     ORDER BY o.stxname, n.nspname"""


def read_statistics(reading: Reading) -> Iterator[Dependent]:
    """Yield extended statistics; by name.

    Lock: SHARE UPDATE EXCLUSIVE on the table.
    """
    rows = read_bound(reading, "pg_statistic_ext", STATISTICS)
    for oid, on_schema, on_table, schema, name, owner, definition, target, note, names in rows:
        identifier, label = sql.Identifier(schema, name), f"{schema}.{name}"
        address = ("pg_statistic_ext", oid)
        drop = sql.SQL("DROP STATISTICS {}").format(identifier)
        collect = sql.SQL("ANALYZE {}").format(sql.Identifier(on_schema, on_table))
        commented = sql.SQL("STATISTICS {}").format(identifier)
        yield Dependent(
            "statistics",
            label,
            describe_columns(reading.pair, names),
            frozenset(names),
            frozenset({address}),
            refused=not_owned(reading.connection, "statistics", label, owner)
            or reading.chain.refuse(address),
            steps=Steps(
                before_rename=(
                    Step(f"Take the statistics {label} off the old columns", drop, WEAK),
                ),
                after_rename=(
                    Step(
                        f"Put the statistics {label} on the new columns", sql.SQL(definition), WEAK
                    ),
                    *_keep(label, identifier, owner, target),
                    *comment_steps(label, commented, note),
                ),
                follow_up=(Step(f"Collect the statistics {label}", collect, WEAK),),
            ),
        )


def _keep(label: str, identifier: sql.Identifier, owner: str, target: int | None) -> Iterator[Step]:
    """Give statistics that are made again the owner and the target that they had."""
    alter = sql.SQL("ALTER STATISTICS {} ").format(identifier)
    owned = sql.SQL("OWNER TO {}").format(sql.Identifier(owner))
    yield Step(f"Keep the owner of {label}", alter + owned, WEAK)
    if target is not None and target != -1:
        targeted = sql.SQL("SET STATISTICS {}").format(sql.Literal(target))
        yield Step(f"Keep the target of {label}", alter + targeted, WEAK)


KIND = DependentKind(
    read_statistics,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'statistics', oid, xmin) FROM pg_catalog.pg_statistic_ext
         WHERE oid IN (SELECT objid FROM bound)"""),
)
