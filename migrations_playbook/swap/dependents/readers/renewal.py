"""How a materialized view is renewed: the twin as the reminder, and the steps to follow.

The twin is left by the exchange, without data, from the same text; its names mean the new columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.names import Named, compose_name
from migrations_playbook.postgres.query import fetch_all
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import comment_steps, with_options, without_semicolon
from migrations_playbook.swap.pair import Pair


@dataclass(frozen=True)
class Copy(Named):
    """A materialized view that reads either column.

    Arguments:
        rule: the oid of its rule in pg_rewrite.
        direct: whether the view reads the column itself, not through another view.
        names: which of the two columns the view is bound to.
        dependants: the objects on the view, which would go with the view.
        settings: whether its columns carry something of their own.
        concurrently: whether a refresh can leave readers alone.
        populated: whether the view holds data at all.
        text: its query, with the names as they are now.
        by_position: whether the query names the table's columns by position.
        called: whether it reads the column through a function alone.
    """

    oid: int
    rule: int
    schema: str
    name: str
    owner: str
    direct: bool
    names: list[str]
    dependants: str | None
    settings: bool
    concurrently: bool
    populated: bool
    text: str
    method: str
    tablespace: str | None
    options: list[str]
    comment: str | None
    by_position: bool
    called: bool


def twin_name(pair: Pair, name: str) -> str:
    """Build the name of a materialized view's twin."""
    return compose_name(name, pair.replacement.shadow, "renewed")


def twin_address(pair: Pair, each: Copy) -> str:
    """Build the address of the twin's rule, as `sameness` knows objects: without quotes."""
    return f"rule _RETURN on {each.schema}.{twin_name(pair, each.name)}"


def leave_twin(pair: Pair, each: Copy) -> Iterator[Step]:
    """Note in the catalog which view is to be renewed. Lock: none in anybody's way."""
    twin = sql.Identifier(each.schema, twin_name(pair, each.name))
    yield Step(
        f"Leave beside {each} how it is to be renewed",
        sql.SQL("CREATE MATERIALIZED VIEW {} USING {}{}{} AS\n{}\nWITH NO DATA").format(
            twin,
            sql.Identifier(each.method),
            with_options(each.options),
            sql.SQL(" TABLESPACE {}").format(sql.Identifier(each.tablespace))
            if each.tablespace
            else sql.SQL(""),
            sql.SQL(without_semicolon(each.text)),
        ),
        Lock.NONE,
    )
    # The twin is filled with its owner's rights, as the original was.
    yield Step(
        "Give it to the same owner",
        sql.SQL("ALTER MATERIALIZED VIEW {} OWNER TO {}").format(twin, sql.Identifier(each.owner)),
        Lock.NONE,
    )


def try_query(each: Copy) -> Iterator[Step]:
    """Build the query for a row of a materialized view: a failure would be the renewal's too.

    The row is read and never found.
    """
    if each.populated:
        yield Step(
            f"Try the query of {each}",
            sql.SQL(
                "SELECT FROM (SELECT q.* FROM ({}) AS q LIMIT 1) AS tried "
                "WHERE tried IS NULL AND tried IS NOT NULL"
            ).format(sql.SQL(without_semicolon(each.text))),
            Lock.NONE,
            as_session=True,
        )


def drop_twin(pair: Pair, each: Copy) -> Step:
    """Drop the twin. Lock: none on the table."""
    return Step(
        f"Drop what an interrupted run has left beside {each}",
        sql.SQL("DROP MATERIALIZED VIEW {}").format(
            sql.Identifier(each.schema, twin_name(pair, each.name))
        ),
        Lock.NONE,
    )


def renew(connection: BaseDatabaseWrapper, pair: Pair, each: Copy) -> tuple[Step, ...]:
    """Yield the steps to renew the view, each in a transaction of its own; all can be done again.

    Lock: ACCESS EXCLUSIVE on the materialized view for the moment of its replacement, or for a
    refresh without CONCURRENTLY.
    """
    return tuple(_replace(connection, pair, each) if each.direct else _refresh(pair, each))


def _refresh(pair: Pair, each: Copy) -> Iterator[Step]:
    refresh = sql.SQL("REFRESH MATERIALIZED VIEW {}{}").format(
        sql.SQL("CONCURRENTLY " if each.concurrently else ""), each.identifier
    )
    # One string is one transaction: the twin goes when the work is done, and not before.
    done = drop_twin(pair, each).statement
    yield Step(
        f"Refresh {each}",
        sql.SQL(";\n").join([refresh, done] if each.populated else [done]),
        Lock.NONE,
        as_session=True,
    )


