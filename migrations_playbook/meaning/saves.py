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

# Of a field that an object has not loaded.
DEFERRED = models.NOT_PROVIDED


class SavedPair:
    """The two fields of a conversion, in the objects of its model.

    An object's state remembers the two values of its last load or save(), and whether the database
    may have changed one of them since.

    Arguments:
        live: the live field's name.
        shadow: the shadow field's name.
    """

    def __init__(self, live: str, shadow: str) -> None:
        self.names = live, shadow
        self._key = f"migrations_playbook: {live}, {shadow}"

    def follow(self, models_of_it: Iterable[type[models.Model]]) -> None:
        """Follow the objects of a model, its proxies and its children from now on."""
        for model in models_of_it:
            for signal, receiver in self._receivers:
                signal.connect(receiver, sender=model, weak=False, dispatch_uid=self._key)

    def leave(self, model: type[models.Model]) -> None:
        """Follow the objects of a model no more."""
        for signal, _ in self._receivers:
            signal.disconnect(sender=model, dispatch_uid=self._key)

    @property
    def _receivers(self) -> tuple[tuple[Any, Any], ...]:
        return (post_init, self.begin), (pre_save, self.renew), (post_save, self.conclude)

    def begin(self, instance: models.Model, **_: Any) -> None:
        """Remember the values of an object that has been loaded, or made."""
        vars(instance._state)[self._key] = *self._read(instance), False

    def renew(self, instance: models.Model, *, using: str, raw: bool, **_: Any) -> None:
        """Read anew, before a save(), what the object has not changed since the last one."""
        *before, outdated = self._recall(instance)
        if not outdated or raw or instance._state.adding:
            return
        now = self._read(instance)
        same = [
            name
            for name, value, old in zip(self.names, now, before, strict=True)
            if value is not DEFERRED and value == old and not hasattr(value, "resolve_expression")
        ]
        try:
            instance.refresh_from_db(using=using, fields=same)
        except ObjectDoesNotExist:
            return  # this save() inserts it again
        for position, name in enumerate(self.names):
            if name in same:
                before[position] = vars(instance)[name]
        vars(instance._state)[self._key] = *before, outdated

    def conclude(self, instance: models.Model, *, created: bool, **_: Any) -> None:
        """Remember, after a save(), the values, and whether the database has changed one."""
        *before, _outdated = self._recall(instance)
        live, shadow = now = self._read(instance)
        # A new row without a shadow value is no danger: null in the shadow alone is no change.
        outdated = live is None or shadow is not None if created else [*now] != before
        vars(instance._state)[self._key] = *now, outdated

    def _read(self, instance: models.Model) -> tuple[Any, Any]:
        live, shadow = self.names
        values = instance.__dict__
        return values.get(live, DEFERRED), values.get(shadow, DEFERRED)

    def _recall(self, instance: models.Model) -> tuple[Any, Any, bool]:
        found: tuple[Any, Any, bool] = vars(instance._state).get(
            self._key, (DEFERRED, DEFERRED, False)
        )
        return found
