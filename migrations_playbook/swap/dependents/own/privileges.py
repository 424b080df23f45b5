"""Column privileges: the application's role would be told "permission denied" without them.

They belong to the attribute number, and are exchanged by name; in each partition separately.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.names import plain_name
from migrations_playbook.postgres.query import fetch_all, fetch_value, server_version
from migrations_playbook.postgres.roles import current_role
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.swap.dependents.base import Dependent, DependentKind, Steps
from migrations_playbook.swap.dependents.definitions.reading import Reading
from migrations_playbook.swap.pair import COLUMNS, Member, Pair

# The first server version that tells the right to SET ROLE from membership.
SET_OPTION = 160000


@dataclass(frozen=True)
class Grant:
    """A privilege on a column.

    Arguments:
        grantee: the role, or None for PUBLIC.
    """

    grantor: str
    grantee: str | None
    privilege: str
    grantable: bool

    def role(self) -> sql.Composable:
        """The grantee as GRANT names the role."""
        return sql.SQL("PUBLIC") if self.grantee is None else sql.Identifier(self.grantee)


def read_privileges(reading: Reading) -> Iterator[Dependent]:
    """Yield the privileges on the columns, relation by relation. Lock: none on the table."""
    granted = read_grants(reading.connection, reading.pair)
    for pair in reading.pair.relations:
        for member in pair.members:
            yield from _of_member(reading.connection, pair, member, granted)


def read_grants(connection: BaseDatabaseWrapper, pair: Pair) -> dict[tuple[int, str], list[Grant]]:
    """Read the columns' privileges by relation and name, in the order of their grants."""
    rows = fetch_all(
        connection,
        sql.SQL("""
            SELECT col.relation, col.name, pg_catalog.pg_get_userbyid(x.grantor),
                   CASE WHEN x.grantee <> 0 THEN pg_catalog.pg_get_userbyid(x.grantee) END,
                   x.privilege_type, x.is_grantable
              FROM {columns}
              JOIN pg_catalog.pg_attribute a
                ON a.attrelid = col.relation AND a.attnum = col.number
             CROSS JOIN pg_catalog.aclexplode(a.attacl)
                        WITH ORDINALITY AS x (grantor, grantee, privilege_type, is_grantable, nth)
             ORDER BY x.nth""").format(columns=COLUMNS),
        pair.columns,
    )
    found: dict[tuple[int, str], list[Grant]] = {}
    for relation, name, *rest in rows:
        found.setdefault((relation, name), []).append(Grant(*rest))
    return found


def _of_member(
    connection: BaseDatabaseWrapper,
    pair: Pair,
    member: Member,
    granted: dict[tuple[int, str], list[Grant]],
) -> Iterator[Dependent]:
    """Yield the grants to repeat.

    A role with a grant option may have granted on; its grants are made in its name again, in the
    order of the first ones.
    """
    both = (member.live.name, member.shadow.name)
    live, shadow = (granted.get((pair.table.oid, name), []) for name in both)
    if live == shadow:
        return
    columns = frozenset({member.live.name})
    owner = pair.table.owner
    barred = find_barred(connection, owner, live + shadow)
    what = f"column privileges on {pair.labelled(member.live.name)}"
    if barred is not None:
        yield Dependent("privileges", what, "by grant option", columns, refused=barred)
        return
    me = current_role(connection)
    steps: list[Step] = []
    for column, had in zip(both, (shadow, live), strict=True):
        # Under its new name a column still has the privileges of its old name.
        steps += _revoke(pair, column, [each for each in had if each.grantor == owner])
    for column, has in zip(both, (live, shadow), strict=True):
        steps += grant_steps(pair.identifier, owner, column, has, me)
    yield Dependent(
        "privileges",
        what,
        f"of {_grantees(live + shadow)}",
        columns,
        steps=Steps(after_rename=tuple(steps)),
    )


def find_barred(connection: BaseDatabaseWrapper, owner: str, granted: list[Grant]) -> str | None:
    """Build the refusal for privileges that somebody else has granted on; None without any.

    Arguments:
        owner: the relation's owner.
        granted: the privileges to be granted again.
    """
    grantors = dict.fromkeys(each.grantor for each in granted if each.grantor != owner)
    barred = [role for role in grantors if not _may_become(connection, role)]
    if not barred:
        return None
    names = ", ".join(sql.Identifier(role).as_string(None) for role in barred)
    return f"they were granted on by others: run GRANT {names} TO {current_role(connection)}"


def _revoke(pair: Pair, column: str, had: list[Grant]) -> Iterator[Step]:
    for grantee in {each.grantee: each for each in had}.values():
        yield Step(
            f"Take the privileges on {column} back",
            sql.SQL("REVOKE ALL ({}) ON {} FROM {} CASCADE").format(
                sql.Identifier(column), pair.identifier, grantee.role()
            ),
            Lock.NONE,
        )


def grant_steps(
    relation: sql.Identifier, owner: str, column: str | None, has: list[Grant], me: str
) -> Iterator[Step]:
    """Yield the grants of a relation or of a column of it, each in its grantor's name.

    Lock: none.

    Arguments:
        owner: the relation's owner.
        column: the column; None for the relation.
        has: the privileges.
        me: the current role, quoted.
    """
    on = sql.SQL("" if column is None else " ({})").format(
        *map(sql.Identifier, filter(None, [column]))
    )
    for each in has:
        other = each.grantor != owner
        if other:
            yield Step(
                f"As {each.grantor}",
                sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(each.grantor)),
                Lock.NONE,
            )
        yield Step(
            f"Grant {each.privilege} on {column or plain_name(relation)} again",
            sql.SQL("GRANT {}{} ON {} TO {}{}").format(
                sql.SQL(each.privilege),
                on,
                relation,
                each.role(),
                sql.SQL(" WITH GRANT OPTION" if each.grantable else ""),
            ),
            Lock.NONE,
        )
        if other:
            yield Step("As before", sql.SQL("SET LOCAL ROLE {}").format(sql.SQL(me)), Lock.NONE)


def _grantees(granted: list[Grant]) -> str:
    return ", ".join(sorted({each.grantee or "PUBLIC" for each in granted}))


def _may_become(connection: BaseDatabaseWrapper, role: str) -> bool:
    right = "SET" if server_version(connection) >= SET_OPTION else "MEMBER"
    return bool(
        fetch_value(
            connection, sql.SQL("SELECT pg_catalog.pg_has_role(%s::name, %s)"), [role, right]
        )
    )


# A GRANT on a column changes its row in pg_attribute, whose stamp every fingerprint has.
KIND = DependentKind(read_privileges)
