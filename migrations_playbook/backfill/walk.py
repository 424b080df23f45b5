"""A worker's way through a table: which rows come next.

A worker walks by block, not by key: `ctid` ranges are read in the order they lie on disk
(PostgreSQL 14+), so the key may as well be a number with gaps, a UUID or composite.

And the walk passes over each stretch several times, filling a share of each page's rows at a time.
An UPDATE whose new version finds room on the same page, while no indexed column changes, is
heap-only (HOT) and makes no index entry. A full page has no room. But once the first share of its
rows has gone elsewhere and is committed, the next reader of the page prunes their old versions
away, and the next share takes their room, and so on. So most rows stay on their page, and the
indexes hardly grow. `tests.benchmarks.walk` compares the walks, and docs/explanation-update-cost.md
has the figures.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import Error as DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

from migrations_playbook.backfill.batch import (
    application_name,
    batch_settings,
    batch_statement,
    block_of,
    place_before,
    search_statement,
)
from migrations_playbook.backfill.roster import FILLS, name_session
from migrations_playbook.postgres.query import run_message, spell_message
from migrations_playbook.postgres.tables import Leaf, Table, read_leaves
from migrations_playbook.replacement import Replacement

# A statement reads no more than this many blocks (128 MB), so a filled stretch neither runs into a
# statement_timeout nor keeps a stop waiting.
SPAN = 16_384
# A window is read again for each share, so a window is small enough to be found in memory (8 MB).
WINDOW = 1024
# In how many shares a page's rows are filled. More shares leave fewer rows to go elsewhere (a
# share, and the growth of the new versions), and read each page more often.
SHARES = 12
# How many batches pass before a page is met again: until then the snapshots of the transactions
# beside us, other workers' among them, are to be gone, or its old versions cannot be pruned.
BATCHES_A_SHARE = 4
# A row of the first share costs about so many times as much as a row of a later share: its new
# version goes to another page and makes index entries, and the page may go to the log as a whole.
FIRST_COST = 2
# A search reads so many times the rows of a batch: to look at a row costs a thirtieth of a fill.
STEP = 16


@dataclass(frozen=True)
class Filled:
    """The result of a batch.

    Arguments:
        rows: rows filled; 0 where a stretch of the table had nothing to fill.
        left: rows that are still to do: no value could be made, or a trigger of the site took it.
        kept_back: rows not updated, because a trigger of the site kept them back.
        seconds: from the transaction's begin to its commit.
    """

    rows: int
    left: int
    kept_back: int
    seconds: float


@dataclass
class Stretch:
    """A part of a table, and how far the search for nulls has come.

    Arguments:
        leaf: the table.
        block: the next block to look at.
        end: the block to end before.
    """

    leaf: Leaf
    block: int
    end: int


@dataclass
class Window:
    """A few blocks with nulls, passed over once for each share.

    Arguments:
        leaf: the table.
        first: the first block.
        end: the block to end before.
        shares: how many.
        share: the share being filled, counted from 0.
        after: the place reached by this pass.
        batch: the statement of a batch, spelled.
        careful: whether a batch has met a row without a value, and the statement is a careful one.
    """

    leaf: Leaf
    first: int
    end: int
    shares: int
    share: int
    after: str
    batch: str
    careful: bool = False

    def next_share(self) -> bool:
        """Begin the next pass; False after the last."""
        self.share += 1
        self.after = place_before(self.first)
        return self.share < self.shares


class Walk:
    """Sweeps over the table, each once around, to the block that was last at its start.

    Rows that come in behind are filled by the trigger. A locked row is passed over, and is there in
    the next sweep: a null row never moves, since a move is an update, and then the fill trigger
    fires.

    Each sweep begins at a random place of its own: two workers on the same pages would keep each
    other from pruning them.

    Arguments:
        replacement: the replacement to fill.
        table: its table.
        skipped: the triggers of the site to be left out.
    """

    def __init__(self, replacement: Replacement, table: Table, skipped: Sequence[str] = ()) -> None:
        self.replacement = replacement
        self.table = table
        session_name = name_session(application_name(replacement), FILLS)
        self.settings = batch_settings(session_name, skipped)
        self._stretches: deque[Stretch] = deque()
        self._window: Window | None = None

    def begin(self, connection: BaseDatabaseWrapper) -> None:
        """Begin a sweep."""
        leaves = read_leaves(connection, self.table)
        start = random.randrange(max(1, sum(leaf.blocks for leaf in leaves)))  # noqa: S311
        self._stretches = circle_leaves(leaves, start)
        self._window = None

    def fill(self, connection: BaseDatabaseWrapper, size: int) -> Filled | None:
        """Fill the next `size` unlocked null rows; None at the end of the sweep.

        Lock: ROW EXCLUSIVE on the table; FOR NO KEY UPDATE on the rows, until the commit.

        Arguments:
            connection: outside a transaction.
            size: rows, at most. The last batch of a pass has fewer, and so has the first share.
        """
        if self._window is None:
            while self._stretches and self._stretches[0].block >= self._stretches[0].end:
                self._stretches.popleft()
            if not self._stretches:
                return None
            self._window = self._next_window(connection, self._stretches[0], size)
            if self._window is None:
                return Filled(0, 0, 0, 0.0)
        window = self._window
        if window.share == 0 and window.shares > 1:
            size = max(1, size // FIRST_COST)
        began = time.monotonic()
        try:
            rows, left, claimed, last = self._batch(connection, window, size)
        except DatabaseError as error:
            if window.careful or not self.replacement.meaning.tolerates(error.__cause__):
                raise
            # A row of these has no value: from here on each is tried by itself.
            window.careful = True
            window.batch = self._spell_batch(connection, window.leaf, careful=True)
            rows, left, claimed, last = self._batch(connection, window, size)
        # After a batch that is not full, the pass is at its end: the remaining rows are locked, and
        # wait for the next sweep.
        if claimed == size and last is not None:
            window.after = last
        elif not window.next_share():
            self._window = None
        return Filled(rows - left, left, claimed - rows, time.monotonic() - began)

    def _next_window(
        self, connection: BaseDatabaseWrapper, stretch: Stretch, size: int
    ) -> Window | None:
        """Find the next blocks with nulls; None when a span has none."""
        until = min(stretch.block + SPAN, stretch.end)
        first, _, _ = self._search(connection, stretch, until, 1)
        if first is None:
            stretch.block = until
            return None
        begin = stretch.block = block_of(first)
        until = min(begin + WINDOW, stretch.end)
        count = 0
        # In steps, each shorter than a batch: somebody may wait for this core.
        while count < size * BATCHES_A_SHARE * SHARES and stretch.block < until:
            step = size * STEP
            _, last, found = self._search(connection, stretch, until, step)
            count += found
            # Another worker may have filled them all in between.
            stretch.block = until if last is None or found < step else block_of(last) + 1
        return Window(
            leaf=stretch.leaf,
            first=begin,
            end=stretch.block,
            # A pass of less than a batch is not worth its reading.
            shares=max(1, min(SHARES, count // size)),
            share=0,
            after=place_before(begin),
            batch=self._spell_batch(connection, stretch.leaf, careful=False),
        )

    def _search(
        self, connection: BaseDatabaseWrapper, stretch: Stretch, until: int, most: int
    ) -> tuple[str | None, str | None, int]:
        """Search the places of the first and the last of the next `most` nulls, and their number.

        Lock: ACCESS SHARE on the table.
        """
        statement = search_statement(self.replacement, stretch.leaf)
        message = self._spell(connection, statement, careful=False)
        params = [place_before(stretch.block), place_before(until), most]
        first, last, count = run_message(connection, message, params)
        return first, last, int(count)

    def _batch(
        self, connection: BaseDatabaseWrapper, window: Window, size: int
    ) -> tuple[int, int, int, str | None]:
        end = place_before(window.end)
        params = [window.after, end, window.shares, window.share, size]
        rows, left, claimed, last = run_message(connection, window.batch, params)
        return int(rows), int(left), int(claimed), last

    def _spell_batch(self, connection: BaseDatabaseWrapper, leaf: Leaf, *, careful: bool) -> str:
        statement = batch_statement(self.replacement, leaf, careful=careful)
        return self._spell(connection, statement, careful=careful)

    def _spell(
        self, connection: BaseDatabaseWrapper, statement: sql.Composed, *, careful: bool
    ) -> str:
        meaning = self.replacement.meaning
        own = meaning.careful_settings if careful else meaning.batch_settings
        return spell_message(connection, statement, **{**self.settings, **own})


def circle_leaves(leaves: list[Leaf], start: int) -> deque[Stretch]:
    """Go once around the leaves.

    Arguments:
        leaves: in their order.
        start: the block to begin at, counted over all leaves.
    """
    ahead, behind = [], []
    for leaf in leaves:
        here = min(max(start, 0), leaf.blocks)
        ahead.append(Stretch(leaf, here, leaf.blocks))
        behind.append(Stretch(leaf, 0, here))
        start -= leaf.blocks
    return deque(each for each in ahead + behind if each.block < each.end)
