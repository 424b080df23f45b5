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
from migrations_playbook.swap.dependents.reading import Reading, read_bound

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
    for (
        oid,
        on_schema,
        on_table,
        schema,
        name,
        owner,
        definition,
        target,
        note,
        names,
    ) in read_bound(
        reading,
        "pg_statistic_ext",
        STATISTICS,
    ):
        identifier = sql.Identifier(schema, name)
        label = f"{schema}.{name}"
        weak = Lock.SHARE_UPDATE_EXCLUSIVE
        again = [
            Step(f"Put the statistics {label} on the new columns", sql.SQL(definition), weak),
            Step(
                f"Keep the owner of {label}",
                sql.SQL("ALTER STATISTICS {} OWNER TO {}").format(
                    identifier, sql.Identifier(owner)
                ),
                weak,
            ),
        ]
        if target is not None and target != -1:
            again.append(
                Step(
                    f"Keep the target of {label}",
                    sql.SQL("ALTER STATISTICS {} SET STATISTICS {}").format(
                        identifier, sql.Literal(target)
                    ),
                    weak,
                )
            )
        again += comment_steps(label, sql.SQL("STATISTICS {}").format(identifier), note)
        yield Dependent(
            "statistics",
            label,
            describe_columns(reading.pair, names),
            frozenset(names),
            frozenset({("pg_statistic_ext", oid)}),
            refused=not_owned(reading.connection, "statistics", label, owner)
            or reading.chain.refuse(("pg_statistic_ext", oid)),
            steps=Steps(
                before_rename=(
                    Step(
                        f"Take the statistics {label} off the old columns",
                        sql.SQL("DROP STATISTICS {}").format(identifier),
                        weak,
                    ),
                ),
                after_rename=tuple(again),
                follow_up=(
                    Step(
                        f"Collect the statistics {label}",
                        sql.SQL("ANALYZE {}").format(sql.Identifier(on_schema, on_table)),
                        weak,
                    ),
                ),
            ),
        )


KIND = DependentKind(
    read_statistics,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'statistics', oid, xmin) FROM pg_catalog.pg_statistic_ext
         WHERE oid IN (SELECT objid FROM bound)"""),
)
