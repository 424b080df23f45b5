"""Refuses an expand that changes who is in a group, where a column would be left behind."""

from __future__ import annotations

from collections.abc import Iterable

from migrations_playbook.errors import Refused
from migrations_playbook.meaning.installed import Installed
from migrations_playbook.postgres.tables import Table
from migrations_playbook.replacement import Replacement


def refuse_leaving(replacement: Replacement, table: Table, pairs: Iterable[Installed]) -> None:
    """Refuse triggers that would fill a group without a member that the installed ones fill.

    The column of the member would stay: neither exchanged with the others, nor dropped with them.

    Arguments:
        pairs: what the table's triggers are bound to; see `read_installed`.

    Raises:
        Refused: names the member.
    """
    for each in pairs:
        left = ", ".join(sorted(each.filled - {*replacement.shadows}))
        if each.shadow in replacement.shadows and left:
            raise Refused(
                f"{left} of {table} is filled together with {replacement.shadow}, and would be "
                "left behind; nothing was changed. Write its Shadow into the Group again and "
                'delete this migration, then run "manage.py migrate" again.'
            )


def refuse_joining(replacement: Replacement, table: Table, pairs: Iterable[Installed]) -> None:
    """Refuse triggers that would fill one more member of a group whose columns are exchanged.

    A revert exchanges all members back: the late one's live column would get its shadow's values.

    Arguments:
        pairs: what the table's triggers are bound to; see `read_installed`.

    Raises:
        Refused: names the member, and the way back.
    """
    for each in pairs:
        old = [member for member in replacement.group if member.shadow in each.filled]
        late = ", ".join(member.shadow for member in replacement.group if member not in old)
        if late and any(table.has_exchanged(member.live, member.shadow) for member in old):
            revert = old[0].command("swap", "--revert")
            raise Refused(
                f"{replacement.label} is swapped, and {late} would not be exchanged with "
                f"{old[0].shadow} any more; nothing was changed. Take its Shadow out of the Group "
                f'and delete this migration; once "{revert}" has run, it may be written again.'
            )
