"""Which rows of a rotation have not the values that are declared: conditions, as SQL."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.postgres.query import pin_search_path
from migrations_playbook.swap.dependents.base import Key
from migrations_playbook.swap.dependents.inventory import Inventory
from migrations_playbook.swap.pair import Member, Pair


def pin_declared_path(connection: BaseDatabaseWrapper, pair: Pair) -> None:
    """Look the names of the declared expressions up as the triggers do, until the commit.

    The operators of the columns' types are found before.
    """
    pin_search_path(connection, *pair.type_schemas, "public")


def is_unchanged(member: Member) -> sql.Composable:
    """Compose the condition that a row has the same value in both columns."""
    return sql.SQL("{} = {}").format(member.live.identifier, member.shadow.identifier)


def is_written_since(pair: Pair, member: Member) -> sql.Composable:
    """Compose the condition that the site has written a row's value since an exchange.

    What is made of other values is written with those.
    """
    kin = (each for each in pair.kin_of(member) if not each.replacement.meaning.sources)
    return sql.SQL(" OR ").join(map(is_unchanged, (member, *kin)))


def same_beside(key: Key) -> sql.Composable:
    """Compose what else two rows `a` and `b` with one value need, to break a key: or nothing."""
    return sql.SQL("").join(
        sql.SQL(" AND b.{column} = a.{column}").format(column=sql.Identifier(column))
        for column in key.columns
    )


def not_rotated(inventory: Inventory, member: Member, *, exchanged: bool) -> sql.Composable:
    """Compose the condition that an exchange would not give a row the value that is declared.

    A drawn value is the live one. (After a revert such a row was written while swapped, and its
    value has not leaked.) What is made of other values is not made of the row's own: a prefix may
    be the same as the live one. The site has written its values since an exchange as it likes.

    For a statement with parameters.
    """
    if not member.replacement.meaning.sources:
        return is_unchanged(member)
    astray = member.replacement.rotation.is_astray("shadow")
    if not exchanged:
        return astray
    return sql.SQL("({}) AND ({}) IS NOT TRUE").format(
        astray, is_written_since(inventory.pair, member)
    )
