"""Checks of a `Group`: what cannot be filled and exchanged as one, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from django.core.checks import CheckMessage, Error
from django.db import models
from django.db.models.expressions import OuterRef, Subquery, Window

from migrations_playbook.expand.checks.conversions import find_restless
from migrations_playbook.expand.checks.values import find_misfit, say_unwritten
from migrations_playbook.meaning.expressions import flatten, read_references
from migrations_playbook.meaning.grouped import GroupedRotation
from migrations_playbook.shadow import Shadow

Model = type[models.Model]
# The number of a check, the rest of its sentence, and its hint.
Problem = tuple[int, str, str]


def check_group(model: Model, shadow: Shadow) -> Iterator[CheckMessage]:
    """Yield the faults of a group, with its first member; and of a member, the first fault."""
    members = shadow.members
    found = list(_find_faults(members)) if shadow is members[0] else []
    if not shadow.converts and follows(shadow):
        found += islice(_find_misuse(model, shadow), 1)
    for number, message, hint in found:
        yield Error(message, hint=hint, obj=model, id=f"playbook.E{number:03}")


def follows(shadow: Shadow) -> bool:
    """Tell whether a member's value refers to columns, so that it is made and not drawn."""
    return shadow.group is not None and bool(read_references(shadow.value))


def _find_faults(members: tuple[Shadow, ...]) -> Iterator[Problem]:
    """Yield what is wrong with the members together."""
    if len(members) == 1:
        says = f"Group: {members[0].shadow} is its only member: there is nothing to play with it."
        yield 50, says, "Write the Shadow without the Group, or the other Shadow into it."
    for each in members:
        if each.converts:
            says = f"Group: {each.shadow} is a conversion, which triggers of its own keep in step."
            yield 51, says, "Write it beside the group: triggers = [Group(...), Shadow(...)]."
    names = Counter(name for each in members for name in {each.live, each.shadow})
    for name in (name for name, times in names.items() if times > 1):
        yield 52, f"Group: {name} is in two of its members.", "Name another field in one of them."


def _find_misuse(model: Model, shadow: Shadow) -> Iterator[Problem]:
    """Yield what is wrong with a value that is made of other members' shadows."""
    value, members = f"Group: the value of {shadow.shadow}", shadow.members
    earlier = [each.shadow for each in members[: members.index(shadow)]]
    write = f"Let it refer to {' or '.join(earlier)}" if earlier else "Write a value that draws"
    parts = list(flatten(shadow.value))
    if any(isinstance(each, Subquery | Window | OuterRef | models.Aggregate) for each in parts):
        says = f"{value} looks at other rows (a subquery, an aggregate, a window)."
        yield 53, says, f"{write} alone."
    for name in sorted(read_references(shadow.value) - set(earlier)):
        yield 53, f"{value} refers to {_say_reference(shadow, name)}.", f"{write} alone."
    fields = {each.name: each for each in model._meta.fields}
    if not {name for each in members for name in (each.live, each.shadow)} <= fields.keys():
        return  # a check of the fields says so
    member = GroupedRotation(model, shadow)
    try:
        text = member.made_of("NEW.")
    except Exception as error:  # an expression of anybody's, whose as_sql() may raise anything
        yield 14, f"{value} {say_unwritten(error)}", f"{write}."
        return
    if "$$" in text:
        yield 14, f"{value} has $$ in it, which would end a trigger's function.", f"{write}."
    restless = ", ".join(sorted(find_restless(text)))
    if restless:
        says = f"{value} calls {restless}, which makes another value each time."
        yield 54, says, "Draw in a member of its own, and refer to its shadow."
    misfit = find_misfit(fields[shadow.live], shadow.value, member.made)
    if misfit is not None:
        yield 15, f"{value} {misfit}", f"{write}, by an expression that fits."
    for each in member.lineage:
        live, source = fields[shadow.live], fields[each.declaration.live]
        if source.null and not live.null:
            says = f"Group: {live.name} may not be null, and {source.name}, its source, may."
            yield 55, says, f"Let {live.name} be null too, or {source.name} not."


def _say_reference(shadow: Shadow, name: str) -> str:
    """Say what a field is to which a value may not refer."""
    members = shadow.members
    if name == shadow.shadow:
        return "itself"
    if name in {each.shadow for each in members}:
        return f"{name}, which stands behind it in the group"
    if name in {each.live for each in members}:
        return f"{name}, which has the values of before"
    return f"{name}, which is no shadow of the group"
