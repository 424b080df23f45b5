# ruff: noqa: PLC0415 - imported once Django is set up
"""What a group costs beside shadows that stand alone: its backfill, and the site's writes.

    python -m tests.benchmarks.groups --rows 1000000

Tables of one shape stand side by side, and every figure is a ratio of two of them, the median of
the rounds: see `conversions`.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from tests.benchmarks.conversions import (
    WRITTEN,
    both_ways,
    fill,
    find_ratios,
    in_turn,
    make,
    pgbench,
    spell_ratios,
)

INSERT = (
    "INSERT INTO {table} (token, checksum, code, note) "
    "VALUES ('t' || :value, 'c' || :value, 'o' || :value, '');"
)
# What a row `n` is made of.
VALUES = {
    "token": "md5(n::text)",
    "checksum": "encode(sha256(md5(n::text)::bytea), 'hex')",
    "code": "md5('c' || n)",
    "note": "'note ' || n",
}
UPDATE = "UPDATE {table} SET note = 'note ' || :value WHERE id = :id;"
MEASURED = (
    "a token and its checksum, filled in the time of the token alone",
    "two tokens, filled in the time of two backfills",
    "INSERT beside a token and its checksum, to the token alone",
    "UPDATE of another column, likewise",
    "INSERT beside two tokens, to two shadows apart",
    "UPDATE of another column, likewise",
)


def fill_anew(model: Any, rows: int) -> float:
    """Make a table with its triggers, and fill its shadows; seconds."""
    from django.db import connection

    from tests.benchmarks.group_models import SHADOWS

    make(model, rows, VALUES)
    with connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")
    return fill(model, *SHADOWS[model])


def measure(rows: int, rounds: int, seconds: float) -> list[list[float]]:
    """Measure all; the ratios of the rounds, in the order of their names."""
    from tests.benchmarks.group_models import Alone, Apart, Checked, Twice

    rows = max(rows, WRITTEN)
    pairs = (Checked, Alone), (Twice, Apart)
    found = [in_turn(rounds, partial(fill_anew, one, rows), partial(fill_anew, other, rows))
             for one, other in pairs]  # fmt: skip
    for pair in pairs:
        for script in (INSERT, UPDATE):
            ratio = partial(pgbench, script, seconds, "off")
            found.append(both_ways(2 * rounds, ratio, *pair))
    return found


def main() -> None:
    found = find_ratios("tests.benchmarks.groups", __doc__, "twice as many of the writes", measure)
    sys.stdout.write("| | ratio of the times | lowest to highest |\n|---|---|---|\n")
    for name, ratios in zip(MEASURED, found, strict=True):
        sys.stdout.write(f"{spell_ratios(name, ratios)}\n")


if __name__ == "__main__":
    main()
