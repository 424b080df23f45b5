"""The form that retunes the backfills, as `backfill --set` does."""

from __future__ import annotations

from typing import Any

from django import forms

from migrations_playbook.backfill.pacing.control import Control

PERCENT = 100


class PaceField(forms.FloatField):
    """A limit; empty leaves each worker's own option in force."""

    def __init__(self, label: str, help_text: str, **bounds: float) -> None:
        super().__init__(
            label=label,
            help_text=help_text,
            required=False,
            # What was shown is sent along, so that a change of somebody else's meanwhile is kept.
            show_hidden_initial=True,
            **bounds,  # type: ignore[arg-type]
        )
        self.widget.attrs |= {"step": "any", "min": "0", "autocomplete": "off"}

    def validate(self, value: Any) -> None:
        """Refuse 0 and less: a backfill that does nothing is paused."""
        super().validate(value)
        if value is not None and value <= 0:
            raise forms.ValidationError("This must be above 0; pause the backfill to stop it.")


class RetuneForm(forms.Form):
    """The pace of every worker on every host."""

    max_added_ms = PaceField(
        "Most added to requests, in ms",
        "By how much the 99th percentile of the site's requests may grow.",
    )
    target_ms = PaceField("Length of a batch, in ms", "How long a batch should take.")
    max_rows_per_second = PaceField(
        "Rows a second", "The most that each process fills in a second."
    )
    duty = PaceField(
        "Share at work, in %", "The share of the time that a worker is at work.", max_value=PERCENT
    )

    @classmethod
    def showing(cls, control: Control, data: Any = None) -> RetuneForm:
        """Build the form with the settings in force."""
        initial = {name: getattr(control, name) for name in cls.base_fields}
        if control.duty is not None:
            initial["duty"] = round(control.duty * PERCENT, 6)
        return cls(data, initial=initial, label_suffix="")

    @property
    def changes(self) -> dict[str, float | None]:
        """The settings that the form changes, as `control.change_control` takes them."""
        changed = {name: self.cleaned_data[name] for name in self.changed_data}
        if changed.get("duty") is not None:
            changed["duty"] /= PERCENT
        return changed
