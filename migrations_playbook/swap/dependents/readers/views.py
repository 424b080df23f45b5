"""Views and rules: bound by attribute number, a view would go on serving the leaked values.

The text is taken before the exchange and replaces the view with itself afterwards, when its names
mean the other columns. Privileges, comments and other views on the view stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from psycopg import sql

from migrations_playbook.postgres.names import Named
from migrations_playbook.postgres.roles import may_not_create, not_owned
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import (
    Dependent,
    DependentKind,
    Steps,
    describe_columns,
    with_options,
    without_semicolon,
)
from migrations_playbook.swap.dependents.definitions.parse_trees import ALIAS_LIST, of_relations
from migrations_playbook.swap.dependents.definitions.reading import Reading, read_bound

VIEW, MATERIALIZED_VIEW = "v", "m"
BY_POSITION = (
    "it names the table's columns by position, in an alias list; drop it, and create it again "
    "after the swap, without one"
)


VIEWS = """
    SELECT o.oid, o.rulename, c.oid, n.nspname, c.relname, c.relkind::text,
           pg_catalog.pg_get_userbyid(c.relowner), coalesce(c.reloptions, '{{}}'),
           n.oid = pg_catalog.pg_my_temp_schema()
               OR NOT pg_catalog.pg_is_other_temp_schema(n.oid),
           CASE WHEN o.rulename = '_RETURN' THEN pg_catalog.pg_get_viewdef(c.oid)
                ELSE pg_catalog.pg_get_ruledef(o.oid) END,
           bound.names, bound.lets_go,
           (ARRAY['SELECT', 'UPDATE', 'INSERT', 'DELETE'])[o.ev_type::text::int],
           o.ev_action::text ~ {alias_list}
      FROM pg_catalog.pg_rewrite o
      JOIN pg_catalog.pg_class c ON c.oid = o.ev_class
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace {bound}
     WHERE o.rulename <> '_RETURN' OR c.relkind = 'v'
     ORDER BY c.oid DESC, o.rulename"""


@dataclass(frozen=True)
class Query(Named):
    """The query of a view, or a rule of a table or a view, that reads either column.

    Arguments:
        rule: its name in pg_rewrite.
        relation: the view, or the rule's table or view.
        kind: `relkind` of that.
        owner: whose it is.
        options: of a view, security_barrier and the like.
        mine: whether it is nobody else's temporary view.
        text: as PostgreSQL writes it.
        names: which of the columns it is bound to.
        lets_go: whether it reads a view that is made again.
        event: the event of a rule.
        by_position: whether it names the columns by their position.
    """

    oid: int
    rule: str
    relation: int
    schema: str
    name: str
    kind: str
    owner: str
    options: list[str]
    mine: bool
    text: str
    names: list[str]
    lets_go: bool
    event: str
    by_position: bool

    @property
    def is_view(self) -> bool:
        """Whether this is a view's own query."""
        return self.rule == "_RETURN"

    @property
    def label(self) -> str:
        """The name for a person."""
        return str(self) if self.is_view else f"{self.rule} on {self}"

    @property
    def restated(self) -> sql.Composable:
        """The statement that says the text again."""
        text = without_semicolon(self.text)
        if not self.is_view:
            return sql.SQL("CREATE OR REPLACE {}").format(sql.SQL(text.removeprefix("CREATE ")))
        return sql.SQL("CREATE OR REPLACE VIEW {}{} AS\n{}").format(
            self.identifier, with_options(self.options), sql.SQL(text)
        )


def read_views(reading: Reading) -> Iterator[Dependent]:
    """Yield the views and rules bound to either column; the youngest first.

    A reader locks a view before the table, so each is locked before the table is: the other way
    round would be a deadlock. The youngest come first, since a view can only stand on older ones.

    Lock: ACCESS EXCLUSIVE on each view, and on each table with such a rule.
    """
    pair, remade = reading.pair, reading.chain.oids
    alias_list = of_relations(ALIAS_LIST, pair.oids)
    rows = read_bound(reading, "pg_rewrite", VIEWS, alias_list=alias_list)
    for each in (Query(*row) for row in rows):
        if each.relation in remade and not each.by_position:
            continue
        what = "view" if each.is_view else "rule"
        found = Dependent(
            what,
            each.label,
            describe_columns(pair, each.names),
            frozenset(each.names),
            frozenset({("pg_rewrite", each.oid)}),
            refused=next(_refusals(reading, each), None),
        )
        let_read = f"Let the {what} {each.label} read the new columns"
        steps = Steps(
            locked_before=(lock_step(str(each), each.identifier, each.kind, each.owner),)
            if each.relation not in pair.oids
            else (),
            before_rename=(_let_go(each),) if each.lets_go else (),
            after_rename=(Step(let_read, each.restated, Lock.ACCESS_EXCLUSIVE),),
        )
        yield found if found.refused else replace(found, steps=steps)


def _refusals(reading: Reading, each: Query) -> Iterator[str]:
    """Yield why a view or a rule cannot be restated, the first reason first."""
    if not each.mine:
        yield "it is a temporary view of another session; end that session first"
    kind = "view" if each.kind == VIEW else "table"
    yield from filter(None, (not_owned(reading.connection, kind, str(each), each.owner),))
    if each.is_view:
        yield from filter(None, (may_not_create(reading.connection, each.schema),))
    if each.by_position:
        yield BY_POSITION
    address = ("pg_class", each.relation) if each.is_view else ("pg_rewrite", each.oid)
    yield from filter(None, (reading.chain.refuse(address),))


def _let_go(each: Query) -> Step:
    """Let a rule do nothing while the view that it reads is made again."""
    return Step(
        f"Let the rule {each.label} read nothing",
        sql.SQL("CREATE OR REPLACE RULE {} AS ON {} TO {} DO INSTEAD NOTHING").format(
            sql.Identifier(each.rule), sql.SQL(each.event), each.identifier
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


KIND = DependentKind(
    read_views,
    stamp=sql.SQL("""
        SELECT concat_ws(' ', 'view', c.oid, c.xmin, r.xmin)
          FROM pg_catalog.pg_rewrite r
          JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
         WHERE r.oid IN (SELECT objid FROM bound)"""),
)
