"""What must be in a table of a conversion, told by Python alone: no database is asked.

The oracle knows the rules as docs/explanation-conversions.md has them, and none of their code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.soak.conversions.subjects import Subject, Unfit, Value

# A row with this note gets the subject's first text from a trigger of the site's own.
SITE = "of the site"


@dataclass(frozen=True)
class Row:
    """A row: the older column's value, the newer one's, and what else a save writes."""

    older: Value
    newer: Value
    note: str


@dataclass
class Books:
    """The books.

    Arguments:
        subject: the conversion.
        site: whether there is a trigger of the site's own.
        rows: what must be in the table, by id.
        swapped: whether the names are exchanged.
        overruled: how many writes of both columns did not agree.
    """

    subject: Subject
    site: bool
    rows: dict[int, Row] = field(default_factory=dict)
    swapped: bool = False
    overruled: int = 0

    @property
    def columns(self) -> tuple[str, str]:
        """The names of the older column and of the newer one."""
        return ("value_new", "value") if self.swapped else ("value", "value_new")

    def named(self, row: Row) -> dict[str, Value]:
        return dict(zip(self.columns, (row.older, row.newer), strict=True))

    def row(self, live: Value, shadow: Value, note: str) -> Row:
        older, newer = (shadow, live) if self.swapped else (live, shadow)
        return Row(older, newer, note)

    def sync(self, old: Row | None, new: dict[str, Value], note: str) -> Row:
        """Say what the triggers make of a row, as the page has it.

        Raises:
            Unfit: the row is refused.
        """
        kinds = (self.subject.older, self.subject.newer)
        kind = dict(zip(self.columns, kinds, strict=True))
        new = {name: None if each is None else kind[name](each) for name, each in new.items()}
        if self.site and note == SITE:
            new["value"] = kind["value"](self.subject.older(self.subject.texts[0][0]))
        live, shadow = new["value"], new["value_new"]
        was = {"value": None, "value_new": None} if old is None else self.named(old)
        follow, back = self.subject.go_up, self.subject.go_down
        if self.swapped:
            follow, back = back, follow
        written = live != was["value"] or (old is None and shadow is None)
        other_written = shadow is not None and shadow != was["value_new"]
        if self.is_stale(old, live, shadow):
            assert old is not None
            return replace(old, note=note)
        if written and other_written:
            row = self.row(live, shadow, note)
            # What is empty, or cannot be converted, agrees with nothing.
            if live is not None and self.subject.agree(row.older, row.newer):
                return row
            self.overruled += 1
        if written:
            shadow = follow(live)
        elif other_written and not (self.subject.down is None and not self.swapped):
            live = back(shadow)
        elif other_written:
            shadow = follow(live)
        else:
            shadow = was["value_new"]
        if live is None and not self.subject.may_be_null:
            raise Unfit
        return self.row(live, shadow, note)

    def is_stale(self, old: Row | None, live: Value, shadow: Value) -> bool:
        """Whether a process saves what it had loaded before an exchange."""
        if old is None or not self.subject.alike or self.subject.shadow.moves or live is None:
            return False
        was = self.named(old)
        knew = shadow == was["value"] or (self.subject.down is None and shadow == was["value_new"])
        return live != was["value"] and live == was["value_new"] and knew

    def is_unfit(self, row: Row) -> bool:
        return row.older is not None and self.subject.go_up(row.older) is None

    def is_lost(self, row: Row) -> bool:
        """Whether a revert would lose the row's value."""
        return self.swapped and (
            row.newer != self.subject.go_up(row.older) and self.subject.go_down(row.newer) is None
        )

    def is_out_of_step(self, row: Row) -> bool:
        return not self.subject.agree(row.older, row.newer)

    def is_filled(self) -> bool:
        return all(row.newer is not None or row.older is None for row in self.rows.values())
