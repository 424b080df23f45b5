"""What goes with the other type, tried before anything is prepared.

Over empty scratch copies of the table, whose columns are exchanged, each view is made as a
temporary view, and all else that reads the columns or the views is said again (`attempts`). A
temporary relation comes before any other of its name, so the texts mean the copies. All is rolled
back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.names import Named
from migrations_playbook.postgres.query import (
    execute,
    fetch_all,
    fetch_value,
    set_local,
    taken_back,
)
from migrations_playbook.swap.dependents.base import without_semicolon
from migrations_playbook.swap.dependents.definitions.attempts import Attempt, read_attempts
from migrations_playbook.swap.dependents.definitions.chains import Chain, View, read_readers
from migrations_playbook.swap.dependents.definitions.restate import copy_empty, find_failure
from migrations_playbook.swap.pair import Object, Pair


@dataclass(frozen=True)
class Place(Named):
    """A relation whose place a scratch copy takes."""

    oid: int
    schema: str
    name: str


def read_chain(connection: BaseDatabaseWrapper, pair: Pair, *, may_try: bool) -> Chain:
    """Tell which views have to be made again for the other column's type, and what fails with it.

    A view above such a view goes with it. Without a trial every reading view counts.

    Lock: ACCESS SHARE on the table, and on other tables whose policies or rules read it (CREATE
    TABLE LIKE).

    Arguments:
        connection: in a transaction with a pinned search_path.
        may_try: whether there may be scratch tables.
    """
    if not pair.changes_type:
        return Chain()
    views = read_readers(connection, pair)
    changed: set[int] = {each.oid for each in views}
    failures: dict[Object, str] = {}
    if may_try:
        with taken_back(connection):
            changed, failures = _try_all(connection, pair, views)
    for each in views:
        if changed & set(each.reads):
            changed.add(each.oid)
    return Chain(tuple(each for each in views if each.oid in changed), failures)


def _try_all(
    connection: BaseDatabaseWrapper, pair: Pair, views: list[View]
) -> tuple[set[int], dict[Object, str]]:
    """Try everything; tell which views have other types, and what fails and why."""
    oids = [each.oid for each in views]
    attempts = read_attempts(connection, pair, oids)
    read = {oid for view in views for oid in view.reads}
    read |= {oid for each in attempts for oid in each.reads}
    bases = [each for each in pair.relations if each.table.oid in read]
    staged = [*(each.table.oid for each in bases), *oids]
    places = _look_up(connection, [*staged, *(each.relation for each in attempts)])
    if not places.keys() >= {*staged}:
        return {*oids}, {}
    # Read again, for the names are written by the search_path.
    attempts, queries = read_attempts(connection, pair, oids), _read_queries(connection, oids)
    for each in bases:
        _make_copy(connection, each)
    others = {each.relation for each in attempts} & places.keys() - {*staged}
    copied = {oid for oid in others if _copy_other(connection, places[oid]) is None}
    path = fetch_value(connection, sql.SQL("SELECT pg_catalog.current_setting('search_path')"))
    set_local(connection, "search_path", f"pg_temp, {path}")
    changed, failures = _try_views(connection, views, queries)
    copied |= {oid for oid in staged if ("pg_class", oid) not in failures} - changed
    return changed | _with_other_types(connection, views), failures | _try_others(
        connection, attempts, {oid: places[oid] for oid in copied}
    )


def _look_up(connection: BaseDatabaseWrapper, oids: Iterable[int]) -> dict[int, Place]:
    """Let texts name the relations without a schema, and return those for which that is possible.

    Two relations of one name in two schemas cannot both be told apart so.
    """
    found = [
        Place(*row)
        for row in fetch_all(
            connection,
            sql.SQL("""
                SELECT c.oid, n.nspname, c.relname
                  FROM unnest(%s::oid[]) WITH ORDINALITY AS relation (oid, nth)
                  JOIN pg_catalog.pg_class c ON c.oid = relation.oid
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 ORDER BY nth"""),
            [list(oids)],
        )
    ]
    path = fetch_value(connection, sql.SQL("SELECT pg_catalog.current_setting('search_path')"))
    schemas = dict.fromkeys(sql.Identifier(each.schema).as_string(None) for each in found)
    set_local(connection, "search_path", ", ".join([*schemas, str(path)]))
    visible = fetch_all(
        connection,
        sql.SQL("""
            SELECT oid FROM unnest(%s::oid[]) AS relation (oid)
             WHERE pg_catalog.pg_table_is_visible(oid)"""),
        [[each.oid for each in found]],
    )
    return {each.oid: each for each in found if (each.oid,) in visible}


def _read_queries(connection: BaseDatabaseWrapper, oids: list[int]) -> dict[int, str]:
    rows = fetch_all(
        connection,
        sql.SQL("SELECT oid, pg_catalog.pg_get_viewdef(oid) FROM unnest(%s::oid[]) AS v (oid)"),
        [oids],
    )
    return {oid: without_semicolon(text) for oid, text in rows}


def _make_copy(connection: BaseDatabaseWrapper, pair: Pair) -> None:
    """Make a scratch table, whose columns are exchanged."""
    name = pair.table.name
    execute(connection, copy_empty(name, pair.identifier))
    # A view that groups by the primary key alone may show all columns, and hangs on the key.
    key = sql.SQL(", ").join(map(sql.Identifier, pair.replacement.key))
    find_failure(
        connection,
        sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(sql.Identifier("pg_temp", name), key),
    )
    for step in pair.rename_steps(sql.Identifier("pg_temp", name)):
        execute(connection, step.statement)


def _copy_other(connection: BaseDatabaseWrapper, place: Place) -> str | None:
    """Make a copy of another table, with a policy or a rule; say why this may not be."""
    return find_failure(connection, copy_empty(place.name, place.identifier))


def _try_views(
    connection: BaseDatabaseWrapper, views: list[View], queries: dict[int, str]
) -> tuple[set[int], dict[Object, str]]:
    """Make the views; tell which cannot be tried, and which fail and why."""
    untried: set[int] = set()
    failures: dict[Object, str] = {}
    for view in views:
        failure = find_failure(
            connection,
            sql.SQL("CREATE TEMPORARY VIEW {} AS {}").format(
                sql.Identifier(view.name), sql.SQL(queries[view.oid])
            ),
        )
        if failure is not None and view.whole_row:
            untried.add(view.oid)
        elif failure is not None:
            failures["pg_class", view.oid] = failure
    return untried, failures


def _try_others(
    connection: BaseDatabaseWrapper, attempts: list[Attempt], copied: dict[int, Place]
) -> dict[Object, str]:
    """Say the other texts again; tell which fail and why.

    Arguments:
        copied: the relations with a scratch copy. Without one a rule, say, would be the relation's.
    """
    failures: dict[Object, str] = {}
    for each in attempts:
        if each.relation and each.relation not in copied:
            continue
        on = copied[each.relation].name if each.relation else ""
        with taken_back(connection):
            failure = find_failure(connection, each.compose(on), each.expected)
        if failure is not None and not each.whole_row:
            failures[each.object] = failure
    return failures


def _with_other_types(connection: BaseDatabaseWrapper, views: list[View]) -> set[int]:
    """Find the views whose temporary counterparts have a column of another type or collation."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT DISTINCT view.oid
              FROM unnest(%s::oid[], %s::text[]) AS view (oid, name)
              JOIN pg_catalog.pg_class c
                ON c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relname = view.name
              JOIN pg_catalog.pg_attribute was ON was.attrelid = view.oid
              JOIN pg_catalog.pg_attribute now
                ON now.attrelid = c.oid AND now.attnum = was.attnum
             WHERE (was.atttypid, was.atttypmod, was.attcollation)
                   IS DISTINCT FROM (now.atttypid, now.atttypmod, now.attcollation)"""),
        [[each.oid for each in views], [each.name for each in views]],
    )
    return {oid for (oid,) in rows}
