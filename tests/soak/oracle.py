"""What must be in a table of tickets, told by Python dicts: no database is asked.

The oracle knows the rules of the plays as the documentation has them, and none of their code.
Values are compared and never shown: an AssertionError names rows by their ids.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

Stands = Literal["none", "expanded", "swapped", "reverted"]
# A value that the server is bound to draw, and that nobody can know before.
DRAWN = UUID(int=0)


@dataclass(frozen=True)
class Row:
    """A ticket.

    Arguments:
        live: its token.
        other: its shadow, or its retired token while the columns are exchanged.
        note: when it was redeemed, which stands for the rest of what a save writes.
    """

    live: UUID
    other: UUID | None
    note: int


Rows = dict[int, Row]


def insist(condition: object, sentence: str) -> None:
    """Raise an AssertionError with a sentence that holds no value."""
    if not condition:
        raise AssertionError(sentence)


@dataclass
class Oracle:
    """The books.

    Arguments:
        stands: between which plays the table stands.
        rows: what must be in it, by id.
        leaked: the values that must not be live while the columns are exchanged.
        gone: those of them that have left their column.
        seen: every value that was ever there, in the order in which it came.
    """

    stands: Stands = "none"
    rows: Rows = field(default_factory=dict)
    leaked: set[UUID] = field(default_factory=set)
    gone: set[UUID] = field(default_factory=set)
    seen: list[UUID] = field(default_factory=list)

    @property
    def has_shadow(self) -> bool:
        return self.stands != "none"

    @property
    def filled(self) -> bool:
        return all(row.other is not None for row in self.rows.values())

    @property
    def builds_at_once(self) -> bool:
        """Whether all are filled, and no shadow is there twice."""
        shadows = [row.other for row in self.rows.values()]
        return self.filled and len(set(shadows)) == len(shadows)

    def insert(self, pk: int, live: UUID, note: int) -> None:
        """Note a row that was inserted, whatever the write has brought as its shadow."""
        other = {"none": None, "swapped": live}.get(self.stands, DRAWN)
        self.rows[pk] = Row(live, other, note)

    def insert_past_triggers(self, pk: int, live: UUID, note: int) -> None:
        """Note a row that no trigger has seen."""
        self.rows[pk] = Row(live, None, note)

    def update(
        self, pk: int, *, live: UUID | None = None, other: UUID | None = None, note: int | None
    ) -> None:
        """Note a row that was updated; a column that the statement does not name is None."""
        old = self.rows[pk]
        new = replace(old, note=old.note if note is None else note)
        live = old.live if live is None else live
        if self.stands == "swapped":
            # A leaked value is warded off, and a new one is copied to the retired column.
            if live not in (old.live, old.other) and live not in self.leaked:
                new = replace(new, live=live, other=live)
                self._leaves(old)
            elif old.other is None:
                new = replace(new, other=old.live)
        elif self.has_shadow:
            if live not in (old.live, old.other):
                new = replace(new, live=live)
                self._leaves(old)
            if old.other is None:
                new = replace(new, other=DRAWN if other in (None, live) else other)
        else:
            new = replace(new, live=live)
        self.rows[pk] = new

    def delete(self, pk: int) -> None:
        """Note a row that was deleted."""
        old = self.rows.pop(pk)
        if old.live != old.other:
            self._leaves(old)

    def _leaves(self, old: Row) -> None:
        # Once the columns have been exchanged, what the site has replaced must not come back by
        # another exchange.
        if self.stands == "reverted":
            self.leaked.add(old.live)
            self.gone.add(old.live)
        elif self.stands == "swapped" and old.other not in (None, old.live):
            self.gone.add(old.other)

    def may_refuse(self, live: UUID | None, pk: int | None, other: UUID | None = None) -> bool:
        """Whether a unique violation is right: the value is taken, or leaked."""
        rest = [row for key, row in self.rows.items() if key != pk]
        taken = {row.live for row in rest}
        if self.stands == "swapped":
            taken |= self.leaked | {row.other for row in rest if row.other}
        # A swap that gave up has left a unique index on the shadow.
        return live in taken or (other is not None and other in {row.other for row in rest})

    def exchange(self, now: Rows) -> None:
        """Note that the columns were exchanged, to the swapped or back.

        Arguments:
            now: what is in the table; what was drawn again can be known from there alone.
        """
        if self.stands == "swapped":
            for pk, row in self.rows.items():
                self.rows[pk] = Row(row.other or row.live, row.live, row.note)
            self.stands = "reverted"
            return
        self.redraw(now, exchanged=True)
        for pk, row in self.rows.items():
            if row.live != row.other:
                self.leaked.add(row.live)
            assert row.other is not None, "the swap runs when all are filled"
            self.rows[pk] = Row(row.other, row.live, row.note)
        self.stands = "swapped"

    def redraw(self, now: Rows, *, exchanged: bool) -> None:
        """Note which shadows the preparation of a swap has drawn again, and may have."""
        count = Counter(row.other for row in self.rows.values())
        lives = {row.live for row in self.rows.values() if row.live != row.other}
        for pk, row in self.rows.items():
            if pk not in now or row.other is None:
                continue
            found = now[pk].live if exchanged else now[pk].other
            clashes = row.other in self.leaked or row.other in lives or count[row.other] > 1
            if clashes and found != row.other:
                self.rows[pk] = replace(row, other=DRAWN)
        if exchanged:
            for pk, row in self.rows.items():
                if row.other is DRAWN and pk in now:
                    self._learn_drawn(pk, now[pk].live)
                    self.rows[pk] = replace(row, other=now[pk].live)

    def fill(self, now: Rows, *, whole: bool) -> None:
        """Note a backfill, which may have been stopped before its end."""
        for pk, row in self.rows.items():
            if row.other is None and (whole or now[pk].other is not None):
                self.rows[pk] = replace(row, other=DRAWN)

    def copy_untriggered(self, now: Rows) -> None:
        """Note what a revert that came to no exchange may have mended."""
        for pk, row in self.rows.items():
            if row.other is None and now[pk].other is not None:
                self.rows[pk] = replace(row, other=row.live)

    def drop_shadow(self, *, forget: bool) -> None:
        """Note a contract, or an expand taken back.

        Arguments:
            forget: whether nothing is remembered any more.
        """
        self.stands = "none"
        self.gone = set() if forget else self.gone
        self.leaked = set(self.gone)
        self.rows = {pk: replace(row, other=None) for pk, row in self.rows.items()}

    def compare(self, now: Rows) -> None:
        """Insist that the table holds what it must, and learn what the server has drawn.

        Raises:
            AssertionError: names the rows.
        """
        insist(self.rows.keys() == now.keys(), f"rows {sorted(self.rows.keys() ^ now.keys())}")
        for pk in sorted(now):
            must, has = self.rows[pk], now[pk]
            insist(has.note == must.note, f"row {pk}: a save is lost")
            insist(has.live == must.live, f"row {pk}: another token is live than must be")
            if must.other is DRAWN:
                self._learn_drawn(pk, has.other)
            else:
                insist(has.other == must.other, f"row {pk}: its shadow is another one")
        lives = Counter(row.live for row in now.values())
        insist(all(count == 1 for count in lives.values()), "a token is live twice")
        if self.stands == "swapped":
            back = [pk for pk, row in now.items() if row.live in self.leaked]
            insist(not back, f"rows {back}: a leaked token is live")
        self.rows = dict(now)
        known = set(self.seen)
        for _, row in sorted(now.items()):
            for value in (row.live, row.other):
                if value is not None and value not in known:
                    known.add(value)
                    self.seen.append(value)

    def _learn_drawn(self, pk: int, value: UUID | None) -> None:
        insist(value is not None, f"row {pk}: its shadow was not drawn")
        insist(value not in self.seen, f"row {pk}: its shadow is a value that was there before")
