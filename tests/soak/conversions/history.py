"""Random histories: writes of every release and plays in any order, beside an oracle.

After each step the table holds what docs/explanation-conversions.md says of who writes what, the
status counts as many disagreements, and the proof finds what is out of step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

from django.db import connection
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from psycopg import sql

from migrations_playbook.backfill.unconverted import list_unconverted
from tests.fixtures.database import Database
from tests.soak.conversions.oracle import Row
from tests.soak.conversions.stage import HOSTILE, Stage, assign
from tests.soak.conversions.subjects import SUBJECTS, Value
from tests.soak.oracle import insist
from tests.soak.run import run_histories

NUMBERS = st.integers(0, 40)
WHAT = st.sampled_from(["live", "shadow", "both", "neither"])
UNDONE = st.sampled_from([False, False, False, True])
KILLED = st.one_of(st.none(), st.none(), st.none(), st.integers(1, 60))
How = Literal["insert", "copy", "upsert"]


class History(Stage):
    """The steps that a history is made of."""

    @initialize(name=st.sampled_from(sorted(SUBJECTS)), rows=st.integers(1, 4), site=st.booleans())
    def begin(self, name: str, rows: int, site: bool) -> None:  # noqa: FBT001
        """Begin with rows that are older than the expand."""
        self.make_table(name, rows=rows, site=site)

    # What the site does.

    @rule(
        how=st.sampled_from(["insert", "copy", "upsert"]),
        what=WHAT,
        live=NUMBERS,
        shadow=NUMBERS,
        row=NUMBERS,
        alien=NUMBERS,
        undone=UNDONE,
    )
    def insert(
        self,
        how: How,
        what: str,
        live: int,
        shadow: int,
        row: int,
        alien: int,
        undone: bool,  # noqa: FBT001
    ) -> None:
        """A new row by INSERT or COPY, or one that is updated where it is there."""
        if self.contracted:
            return
        given, note = self.choose(what, live, shadow), self.note(alien)
        pk = self.pick(row) if how == "upsert" and row % 3 else None
        if pk is None:
            self.last += 1
            pk = 1000 + self.last
        columns = {"id": str(pk), "note": note, **given}
        names = sql.SQL(", ").join(map(sql.Identifier, columns))

        def action() -> None:
            if how == "copy":
                copying = sql.SQL("COPY {} ({}) FROM STDIN").format(self.identifier, names)
                with self.session.cursor() as cursor, cursor.copy(copying) as copy:
                    copy.write_row(list(columns.values()))
                return
            values = sql.SQL(", ").join(map(sql.Literal, columns.values()))
            brought = {
                each: sql.SQL("EXCLUDED.{}").format(sql.Identifier(each)) for each in columns
            }
            upsert = sql.SQL("ON CONFLICT (id) DO UPDATE SET {}").format(assign(brought))
            self.session.execute(
                sql.SQL("INSERT INTO {} ({}) VALUES ({}) {}").format(
                    self.identifier, names, values, upsert if how == "upsert" else sql.SQL("")
                )
            )

        def expected() -> Row:
            # What is inserted goes through the triggers, then what is updated with it.
            books, nothing = self.books, {"value": None, "value_new": None}
            proposed = books.sync(None, {**nothing, **given}, note)
            if pk not in books.rows:
                return proposed
            brought = {name: each for name, each in books.named(proposed).items() if name in given}
            return books.sync(books.rows[pk], {**books.named(books.rows[pk]), **brought}, note)

        self.write(pk, action, expected, alien=alien, undone=undone)

    @rule(row=NUMBERS, what=WHAT, live=NUMBERS, shadow=NUMBERS, alien=NUMBERS, undone=UNDONE)
    def update(
        self,
        row: int,
        what: str,
        live: int,
        shadow: int,
        alien: int,
        undone: bool,  # noqa: FBT001
    ) -> None:
        """A change of either column, of both, or of another one."""
        pk = self.pick(row)
        if pk is not None:
            self.change(pk, self.choose(what, live, shadow), alien=alien, undone=undone)

    @rule(row=NUMBERS, both=st.booleans())
    def load(self, row: int, both: bool) -> None:  # noqa: FBT001
        """A process of N, or of N+1, loads a row, and keeps it."""
        pk = self.pick(row)
        if pk is not None:
            named = self.books.named(self.books.rows[pk])
            self.stale.append((pk, named if both else {"value": named["value"]}))

    @precondition(lambda self: self.stale)
    @rule(which=NUMBERS, alien=NUMBERS)
    def save(self, which: int, alien: int) -> None:
        """The process saves what it has loaded, with all its fields."""
        pk, loaded = self.stale[which % len(self.stale)]
        if pk in self.books.rows:
            self.change(pk, loaded, alien=alien, undone=False)

    @rule(row=NUMBERS)
    def delete(self, row: int) -> None:
        pk = self.pick(row)
        if pk is not None:
            deleting = sql.SQL("DELETE FROM {} WHERE id = {}")
            self.session.execute(deleting.format(self.identifier, sql.Literal(pk)))
            del self.books.rows[pk]
            self.compare()

    @precondition(lambda self: not self.contracted)
    @rule(row=NUMBERS, live=NUMBERS, new=st.booleans(), often=st.integers(0, 2))
    def come_past_the_triggers(self, row: int, live: int, new: bool, often: int) -> None:  # noqa: FBT001
        """A row is restored, or written by a replica's apply worker."""
        if often:
            return
        kind = self.subject.newer if self.books.swapped else self.subject.older
        texts = self.subject.texts[self.books.swapped]
        value, pk = kind(texts[live % len(texts)]), self.pick(row)
        if new or pk is None:
            self.insert_past(value)
        else:
            self.past("UPDATE {} SET value = {} WHERE id = {}", value, pk)
            old = self.books.rows[pk]
            self.books.rows[pk] = self.books.row(
                value, self.books.named(old)["value_new"], old.note
            )
        self.compare()

    # The plays.

    @precondition(lambda self: not self.contracted and not self.books.swapped)
    @rule(killed=KILLED)
    def fill(self, killed: int | None) -> None:
        """Backfill; a kill leaves some rows, and no row half done."""
        code, rows = self.play("backfill", self.backfill, killed), self.books.rows
        seen = self.read()
        for pk, row in rows.items():
            done = replace(row, newer=self.subject.go_up(row.older))
            if row.newer is None and (code == "done" or seen[pk] == done):
                rows[pk] = done
        self.compare()
        if code == "done":
            bare = [str(pk) for pk, row in sorted(rows.items()) if self.books.is_unfit(row)]
            insist(list_unconverted(connection, self.bound) == bare, "the list of --list-failed")

    @precondition(lambda self: not self.contracted and not self.subject.shadow.moves)
    @rule(killed=KILLED, in_turn=st.sampled_from([True, True, False]))
    def exchange(self, killed: int | None, in_turn: bool) -> None:  # noqa: FBT001
        """Swap, or revert: refused exactly where a row would be lost, or is not done."""
        books = self.books
        if in_turn and not books.swapped:
            self.fill(None)
        rows, before = books.rows.values(), books.swapped
        fits = not any(map(books.is_lost, rows)) if before else books.is_filled()
        code = self.play("revert" if before else "swap", self.swap, killed)
        now = self.bound.meaning.is_exchanged(self.read_table())
        allowed = {"done"} if fits else {"Refused", "WrongPhase"}
        insist(code in allowed | ({"TryAgain"} if killed else set()), f"exchange: {code}")
        insist(now != before or code != "done", "nothing was exchanged")
        insist(now == before or fits, "what would be lost was exchanged")
        self.note_mended()
        books.swapped = now
        self.compare()
        self.prove()

    @precondition(lambda self: self.books.swapped)
    @rule()
    def put_in_step(self) -> None:
        """Mend what came past the triggers: the live value is kept."""
        insist(self.play("mend", self.mend, None) == "done", "mend")
        self.note_mended()
        insist(not any(map(self.books.is_out_of_step, self.books.rows.values())), "mended")
        self.compare()

    def note_mended(self) -> None:
        """Note which rows were brought in step."""
        books = self.books
        follows = self.subject.go_down if books.swapped else self.subject.go_up
        # The names may be exchanged by now, of which the books are told later.
        named = replace(books, swapped=self.bound.meaning.is_exchanged(self.read_table()))
        for pk, row in self.read(named).items():
            live = books.named(books.rows[pk])["value"]
            mended = books.row(live, follows(live), row.note)
            if books.is_out_of_step(books.rows[pk]) and row == mended:
                books.rows[pk] = mended

    @precondition(lambda self: self.subject.shadow.moves and not self.contracted)
    @rule(often=st.integers(0, 5))
    def end(self, often: int) -> None:
        """The contract of a move: refused while a value would be lost, or a site's trigger fail."""
        if often:
            return
        insist(self.play("swap", self.swap, None) == "WrongPhase", "a move was exchanged")
        rows = self.books.rows.values()
        sound = self.books.is_filled() and not any(map(self.books.is_out_of_step, rows))
        sound = sound and not self.books.site
        code = self.play("contract", self.contract, None)
        insist(code == ("done" if sound else "Refused"), f"contract: {code}")
        self.contracted = code == "done"

    # What is given.

    def choose(self, what: str, live: int, shadow: int) -> dict[str, Value]:
        """Choose what a statement gives; a ninth of the values are null."""
        wanted = {"live": ["value"], "shadow": ["value_new"], "both": ["value", "value_new"]}
        which = {"value": live, "value_new": shadow}
        texts = dict(zip(self.books.columns, self.subject.texts, strict=True))
        return {
            name: None if which[name] % 9 == 0 else texts[name][which[name] % len(texts[name])]
            for name in wanted.get(what, [])
        }


def play_histories(*, examples: int, steps: int, derandomize: bool) -> Counter[str]:
    """Play random histories in a database of their own; return how many steps of each kind.

    Arguments:
        examples, steps, derandomize: as `run_histories` has them.
    """
    History.made.clear()
    for database in Database.temporary():
        database.run(HOSTILE)
        History.database = database
        run_histories(History, examples=examples, steps=steps, derandomize=derandomize)
    return History.made
