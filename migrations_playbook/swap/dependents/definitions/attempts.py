"""What else of another type is tried: the texts that the exchange says again.

A policy, a rule, a trigger's WHEN, a publication's filter, statistics, a parsed function or a
materialized view's query may not go with the other column's type. The exchange would find out under
its lock. So each text is said again where `trial` has put scratch copies in the place of the tables
and views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors
from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.swap.dependents.base import without_semicolon
from migrations_playbook.swap.dependents.definitions.parse_trees import WHOLE_ROW
from migrations_playbook.swap.pair import COLUMNS, PUBLISHED, Object, Pair

# The objects that read either column, or a view that does. Where a text has the object's own name,
# it is left out: the name is taken.
TEXTS = sql.SQL("""
    WITH bound AS (
        SELECT d.classid, d.objid, array_agg(DISTINCT d.refobjid) AS reads
          FROM pg_catalog.pg_depend d
          LEFT JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
         WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
           AND (col.name IS NOT NULL OR d.refobjid = ANY (%s))
         GROUP BY d.classid, d.objid)
    SELECT 'pg_policy', o.oid, o.polrelid, reads, false,
           ARRAY[pg_catalog.pg_get_expr(o.polqual, o.polrelid),
                 pg_catalog.pg_get_expr(o.polwithcheck, o.polrelid)]
      FROM bound JOIN pg_catalog.pg_policy o ON o.oid = bound.objid
     WHERE bound.classid = 'pg_catalog.pg_policy'::regclass
    UNION ALL
    SELECT 'pg_rewrite', o.oid, o.ev_class, reads, position({whole} IN o.ev_action::text) > 0,
           ARRAY[pg_catalog.pg_get_ruledef(o.oid, true)]
      FROM bound JOIN pg_catalog.pg_rewrite o ON o.oid = bound.objid
     WHERE bound.classid = 'pg_catalog.pg_rewrite'::regclass AND o.rulename <> '_RETURN'
    UNION ALL
    SELECT 'pg_class', o.oid, 0, reads, position({whole} IN r.ev_action::text) > 0,
           ARRAY[pg_catalog.pg_get_viewdef(o.oid)]
      FROM bound JOIN pg_catalog.pg_rewrite r ON r.oid = bound.objid
      JOIN pg_catalog.pg_class o ON o.oid = r.ev_class AND o.relkind = 'm'
     WHERE bound.classid = 'pg_catalog.pg_rewrite'::regclass
    UNION ALL
    SELECT 'pg_attrdef', o.oid, o.adrelid, ARRAY[o.adrelid], false,
           ARRAY[a.attname, pg_catalog.pg_get_expr(o.adbin, o.adrelid)]
      FROM pg_catalog.pg_attrdef o
      JOIN pg_catalog.pg_attribute a ON a.attrelid = o.adrelid AND a.attnum = o.adnum
     WHERE o.adrelid = ANY (%s)
    UNION ALL
    SELECT 'pg_trigger', o.oid, o.tgrelid, reads, position({whole} IN o.tgqual::text) > 0,
           ARRAY[pg_catalog.pg_get_triggerdef(o.oid, true)]
      FROM bound JOIN pg_catalog.pg_trigger o ON o.oid = bound.objid
     WHERE bound.classid = 'pg_catalog.pg_trigger'::regclass
       AND NOT o.tgisinternal AND o.tgparentid = 0 AND o.tgqual IS NOT NULL
    UNION ALL
    SELECT 'pg_statistic_ext', o.oid, o.stxrelid, reads, position({whole} IN o.stxexprs::text) > 0,
           ARRAY[pg_catalog.pg_get_statisticsobjdef_columns(o.oid)]
      FROM bound JOIN pg_catalog.pg_statistic_ext o ON o.oid = bound.objid
     WHERE bound.classid = 'pg_catalog.pg_statistic_ext'::regclass
    UNION ALL
    SELECT 'pg_publication_rel', o.oid, o.prrelid, reads, false,
           ARRAY[p.pubname, pg_catalog.pg_get_expr(o.prqual, o.prrelid)]
      FROM {published} JOIN bound ON bound.objid = o.oid
      JOIN pg_catalog.pg_publication p ON p.oid = o.prpubid
     WHERE bound.classid = 'pg_catalog.pg_publication_rel'::regclass AND o.prqual IS NOT NULL
    UNION ALL
    SELECT 'pg_proc', o.oid, 0, reads, position({whole} IN o.prosqlbody::text) > 0,
           ARRAY[kind.name, o.proname, substr(pg_catalog.pg_get_functiondef(o.oid), 1 + length(
                     format('CREATE OR REPLACE %%s %%I.%%I', kind.name, n.nspname, o.proname)))]
      FROM bound JOIN pg_catalog.pg_proc o ON o.oid = bound.objid
      JOIN pg_catalog.pg_namespace n ON n.oid = o.pronamespace
     CROSS JOIN LATERAL (
            SELECT CASE o.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END) AS kind (name)
     WHERE bound.classid = 'pg_catalog.pg_proc'::regclass AND o.prosqlbody IS NOT NULL""").format(
    columns=COLUMNS, published=PUBLISHED, whole=sql.Literal(WHOLE_ROW)
)


@dataclass(frozen=True)
class Attempt:
    """An object whose text is tried for the other type.

    Arguments:
        catalog, oid: its address.
        relation: the oid of the table or view that it is of; 0 without.
        reads: which of the tables and views it reads.
        whole_row: whether the text has a whole row in it, whose type only the table itself has.
        texts: the parts of its text.
    """

    catalog: str
    oid: int
    relation: int
    reads: list[int]
    whole_row: bool
    texts: list[str | None]

    @property
    def object(self) -> Object:
        """The object's address."""
        return self.catalog, self.oid

    def compose(self, on: str) -> sql.Composable:
        """Compose the statement to try.

        Arguments:
            on: the name of the scratch copy of its relation.
        """
        return COMPOSED[self.catalog](sql.Identifier("pg_temp", on), *self.texts)

    @property
    def expected(self) -> tuple[type[pg_errors.Error], ...]:
        """The error of a text that goes with the type.

        No publication has a temporary table, and its filter is looked at before that is said.
        """
        return (pg_errors.InvalidParameterValue,) if self.catalog == "pg_publication_rel" else ()


