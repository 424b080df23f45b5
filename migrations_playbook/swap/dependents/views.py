"""Views and rules: bound by attribute number, a view would go on serving the leaked values.

The text is taken before the exchange and replaces the view with itself afterwards, when its names
mean the other columns. Privileges, comments and other views on the view stay.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.roles import may_not_create, not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    describe_columns,
)
from migrations_playbook.swap.dependents.parse_trees import ALIAS_LIST
from migrations_playbook.swap.dependents.reading import Reading
from migrations_playbook.swap.pair import COLUMNS

VIEW, MATERIALIZED_VIEW = "v", "m"
BY_POSITION = (
    "it names the table's columns by position, in an alias list; drop it, and create it again "
    "after the swap, without one"
)


VIEWS = sql.SQL("""
    SELECT r.oid, r.rulename, c.oid, n.nspname, c.relname, c.relkind::text,
           pg_catalog.pg_get_userbyid(c.relowner), coalesce(c.reloptions, '{{}}'),
           n.oid = pg_catalog.pg_my_temp_schema()
               OR NOT pg_catalog.pg_is_other_temp_schema(n.oid),
           CASE WHEN r.rulename = '_RETURN' THEN pg_catalog.pg_get_viewdef(c.oid)
                ELSE pg_catalog.pg_get_ruledef(r.oid) END,
           coalesce(array_agg(DISTINCT col.name) FILTER (WHERE col.name IS NOT NULL), '{{}}'),
           bool_or(d.refobjid = ANY (%s)),
           (ARRAY['SELECT', 'UPDATE', 'INSERT', 'DELETE'])[r.ev_type::text::int],
           EXISTS (SELECT FROM unnest(%s::oid[]) AS relation (oid)
                    WHERE r.ev_action::text ~ replace(%s, '%%s', relation.oid::text))
      FROM pg_catalog.pg_depend d
      LEFT JOIN {columns} ON col.relation = d.refobjid AND col.number = d.refobjsubid
      JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
      JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
       AND d.refclassid = 'pg_catalog.pg_class'::regclass
       AND (r.rulename <> '_RETURN' OR c.relkind = 'v')
       AND (col.name IS NOT NULL OR d.refobjid = ANY (%s))
     GROUP BY r.oid, c.oid, n.oid ORDER BY c.oid DESC, r.rulename""")


def read_views(reading: Reading) -> Iterator[Dependent]:
    """Yield the views and rules bound to either column; the youngest first.

    A reader locks a view before the table, so each is locked before the table is: the other way
    round would be a deadlock. The youngest come first, since a view can only stand on older ones.

    Lock: ACCESS EXCLUSIVE on each view, and on each table with such a rule.
    """
    connection, pair, chain = reading.connection, reading.pair, reading.chain
    rows = fetch_all(
        connection,
        VIEWS.format(columns=COLUMNS),
        [chain.oids, pair.oids, ALIAS_LIST, *pair.columns, chain.oids],
    )
    for (
        oid, rule, relation, schema, name, kind, owner, options, mine, text, names, lets_go, event,
        alias,
    ) in rows:  # fmt: skip
        if relation in chain.oids and not alias:
            continue
        identifier = sql.Identifier(schema, name)
        shown = f"{schema}.{name}"
        covers = frozenset({("pg_rewrite", oid)})
        how, columns = describe_columns(pair, names), frozenset(names)
        is_view = rule == "_RETURN"
        what = "view" if is_view else "rule"
        label = shown if is_view else f"{rule} on {shown}"
        refused = not_owned(connection, "view" if kind == VIEW else "table", shown, owner)
        if not mine:
            refused = "it is a temporary view of another session; end that session first"
        if is_view and refused is None:
            refused = may_not_create(connection, schema)
        if alias and refused is None:
            refused = BY_POSITION
        if refused is None:
            refused = chain.refuse(("pg_class", relation) if is_view else ("pg_rewrite", oid))
        if refused is not None:
            yield Dependent(what, label, how, columns, covers, refused=refused)
            continue
        statement: sql.Composable = sql.SQL(text.rstrip().removesuffix(";"))
        if is_view:
            statement = sql.SQL("CREATE OR REPLACE VIEW {}{} AS\n{}").format(
                identifier, with_options(options), statement
            )
        else:
            statement = sql.SQL("CREATE OR REPLACE {}").format(
                sql.SQL(text.rstrip().removesuffix(";").removeprefix("CREATE "))
            )
        yield Dependent(
            what,
            label,
            how,
            columns,
            covers,
            Steps(
                locked_before=(lock_step(shown, identifier, kind, owner),)
                if relation not in pair.oids
                else (),
                before_rename=(_let_go(label, rule, identifier, event),) if lets_go else (),
                after_rename=(
                    Step(
                        f"Let the {what} {label} read the new columns",
                        statement,
                        Lock.ACCESS_EXCLUSIVE,
                    ),
                ),
            ),
        )


def _let_go(label: str, rule: str, on: sql.Identifier, event: str) -> Step:
    """Let a rule do nothing while the view that it reads is made again."""
    return Step(
        f"Let the rule {label} read nothing",
        sql.SQL("CREATE OR REPLACE RULE {} AS ON {} TO {} DO INSTEAD NOTHING").format(
            sql.Identifier(rule), sql.SQL(event), on
        ),
        Lock.ACCESS_EXCLUSIVE,
    )


def lock_step(shown: str, relation: sql.Identifier, kind: str, owner: str) -> Step:
    """Lock a relation and nothing beneath it, which LOCK TABLE on a view would do.

    That its owner is its owner changes nothing, under ACCESS EXCLUSIVE.
    """
    if kind == VIEW:
        statement = sql.SQL("ALTER VIEW {} OWNER TO {}").format(relation, sql.Identifier(owner))
    else:
        statement = sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(relation)
    return Step(f"Lock {shown}, as its readers do before the table", statement, Lock.NONE)


def with_options(options: list[str]) -> sql.Composable:
    """Build the WITH clause with a relation's options; empty without any."""
    if not options:
        return sql.SQL("")
    pairs = [option.split("=", 1) for option in options]
    return sql.SQL(" WITH ({})").format(
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
            for name, value in pairs
        )
    )


KIND = DependentKind(
    read_views,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'view', c.oid, c.xmin, r.xmin)
          FROM pg_catalog.pg_rewrite r
          JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
         WHERE r.oid IN (SELECT objid FROM bound)"""),
)
