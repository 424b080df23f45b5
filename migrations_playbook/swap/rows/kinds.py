"""Which rows a swap is about: the meaning says."""

from __future__ import annotations

from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.rows.base import Rows
from migrations_playbook.swap.rows.converted import ConvertedRows
from migrations_playbook.swap.rows.rotated import RotatedRows


def rows_of(pair: Pair) -> Rows:
    """Return what a swap does about the rows of two columns."""
    return ConvertedRows(pair) if pair.replacement.declaration.converts else RotatedRows(pair)
