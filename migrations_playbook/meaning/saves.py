"""An object of a model with a conversion may be saved twice.

A save() writes every field. An object whose live value has been changed and saved still has the
shadow's value of before, because the database has made the new one. The next save() of the same
object would write that, and look like a change of the shadow: the live column would follow, and
the first change would be gone. So before such a save() the object reads anew what the database has
made, unless the object has changed it since.

What the object wrote itself is never read anew: the transaction may have been rolled back, and the
object is saved once more to try again. An object that has changed neither column is saved as ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from copy import deepcopy
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.db import models
from django.db.models.signals import post_init, post_save, pre_save

# Of a field that an object has not loaded.
DEFERRED = models.NOT_PROVIDED
# What a JSONField or an ArrayField has may be changed in place.
CHANGEABLE = (dict, list)


class SavedPair:
    """The two fields of a conversion, in the objects of its model.

    An object's state remembers the two values of its last load or save(), and the fields that the
    database may have made since. The pair's `key` is its name there, and its receivers' in Django's
    signals.

    Arguments:
        live: the live field's name.
        shadow: the shadow field's name.
    """

    def __init__(self, live: str, shadow: str) -> None:
        self.names = live, shadow
        self.key = f"migrations_playbook: {live}, {shadow}"

    def follow(self, models_of_it: Iterable[type[models.Model]]) -> None:
        """Follow the objects of a model, its proxies and its children from now on."""
        for model in models_of_it:
            options: Any = {"sender": model, "weak": False, "dispatch_uid": self.key}
            post_init.connect(self.begin, **options)
            pre_save.connect(self.renew, **options)
            post_save.connect(self.conclude, **options)

    def begin(self, instance: models.Model, **_: Any) -> None:
        """Remember the values of an object that has been loaded, or made."""
        vars(instance._state)[self.key] = *self._read(instance), ()

    def renew(
        self,
        instance: models.Model,
        *,
        using: str,
        raw: bool,
        update_fields: Collection[str] | None,
        **_: Any,
    ) -> None:
        """Read anew, before a save() that writes it, what the database has made."""
        *before, made = self._recall(instance)
        if not made or raw or instance._state.adding:
            return
        due = [
            name
            for name, value, old in zip(self.names, self._read(instance), before, strict=True)
            if name in made
            and (update_fields is None or name in update_fields)
            and value is not DEFERRED
            and value == old
            and not hasattr(value, "resolve_expression")
        ]
        if not due:
            return
        try:
            instance.refresh_from_db(using=using, fields=due)
        except ObjectDoesNotExist:
            return  # this save() inserts it again
        known = [
            value if name in due else old
            for name, value, old in zip(self.names, self._read(instance), before, strict=True)
        ]
        left = tuple(name for name in made if name not in due)
        vars(instance._state)[self.key] = *known, left

    def conclude(
        self,
        instance: models.Model,
        *,
        created: bool,
        update_fields: Collection[str] | None,
        **_: Any,
    ) -> None:
        """Remember, after a save(), the values that it wrote, and what the database may have made.

        Of a change of both, as of the live one alone, the live column stays as it was written.
        """
        live, shadow = self.names
        *before, made = self._recall(instance)
        now = [
            value if update_fields is None or name in update_fields else old
            for name, value, old in zip(self.names, self._read(instance), before, strict=True)
        ]
        if created:
            # Without a shadow value: null in the shadow alone is no change, and so no danger.
            made = self.names if now[0] is None or now[1] is not None else ()
        elif now[0] != before[0]:
            made = (shadow,)
        elif now[1] != before[1]:
            made = (live,)
        vars(instance._state)[self.key] = *now, made

    def _read(self, instance: models.Model) -> tuple[Any, Any]:
        live, shadow = self.names
        values = instance.__dict__
        found = values.get(live, DEFERRED), values.get(shadow, DEFERRED)
        if isinstance(found[0], CHANGEABLE) or isinstance(found[1], CHANGEABLE):
            return deepcopy(found)
        return found

    def _recall(self, instance: models.Model) -> tuple[Any, Any, tuple[str, ...]]:
        found: tuple[Any, Any, tuple[str, ...]] = vars(instance._state).get(
            self.key, (DEFERRED, DEFERRED, ())
        )
        return found