def _replace(connection: BaseDatabaseWrapper, pair: Pair, each: Copy) -> Iterator[Step]:
    """Fill the twin, and put the twin in its original's place.

    Each step can be done again: the data of an interrupted run may be of yesterday.
    """
    new = sql.Identifier(each.schema, twin_name(pair, each.name))
    if each.populated:
        yield Step(
            f"Fill what is to take the place of {each}",
            sql.SQL("REFRESH MATERIALIZED VIEW {}").format(new),
            Lock.NONE,
            as_session=True,
        )
    last: list[sql.Composable] = [
        sql.SQL("DROP MATERIALIZED VIEW {}").format(each.identifier),
        sql.SQL("ALTER MATERIALIZED VIEW {} RENAME TO {}").format(new, sql.Identifier(each.name)),
    ]
    for index in _indexes(connection, each.oid):
        yield _build_index(each, new, index)
        last += _take_place(each, index)
    last += _grants(connection, each)
    last += [
        step.statement
        for step in comment_steps(
            str(each), sql.SQL("MATERIALIZED VIEW {}").format(each.identifier), each.comment
        )
    ]
    yield Step(
        f"Let it take the place of {each}",
        # One string is one transaction.
        sql.SQL(";\n").join(last),
        Lock.NONE,
    )


def _build_index(each: Copy, new: sql.Identifier, index: CopyIndex) -> Step:
    """Build an index of the view on the twin, under a name for the time being."""
    before, after = index.definition
    build = [
        sql.SQL(before + "IF NOT EXISTS ")
        + sql.Identifier(index.renewed)
        + sql.SQL(" ON ")
        + new
        + sql.SQL(after)
    ]
    if index.tablespace is not None:
        build.append(
            sql.SQL("ALTER INDEX {} SET TABLESPACE {}").format(
                sql.Identifier(each.schema, index.renewed), sql.Identifier(index.tablespace)
            )
        )
    return Step(
        f"Build the index {index.name} of {each} anew", sql.SQL(";\n").join(build), Lock.NONE
    )


def _take_place(each: Copy, index: CopyIndex) -> Iterator[sql.Composable]:
    """Give an index of the twin the original's name, CLUSTER and comment."""
    yield sql.SQL("ALTER INDEX {} RENAME TO {}").format(
        sql.Identifier(each.schema, index.renewed), sql.Identifier(index.name)
    )
    if index.clustered:
        yield sql.SQL("ALTER MATERIALIZED VIEW {} CLUSTER ON {}").format(
            each.identifier, sql.Identifier(index.name)
        )
    on = sql.SQL("INDEX {}").format(sql.Identifier(each.schema, index.name))
    for step in comment_steps(index.name, on, index.comment):
        yield step.statement


@dataclass(frozen=True)
class CopyIndex:
    """An index of a materialized view.

    Arguments:
        definition: the text of pg_get_indexdef before the index's name, and after the table's.
    """

    name: str
    definition: tuple[str, str]
    clustered: bool
    tablespace: str | None
    comment: str | None

    @property
    def renewed(self) -> str:
        """The name of its counterpart on the twin, until the twin takes the view's place."""
        return compose_name(self.name, "renewed")


def _indexes(connection: BaseDatabaseWrapper, oid: int) -> Iterator[CopyIndex]:
    """Read the indexes of a materialized view, by name."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT c.relname, i.indisunique, pg_catalog.pg_get_indexdef(c.oid),
                   pg_catalog.quote_ident(c.relname), pg_catalog.quote_ident(n.nspname),
                   pg_catalog.quote_ident(r.relname), i.indisclustered,
                   s.spcname, pg_catalog.obj_description(c.oid, 'pg_class')
              FROM pg_catalog.pg_index i
              JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
              JOIN pg_catalog.pg_class r ON r.oid = i.indrelid
              JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
              LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
             WHERE i.indrelid = %s ORDER BY c.relname"""),
        [oid],
    )
    for name, unique, text, quoted, schema, table, clustered, space, note in rows:
        start = f"CREATE {'UNIQUE ' if unique else ''}INDEX "
        prefix = f"{start}{quoted} ON {schema}.{table}"
        assert text.startswith(prefix), "pg_get_indexdef has changed its form"
        yield CopyIndex(name, (start, text[len(prefix) :]), clustered, space, note)


def _grants(connection: BaseDatabaseWrapper, each: Copy) -> Iterator[sql.Composable]:
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT CASE WHEN x.grantee <> 0 THEN pg_catalog.pg_get_userbyid(x.grantee) END,
                   x.privilege_type, x.is_grantable
              FROM pg_catalog.pg_class c
             CROSS JOIN pg_catalog.aclexplode(c.relacl) AS x
             WHERE c.oid = %s AND x.grantee <> c.relowner"""),
        [each.oid],
    )
    for grantee, privilege, grantable in rows:
        yield sql.SQL("GRANT {} ON {} TO {}{}").format(
            sql.SQL(privilege),
            each.identifier,
            sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee),
            sql.SQL(" WITH GRANT OPTION" if grantable else ""),
        )
