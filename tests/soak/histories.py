"""Random histories: writes of every release and plays in any order, beside an oracle.

    python -m tests.soak.histories [STEPS]

A history is a sequence of steps on a small table of a real server. After each step the table holds
what the oracle says (`oracle`): no write that was acknowledged is lost, no leaked token is live
while the columns are exchanged, and no command ends in anything but a sentence.
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from typing import Any, Literal

from django.core.management import call_command
from django.db import connection
from django.test import override_settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from psycopg import sql

from migrations_playbook.errors import REFUSED, TRY_AGAIN
from tests.fixtures.database import Database
from tests.fixtures.server import throwaway_server
from tests.soak.oracle import insist
from tests.soak.run import run_at_length, run_histories
from tests.soak.stage import BOTH, OLD, Stage, instant
from tests.soak.statements import session_ended

CONTRACT = "tests.releases.n3.migrations"
UNSWAPPED = ("expanded", "reverted")
BACKFILL = ("backfill_new_token", "--no-progress")
SWAP = ("swap_token_columns",)

Way = Literal["insert", "ignore", "copy"]
NUMBERS = st.integers(0, 40)
# A third of the values are new; the others were there before, live or not.
VALUES = st.one_of(st.none(), NUMBERS, NUMBERS)
UNDONE = st.sampled_from([False, False, False, True])
RELEASES = st.sampled_from([OLD, BOTH])


class History(Stage):
    """The steps that a history is made of."""

    @initialize(rows=st.integers(1, 3), begins=st.sampled_from(["none", "expanded", "swapped"]))
    def begin(self, rows: int, begins: str) -> None:
        """Begin with rows that are older than the expand."""
        self.oracle.stands = "expanded"
        for _ in range(rows):
            self.restore(often=0)
        if begins == "none":
            self.migrate_backwards(often=0)
        while self.oracle.stands != begins:
            self.advance(killed=None)

    def teardown(self) -> None:
        try:
            if self.oracle.stands == "swapped":
                self.verify()
                self.end()
        finally:
            self.session.close()
            for _ in self.databases:
                pass

    # What the site does.

    @rule(
        way=st.sampled_from(["insert", "ignore", "copy"]),
        release=RELEASES,
        value=VALUES,
        shadow=VALUES,
        undone=UNDONE,
    )
    def insert(
        self,
        way: Way,
        release: tuple[str, ...],
        value: int | None,
        shadow: int | None,
        undone: bool,  # noqa: FBT001
    ) -> None:
        """A new row, by INSERT, by one that ignores conflicts, or by COPY."""
        live, note = self.value(value), self.note()
        release = release if self.oracle.has_shadow else OLD
        brought = (live, instant(note), self.value(shadow))[: len(release)]
        columns = sql.SQL(", ").join(map(sql.Identifier, release))

        def action() -> int | None:
            if way == "copy":
                copying = sql.SQL("COPY tickets_ticket ({}) FROM STDIN").format(columns)
                with self.session.cursor() as cursor, cursor.copy(copying) as rows:
                    rows.write_row(brought)
                query = "SELECT id FROM tickets_ticket WHERE token = %s"
                row = self.session.execute(query, [live]).fetchone()
            else:
                inserting = sql.SQL("INSERT INTO tickets_ticket ({}) VALUES ({}) {} RETURNING id")
                row = self.session.execute(
                    inserting.format(
                        columns,
                        sql.SQL(", ").join(map(sql.Literal, brought)),
                        sql.SQL("ON CONFLICT DO NOTHING" if way == "ignore" else ""),
                    )
                ).fetchone()
            return None if row is None else int(row[0])

        refusable = self.oracle.may_refuse(live, None)
        pk = self.write(action, refusable=refusable, undone=undone)
        if pk is not None:
            self.oracle.insert(pk, live, note)
        self.compare()

    @rule(row=NUMBERS, value=VALUES, undone=UNDONE)
    def rotate(self, row: int, value: int | None, undone: bool) -> None:  # noqa: FBT001
        """The site gives a ticket another token."""
        pk, live = self.pick(row), self.value(value)
        self.update(pk, {"token": live}, undone=undone)

    @rule(row=NUMBERS, value=VALUES, how=st.sampled_from(["own", "given"]), undone=UNDONE)
    def plant(self, row: int, value: int | None, how: str, undone: bool) -> None:  # noqa: FBT001
        """Somebody writes the shadow: the row's own token, or any value."""
        pk = self.pick(row)
        if pk is not None and self.oracle.has_shadow:
            shadow = self.oracle.rows[pk].live if how == "own" else self.value(value)
            self.update(pk, {"new_token": shadow}, undone=undone)

    @rule(row=NUMBERS, value=VALUES, release=RELEASES, undone=UNDONE)
    def upsert(
        self,
        row: int,
        value: int | None,
        release: tuple[str, ...],
        undone: bool,  # noqa: FBT001
    ) -> None:
        """INSERT ... ON CONFLICT (id) DO UPDATE, of a row that is there or of another."""
        pk, live, note = self.pick(row), self.value(value), self.note()
        pk = 1000 + row if pk is None or row % 4 == 0 else pk
        release = release if self.oracle.has_shadow else OLD
        brought = (pk, live, instant(note), self.value(None))[: len(release) + 1]
        statement = sql.SQL(
            "INSERT INTO tickets_ticket (id, {}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, release)),
            sql.SQL(", ").join(map(sql.Literal, brought)),
            sql.SQL(", ").join(
                sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(each)) for each in release
            ),
        )
        refusable = self.oracle.may_refuse(live, pk)
        if self.write(
            lambda: self.session.execute(statement).rowcount, refusable=refusable, undone=undone
        ):
            if pk in self.oracle.rows:
                self.oracle.update(pk, live=live, note=note)
            else:
                self.oracle.insert(pk, live, note)
        self.compare()

    @rule(row=NUMBERS, undone=UNDONE)
    def delete(self, row: int, undone: bool) -> None:  # noqa: FBT001
        pk = self.pick(row)
        statement = "DELETE FROM tickets_ticket WHERE id = %s"
        if pk is not None and self.write(
            lambda: self.session.execute(statement, [pk]).rowcount, refusable=False, undone=undone
        ):
            self.oracle.delete(pk)
        self.compare()

    @rule(row=NUMBERS, release=RELEASES)
    def load(self, row: int, release: tuple[str, ...]) -> None:
        """A process of a release loads a ticket, and keeps it for later."""
        pk = self.pick(row)
        release = release if self.oracle.has_shadow else OLD
        if pk is not None:
            self.stale.append((self.model(release).objects.get(pk=pk), release))  # type: ignore[attr-defined]

    @precondition(lambda self: self.stale)
    @rule(which=NUMBERS, copied=st.sampled_from([False, False, True]), undone=UNDONE)
    def save(self, which: int, copied: bool, undone: bool) -> None:  # noqa: FBT001
        """A process saves what it has loaded some time ago, with all fields, or a copy of it."""
        loaded, release = self.stale[which % len(self.stale)]
        if release == BOTH and not self.oracle.has_shadow:
            return
        note = self.note()
        stale: Any = type(loaded)(
            **{each.attname: getattr(loaded, each.attname) for each in loaded._meta.concrete_fields}
        )
        stale.redeemed_at, stale._state.adding = instant(note), copied
        if copied:
            stale.pk = None
        there = stale.pk in self.oracle.rows
        other = getattr(stale, "new_token", None)

        def action() -> int:
            stale.save()
            return int(stale.pk)

        refusable = self.oracle.may_refuse(stale.token, stale.pk, other)
        pk = self.write(action, refusable=refusable, undone=undone)
        if pk is not None and there:
            self.oracle.update(pk, live=stale.token, other=other, note=note)
        elif pk is not None:
            self.oracle.insert(pk, stale.token, note)
        self.compare()

    @precondition(lambda self: self.oracle.has_shadow)
    @rule(often=st.integers(0, 2))
    def restore(self, often: int) -> None:
        """A row comes past the triggers, as from a restore."""
        if often:
            return
        live, note = self.value(None), self.note()
        with self.database.connect() as restoring:
            restoring.execute("SET session_replication_role = replica")
            row = restoring.execute(
                "INSERT INTO tickets_ticket (token, redeemed_at) VALUES (%s, %s) RETURNING id",
                [live, instant(note)],
            ).fetchone()
        assert row is not None
        self.oracle.insert_past_triggers(row[0], live, note)
        self.compare()

    # The plays.

    @precondition(lambda self: not self.contracted)
    @rule(killed=st.one_of(st.none(), st.none(), st.integers(1, 100)))
    def advance(self, killed: int | None) -> None:
        """The next play: expand, backfill, swap, and back again."""
        if not self.oracle.has_shadow:
            self.expand()
        elif self.oracle.stands == "swapped":
            self.verify()
            self.exchange("--revert", killed=killed)
        elif self.oracle.filled:
            self.exchange(killed=killed)
        else:
            self.backfill(killed)

    @precondition(lambda self: self.oracle.stands in UNSWAPPED and self.oracle.builds_at_once)
    @precondition(lambda self: not self.killed)
    @rule(often=st.integers(0, 3))
    def swap_in_vain(self, often: int) -> None:
        """An idle transaction holds the table: the swap gives up, and leaves what it has built.

        An index that must be dropped first would wait for the transaction, for two minutes.
        """
        if often:
            return
        with self.database.connect() as idle:
            idle.execute("SELECT FROM tickets_ticket LIMIT 0")
            code = self.play(*SWAP, "--attempts=1", "--lock-timeout=10")
        insist(code == TRY_AGAIN, f"swap in vain: {code}")
        self.oracle.redraw(self.read(), exchanged=False)
        self.compare()

    @rule(which=st.sampled_from(["backfill", "swap", "--revert", "--verify"]))
    def play_out_of_turn(self, which: str) -> None:
        """A play that does not fit the phase is refused, and changes nothing."""
        stands = self.oracle.stands
        fits = {
            "backfill": stands in UNSWAPPED,
            "swap": stands in UNSWAPPED and self.oracle.filled,
        }.get(which, stands == "swapped")
        if not fits and not self.contracted:
            command = {"backfill": BACKFILL, "swap": SWAP}.get(which, (*SWAP, which))
            insist(self.play(*command) == REFUSED, f"{which} was not refused")
            self.compare()

    @precondition(lambda self: self.oracle.has_shadow)
    @rule(often=st.integers(0, 5))
    def migrate_backwards(self, often: int) -> None:
        """Take the expand back; while the columns are exchanged the fresh tokens stay."""
        if often == 0:
            insist(self.play("migrate", "tickets", "0001") == 0, "migrate backwards")
            self.oracle.drop_shadow(forget=self.oracle.stands != "swapped")
            self.compare()

    @precondition(lambda self: self.oracle.stands == "swapped")
    @rule(often=st.integers(0, 5))
    def contract(self, often: int) -> None:
        if often == 0:
            self.end()

    def expand(self) -> None:
        insist(self.play("migrate", "tickets") == 0, "expand")
        self.oracle.stands = "expanded"
        self.compare()

    def verify(self) -> None:
        insist(self.play(*SWAP, "--verify") == 0, "verify")

    def backfill(self, killed: int | None) -> None:
        """Fill in batches of one row; a kill leaves some rows."""
        with session_ended(self.database, killed):
            code = self.play(*BACKFILL, "--workers=1", "--batch-size=1")
        insist(code in (0, TRY_AGAIN if killed else 0), f"backfill: {code}")
        self.oracle.fill(self.read(), whole=code == 0)
        self.compare()

    def exchange(self, *option: str, killed: int | None) -> None:
        """Swap or revert; where it was killed, the catalog tells whether it was done."""
        with session_ended(self.database, killed):
            code = self.play(*SWAP, *option)
        insist(code in (0, TRY_AGAIN if killed else 0), f"swap {option}: {code}")
        now, was_swapped = self.read(), self.oracle.stands == "swapped"
        if self.is_swapped() is not was_swapped:
            self.oracle.exchange(now)
        elif was_swapped:
            self.oracle.copy_untriggered(now)
        else:
            self.oracle.redraw(now, exchanged=False)
        self.killed = self.is_swapped() is was_swapped
        insist(killed or not self.killed, "nothing was exchanged")
        self.compare()

    def end(self) -> None:
        """Contract: the column goes, and all that was remembered."""
        with override_settings(MIGRATION_MODULES={"tickets": CONTRACT}):
            insist(self.play("migrate", "tickets") == 0, "contract")
        self.contracted = True
        self.oracle.drop_shadow(forget=True)
        self.compare()


def play_histories(template: str, *, examples: int, steps: int, derandomize: bool) -> Counter[str]:
    """Play random histories; return how many steps of each kind they had.

    Arguments:
        template: a migrated database.
        examples, steps, derandomize: as `run_histories` has them.
    """
    History.template = template
    History.made.clear()
    run_histories(History, examples=examples, steps=steps, derandomize=derandomize)
    return History.made


def main(steps: int) -> None:
    with throwaway_server():
        for template in Database.temporary():
            call_command("migrate", verbosity=0)
            connection.close()
            run_at_length(partial(play_histories, template.name), steps)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
