"""The size of a batch and the pauses between batches, from how long batches took."""

from __future__ import annotations

import pytest

from migrations_playbook.backfill.pacing.control import Control
from migrations_playbook.backfill.pacing.pace import (
    CEILING,
    FIRST_SIZE,
    FLOOR,
    LOOK_AFTER,
    BatchSize,
    Pace,
    Pacer,
)


def steady(size: BatchSize, *, rows_per_ms: float, batches: int = LOOK_AFTER) -> None:
    for _ in range(batches):
        size.took(size.rows, size.rows / rows_per_ms, target_ms=50)


def test_it_settles_where_a_batch_takes_the_target() -> None:
    size = BatchSize()
    steady(size, rows_per_ms=80, batches=200)
    assert size.rows == pytest.approx(4000, rel=0.01)


def test_it_grows_by_half_at_most() -> None:
    size = BatchSize()
    before = size.rows
    steady(size, rows_per_ms=1e6)
    assert size.rows == 1.5 * before


def test_one_slow_batch_in_ten_is_not_lost_in_an_average() -> None:
    size = BatchSize()
    for ms in (10, 10, 10, 100):
        size.took(size.rows, ms, target_ms=50)
    assert size.rows == FIRST_SIZE / 2


def test_a_batch_five_times_over_shrinks_it_at_once() -> None:
    size = BatchSize()
    size.took(1000, 500, target_ms=50)
    assert size.rows == 100


def test_it_has_a_floor_and_a_ceiling() -> None:
    size = BatchSize()
    size.took(1000, 1e9, target_ms=50)
    assert size.rows == FLOOR
    steady(size, rows_per_ms=1e9, batches=1000)
    assert size.rows == CEILING


def test_a_batch_that_was_not_full_does_not_make_it_grow() -> None:
    size = BatchSize()
    for _ in range(100):
        size.took(3, 0.1, target_ms=50)
    assert size.rows == FIRST_SIZE


def test_a_fixed_size_stays_but_for_failures() -> None:
    size = BatchSize(fixed=2000)
    steady(size, rows_per_ms=1, batches=50)
    assert size.rows == 2000
    size.failed()
    assert size.rows == 1000


def test_failures_halve_it_down_to_a_row() -> None:
    size = BatchSize(fixed=5)
    for _ in range(5):
        size.failed()
    assert size.rows == 1


def test_a_duty_of_a_quarter_rests_three_times_as_long_as_it_worked() -> None:
    assert Pacer(Pace(duty=0.25)).took(1000, 0.1, now=0.0) == pytest.approx(0.3)


def test_at_full_duty_it_does_not_rest() -> None:
    assert Pacer(Pace()).took(1000, 0.1, now=0.0) == 0


def test_alone_a_batch_is_longer() -> None:
    assert Pacer(Pace()).target_ms == 50


def test_workers_share_one_bound_on_the_rate() -> None:
    pacer = Pacer(Pace(max_rows_per_second=1000, batch_size=500))
    # Two workers, each with half a second's worth in the same tenth of a second.
    assert pacer.took(500, 0.1, now=10.1) == pytest.approx(0.4)
    assert pacer.took(500, 0.1, now=10.1) == pytest.approx(0.9)


def test_a_batch_is_no_larger_than_a_second_of_the_bound() -> None:
    assert Pacer(Pace(max_rows_per_second=20)).rows == 20


def test_what_was_set_for_all_overrules_a_workers_own() -> None:
    own = Pace(target_ms=50, duty=1.0, max_rows_per_second=100)
    assert Control(target_ms=20, duty=0.5, max_added_ms=2).over(own) == Pace(
        target_ms=20, duty=0.5, max_rows_per_second=100, max_added_ms=2
    )
