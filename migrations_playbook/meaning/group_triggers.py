"""The triggers of a group: one to fill and one to keep, for all members.

PostgreSQL fires triggers in the order of their names, so one function writes the members in the
order of the group. The duties are those that `rotation` tells, for each member. Of a follower:

- It is made again where a source has changed or where it has no value, and kept otherwise.
- Where its value is equal to the live one, its sources are drawn again.
- It may be no secret by itself (a prefix), so that the values of two rows, or the old value and the
  new, are the same. So only a member that draws tells that a save is stale, which then changes no
  live column of what is drawn and made together.

The function's first line is the declaration: see `base.DECLARED`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pgtrigger

from migrations_playbook.meaning.grouped import GroupedRotation, describe_group, list_members
from migrations_playbook.meaning.rotation import (
    CONCERNS,
    HAS_EITHER,
    IS_STALE,
    FillTrigger,
    KeepTrigger,
)
from migrations_playbook.quarantine.base import MOVED, mark_row

FILL = """-- migrations_playbook: {declared}
IF {arrives} THEN
    {empty}
    FOR draw IN 1..100 LOOP
        {draws}
        EXIT WHEN ({clashes}) IS NOT TRUE;
    END LOOP;
END IF;
RETURN NEW;"""

KEEP = """-- migrations_playbook: {declared}
{stale}
FOR draw IN 1..100 LOOP
    {draws}
    EXIT WHEN ({clashes}) IS NOT TRUE;
END LOOP;
RETURN NEW;"""


class GroupFillTrigger(FillTrigger):
    """The trigger that fills each new row of a group."""

    def get_condition(self, model: Any) -> pgtrigger.Condition:
        """Return the WHEN: the row has a live value, or a shadow."""
        return pgtrigger.Condition(
            " OR ".join(
                HAS_EITHER.format(**each.names) for each in list_members(model, self.declaration)
            )
        )

    def get_func(self, model: Any) -> str:
        """Return the body: draw, unless the row comes from another partition."""
        members = list_members(model, self.declaration)
        shadows = ["NEW.{shadow}".format(**each.names) for each in members]
        arrives = (
            f"num_nonnulls({', '.join(shadows)}) = 0 OR current_setting('{MOVED}', true) "
            f"IS DISTINCT FROM {mark_row(', '.join(shadows))}"
        )
        return FILL.format(
            declared=json.dumps(describe_group(model, self.declaration)),
            arrives=arrives,
            empty=" ".join("NEW.{shadow} := NULL;".format(**each.names) for each in members),
            draws="\n        ".join(
                f"IF {_has_value(each)} THEN {_set_value(each)} END IF;" for each in members
            ),
            clashes=_write_clashes(members),
        )


class GroupKeepTrigger(KeepTrigger):
    """The trigger that keeps the filled shadows of a group, and fills empty ones."""

    def get_condition(self, model: Any) -> pgtrigger.Condition:
        """Return the WHEN: a change of a shadow, a row to fill, or a stale save."""
        return pgtrigger.Condition(
            " OR ".join(_concerns(each) for each in list_members(model, self.declaration))
        )

    def get_func(self, model: Any) -> str:
        """Return the body: keep the shadows, or draw."""
        members = list_members(model, self.declaration)
        return KEEP.format(
            declared=json.dumps(describe_group(model, self.declaration)),
            stale="\n".join(map(_restore, dict.fromkeys(each.kin for each in members))),
            draws="\n    ".join(map(_keep_value, members)),
            clashes=_write_clashes(members, "OLD.{shadow} IS NULL"),
        )


def _restore(kin: Iterable[GroupedRotation]) -> str:
    """Write the statement to keep the live values where a save is stale: of all drawn together."""
    return "IF {stale} THEN {kept} END IF;".format(
        stale=" OR ".join(IS_STALE.format(**each.names) for each in kin if not each.sources),
        kept=" ".join("NEW.{live} := OLD.{live};".format(**each.names) for each in kin),
    )


def _has_value(member: GroupedRotation) -> str:
    """Write the condition that the new row has a value of a member."""
    sourced = ("NEW.{shadow} IS NOT NULL".format(**each.names) for each in member.sources)
    return " AND ".join((member.names["has_live"], *sourced))


def _set_value(member: GroupedRotation) -> str:
    """Write the statement to draw a member's value, or to make it of its sources'."""
    value = member.made_of("NEW.") if member.sources else member.value_text
    return "NEW.{shadow} := {value};".format(value=value, **member.names)


def _keep_value(member: GroupedRotation) -> str:
    """Write the statements to keep a member's value where it may stay, or to set it."""
    kept = "".join(
        " AND NEW.{shadow} IS NOT DISTINCT FROM OLD.{shadow}".format(**each.names)
        for each in member.sources
    )
    return (
        "IF NOT ({has_value}) THEN NEW.{shadow} := NULL; "
        "ELSIF OLD.{shadow} IS NOT NULL{kept} THEN NEW.{shadow} := OLD.{shadow}; "
        "ELSE {set_value} END IF;"
    ).format(has_value=_has_value(member), kept=kept, set_value=_set_value(member), **member.names)


def _concerns(member: GroupedRotation) -> str:
    """Write the condition that an UPDATE concerns a member.

    PostgreSQL reads the condition anew for each statement, so its length costs a single-row UPDATE.
    A batch makes a follower as the trigger would, so the trigger is called for no row of it.
    """
    names = member.names
    if not member.sources:
        return CONCERNS.format(**names)
    differs = "NEW.{shadow} IS DISTINCT FROM coalesce(OLD.{shadow}, {made}){collation}".format(
        made=member.made_of("NEW."), collation=member.collation, **names
    )
    # Where all must have a value, the sources tell that one is lacking.
    certain = all(each.names["has_live"] == "true" for each in member.lineage)
    lacks = f"(NEW.{names['shadow']} IS NOT NULL) <> ({_has_value(member)})"
    return differs if certain else f"{differs} OR {lacks}"


def _write_clashes(members: Iterable[GroupedRotation], drawn: str = "true") -> str:
    """Write the condition that a value just drawn is the live one.

    Arguments:
        drawn: the condition that a member has drawn.
    """
    clashes = []
    for each in members:
        roots = [root for root in each.lineage if not root.sources]
        anew = " OR ".join(drawn.format(**root.names) for root in roots)
        clashes.append("({anew}) AND NEW.{shadow} = NEW.{live}".format(anew=anew, **each.names))
    return " OR ".join(clashes)