def read_attempts(connection: BaseDatabaseWrapper, pair: Pair, views: list[int]) -> list[Attempt]:
    """Read the texts that are to be tried, with the names as the search_path has them.

    Lock: none that conflicts with anything.

    Arguments:
        views: the views that read either column, themselves or through other views.
    """
    rows = fetch_all(connection, TEXTS, [*pair.columns, views, views])
    return [Attempt(*row) for row in rows if row[-1] is not None]


def policy_clauses(using: str | None, check: str | None) -> sql.Composable:
    """Compose the expressions of a policy, as CREATE POLICY and ALTER POLICY take them."""
    clauses = (("USING", using), ("WITH CHECK", check))
    return sql.SQL(" ").join(
        sql.SQL("{} ({})").format(sql.SQL(clause), sql.SQL(expression))
        for clause, expression in clauses
        if expression is not None
    )


def _whole(on: sql.Identifier, text: str) -> sql.Composable:
    """Compose a text that names its relation itself, by a name that means the scratch copy."""
    return sql.SQL(without_semicolon(text))


COMPOSED: dict[str, Callable[..., sql.Composable]] = {
    "pg_policy": lambda on, *parts: sql.SQL("CREATE POLICY playbook_trial ON {} {}").format(
        on, policy_clauses(*parts)
    ),
    "pg_class": lambda on, text: sql.SQL("CREATE TEMPORARY VIEW playbook_trial AS {}").format(
        _whole(on, text)
    ),
    "pg_rewrite": _whole,
    "pg_trigger": _whole,
    "pg_attrdef": lambda on, column, text: sql.SQL(
        "ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}"
    ).format(on, sql.Identifier(column), sql.SQL(text)),
    "pg_statistic_ext": lambda on, text: sql.SQL(
        "CREATE STATISTICS pg_temp.playbook_trial ON {} FROM {}"
    ).format(sql.SQL(text), on),
    "pg_publication_rel": lambda on, name, text: sql.SQL(
        "ALTER PUBLICATION {} ADD TABLE ONLY {} WHERE ({})"
    ).format(sql.Identifier(name), on, sql.SQL(text)),
    # By its own name, by which a body may call its parameters.
    "pg_proc": lambda _, kind, name, text: sql.SQL("CREATE {} pg_temp.{}{}").format(
        sql.SQL(kind), sql.Identifier(name), sql.SQL(text)
    ),
}
