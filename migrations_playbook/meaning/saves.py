"""An object of a model with a conversion may be saved twice.

A save() writes every field. An object whose live value has been changed and saved still has the
shadow's value of before, because the database has made the new one. The next save() of the same
object would write that, and look like a change of the shadow: the live column would follow, and
the first change would be gone. So before such a save() the object reads anew what it has not
changed since. An object that has changed neither column is saved as ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.db import models
from django.db.models.signals import post_init, post_save, pre_save

# The attribute of an object's state that has what is remembered, for each pair of fields.
REMEMBERED = "migrations_playbook"


class SavedPair:
    """The two fields of a conversion, in the objects of its model.

    Arguments:
        live: the live field's name.
        shadow: the shadow field's name.
    """

    def __init__(self, live: str, shadow: str) -> None:
        self.live, self.shadow = live, shadow

    def follow(self, models_of_it: Iterable[type[models.Model]]) -> None:
        """Follow the objects of a model, its proxies and its children from now on."""
        for model in models_of_it:
            for signal, receiver in (
                (post_init, self.begin),
                (pre_save, self.renew),
                (post_save, self.conclude),
            ):
                identity = (REMEMBERED, self.live, self.shadow)
                signal.connect(receiver, sender=model, weak=False, dispatch_uid=identity)

    def begin(self, instance: models.Model, **_: Any) -> None:
        """Remember the values of an object that has been loaded, or made."""
        self._remember(instance, self._read(instance), outdated=False)

    def renew(self, instance: models.Model, *, using: str, raw: bool, **_: Any) -> None:
        """Read anew, before a save(), what the object has not changed since the last one."""
        before, outdated = self._recall(instance)
        if not outdated or raw or instance._state.adding:
            return
        now = self._read(instance)
        same = [name for name, value in now.items() if name in before and before[name] == value]
        try:
            instance.refresh_from_db(using=using, fields=same)
        except ObjectDoesNotExist:
            return  # this save() inserts it again
        now = self._read(instance)
        self._remember(instance, before | {name: now[name] for name in same}, outdated=True)

    def conclude(self, instance: models.Model, *, created: bool, **_: Any) -> None:
        """Remember, after a save(), the values, and whether the database has changed one."""
        before, _outdated = self._recall(instance)
        now = self._read(instance)
        # A new row without a shadow value is no danger: null in the shadow alone is no change.
        given = now.get(self.live) is None or now.get(self.shadow) is not None
        self._remember(instance, now, outdated=given if created else now != before)

    def _read(self, instance: models.Model) -> dict[str, Any]:
        """Read the two values; without a deferred one, and without an expression."""
        found = {name: vars(instance).get(name, self) for name in (self.live, self.shadow)}
        return {
            name: value
            for name, value in found.items()
            if value is not self and not hasattr(value, "resolve_expression")
        }

    def _remember(self, instance: models.Model, values: dict[str, Any], *, outdated: bool) -> None:
        # A dictionary of its own: a copy of the object shares the old one.
        state = vars(instance._state)
        pair = {(self.live, self.shadow): (values, outdated)}
        state[REMEMBERED] = state.get(REMEMBERED, {}) | pair

    def _recall(self, instance: models.Model) -> tuple[dict[str, Any], bool]:
        remembered = vars(instance._state).get(REMEMBERED, {})
        found: tuple[dict[str, Any], bool] = remembered.get((self.live, self.shadow), ({}, False))
        return found
