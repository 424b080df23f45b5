"""The pace that the site decides: no database, no clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from migrations_playbook.backfill.pacing.pace import Pace, Pacer
from migrations_playbook.backfill.pacing.steering import (
    FIRST_MS,
    LONGEST_MS,
    LOWEST_DUTY,
    REST_SAMPLES,
    Baseline,
    Felt,
    Steering,
    find_shortest,
    is_often,
    near_highest,
)

REST_MS = 1.0
# Probes a second.
PROBES = 25


def rested(rest_ms: float = REST_MS) -> Steering:
    steering = Steering()
    for _ in range(REST_SAMPLES):
        steering.baseline.add(Felt(rest_ms, rest_ms))
    return steering


def beside(
    steering: Steering,
    site: Callable[[Steering], float],
    *,
    seconds: float,
    allowed_ms: float = 5.0,
    since: float = 0.0,
) -> list[float]:
    """Probe a site that adds so many milliseconds at a level; the level after each probe."""
    levels = []
    for number in range(int(seconds * PROBES)):
        felt = Felt(REST_MS, REST_MS + site(steering))
        steering.feel(felt, allowed_ms, since + number / PROBES)
        levels.append(steering.level)
    return levels


def test_it_begins_with_short_batches_at_full_duty() -> None:
    steering = Steering()
    assert (steering.target_ms, steering.duty) == (FIRST_MS, 1.0)


def test_a_site_that_feels_nothing_gets_long_batches_slowly() -> None:
    steering = rested()
    levels = beside(steering, lambda _: 0.0, seconds=120)
    assert levels[-1] == LONGEST_MS
    assert all(later <= 1.25 * earlier for earlier, later in pairwise(levels))
    # Four seconds without a complaint for each step.
    assert sum(1 for earlier, later in pairwise(levels) if later > earlier) > 5
    assert levels[PROBES] == FIRST_MS


def test_what_the_site_feels_halves_the_batches_at_once() -> None:
    steering = rested()
    levels = beside(steering, lambda _: 9.0, seconds=1)
    # With the third probe that says so, and again as soon as probes have felt the new pace.
    assert levels[:3] == [FIRST_MS, FIRST_MS, FIRST_MS / 2]
    assert levels[10] == FIRST_MS / 4


def test_one_slow_probe_is_no_reason() -> None:
    steering = rested()
    steering.feel(Felt(500.0, 1.0), 5.0, 1.0)
    beside(steering, lambda _: 4.0, seconds=10, since=2.0)
    assert steering.level == FIRST_MS


def test_below_the_shortest_batch_it_rests_and_never_quite_stops() -> None:
    steering = rested()
    beside(steering, lambda _: 9.0, seconds=60)
    assert steering.target_ms == FIRST_MS
    assert steering.duty == pytest.approx(LOWEST_DUTY)


@pytest.mark.parametrize("bearable", [0.5, 3.0, 12.0, 30.0])
def test_it_settles_below_what_is_too_much_without_swinging(bearable: float) -> None:
    steering = rested()
    levels = beside(steering, lambda s: 6.0 if s.level > bearable else 1.0, seconds=600)
    settled = levels[200 * PROBES :]
    assert max(settled) <= 1.25 * bearable
    assert min(settled) >= bearable / 1.25 / 2
    assert sum(settled) / len(settled) > 0.6 * bearable
    # It tries again less and less often.
    downs = sum(1 for earlier, later in pairwise(settled) if later < earlier)
    assert downs <= 4


def test_a_site_that_grows_busy_is_given_way_to_within_seconds_and_comes_back_slowly() -> None:
    steering = rested()
    beside(steering, lambda _: 0.0, seconds=120)
    levels = beside(steering, lambda s: s.level, seconds=5, since=200.0)
    assert levels[-1] <= 5.0
    levels = beside(steering, lambda _: 0.0, seconds=5, since=300.0)
    assert levels[-1] < 12.0


def test_with_noise_the_99th_percentile_is_kept_within_what_is_allowed() -> None:
    noise = random.Random(7)  # noqa: S311 - no secret
    steering = rested()
    felt = []

    def site(now: Steering) -> float:
        # A request meets the end of a batch, or most of it.
        felt.append(noise.random() * now.target_ms * now.duty)
        return felt[-1]

    beside(steering, site, seconds=300)
    assert sorted(felt)[int(0.99 * len(felt))] <= 5.0
    assert steering.level > 2.5


def test_more_is_allowed_where_the_owner_allows_more() -> None:
    levels = []
    for allowed in (2.0, 5.0, 20.0):
        steering = rested()
        beside(steering, lambda s: s.level / 2, seconds=300, allowed_ms=allowed)
        levels.append(steering.level)
    assert levels == sorted(levels)
    assert levels[0] <= 4.0 < levels[1] <= 10.0 < levels[2]


def test_who_waits_for_a_row_waits_for_the_batch() -> None:
    steering = rested()
    steering.level = 40.0
    for number in range(600):
        steering.feel(Felt(REST_MS, REST_MS, behind_us=True), 5.0, number / PROBES)
    assert steering.target_ms <= 5.0
    # A batch that is as short as is allowed is none too long for them.
    assert steering.target_ms > 2.0


def test_batches_shorter_than_the_allowance_are_short_enough() -> None:
    assert [find_shortest(ms) for ms in (0.5, 2.0, 5.0, 20.0)] == [2.0, 2.0, 4.0, 4.0]
    steering = rested()
    beside(steering, lambda _: 9.0, seconds=60, allowed_ms=2.0)
    assert steering.target_ms == 2.0
    assert steering.duty == pytest.approx(LOWEST_DUTY)


def test_without_a_baseline_nothing_is_concluded() -> None:
    steering = Steering()
    beside(steering, lambda _: 100.0, seconds=10)
    assert steering.level == FIRST_MS


def test_a_site_that_has_become_slow_by_itself_is_no_reason_to_stand_still() -> None:
    steering = rested()
    steering.renew(5.0)
    beside(steering, lambda _: 20.0, seconds=60)
    assert steering.doubtful
    # At rest, too, requests take that long now.
    for _ in range(60):
        steering.baseline.add(Felt(REST_MS, REST_MS + 20.0))
    steering.renew(5.0)
    assert (steering.target_ms, steering.duty) == (FIRST_MS, 1.0)
    beside(steering, lambda _: 20.0, seconds=60, since=100.0)
    assert steering.level > FIRST_MS


def test_noise_that_is_not_ours_does_not_stop_it() -> None:
    noise = random.Random(11)  # noqa: S311 - no secret
    levels = []
    for _ in range(11):
        steering = Steering()
        for _ in range(60):
            steering.baseline.add(Felt(noise.expovariate(1 / 20), noise.expovariate(1 / 20)))
        beside(steering, lambda _: noise.expovariate(1 / 20), seconds=60)
        levels.append(steering.level)
    assert sorted(levels)[5] >= FIRST_MS


def test_where_it_is_us_a_new_baseline_changes_nothing() -> None:
    steering = rested()
    steering.renew(5.0)
    beside(steering, lambda _: 20.0, seconds=60)
    for _ in range(60):
        steering.baseline.add(Felt(REST_MS, REST_MS))
    steering.renew(5.0)
    assert steering.duty == pytest.approx(LOWEST_DUTY)


def test_another_processs_baseline_stands_for_ones_own() -> None:
    baseline = Baseline()
    baseline.told = (1.0, 5.0)
    assert baseline.added(Felt(1.5, 8.0)) == 3.0
    for _ in range(REST_SAMPLES):
        baseline.add(Felt(4.0, 4.0))
    # Who has begun at the same time has rested beside the other's work.
    assert baseline.high == (1.0, 4.0)
    assert baseline.felt == (4.0, 4.0)
    baseline.told = None
    assert baseline.high == (4.0, 4.0)


def test_many_processes_step_up_no_faster_together_than_one_alone() -> None:
    steps = []
    for processes in (1, 3):
        steering = rested()
        steering.processes = processes
        levels = beside(steering, lambda _: 0.0, seconds=13)
        steps.append(sum(1 for earlier, later in pairwise(levels) if later > earlier))
    assert steps == [3, 1]


@pytest.mark.parametrize("processes", [2, 5])
def test_several_processes_share_one_allowance(processes: int) -> None:
    noise = random.Random(3)  # noqa: S311 - no secret
    all_ = [rested() for _ in range(processes)]
    felt = []
    for number in range(300 * PROBES):
        # Each feels what all of them do.
        added = sum(noise.random() * each.level for each in all_) / 2
        felt.append(added)
        for each in all_:
            each.processes = processes
            each.feel(Felt(REST_MS, REST_MS + added), 5.0, number / PROBES)
    assert sorted(felt)[int(0.99 * len(felt))] <= 5.0
    # And none starves for another.
    assert min(each.level for each in all_) > 0.3 * max(each.level for each in all_)


def test_what_the_site_feels_at_rest_as_well_is_not_ours() -> None:
    noise = random.Random(5)  # noqa: S311 - no secret

    def site() -> float:
        # One request in fifty takes longer by itself, whoever else is there.
        return noise.expovariate(1 / 20) if noise.random() < 0.02 else noise.random()

    levels = []
    for _ in range(5):
        steering = Steering()
        for _ in range(100):
            steering.baseline.add(Felt(REST_MS, REST_MS + site()))
        beside(steering, lambda _: site(), seconds=100)
        levels.append(steering.level)
    assert sorted(levels)[2] > FIRST_MS


def test_more_often_than_chance_explains() -> None:
    assert [is_often(times, 100, 0.01) for times in (1, 4, 5, 6)] == [False, False, False, True]
    assert is_often(3, 10, 0.01)
    assert not is_often(3, 10, 0.04)


def test_a_probe_from_before_a_step_says_nothing_of_the_new_level() -> None:
    steering = rested()
    for _ in range(10):
        steering.feel(Felt(9.0, 9.0), 5.0, 1.0)
    assert steering.level == FIRST_MS / 2


def test_the_highest_but_one_in_fifty() -> None:
    assert near_highest([]) == 0.0
    assert near_highest([3.0]) == 3.0
    assert near_highest([1.0, 2.0, 30.0]) == 2.0
    assert near_highest([float(n) for n in range(100)]) == 97.0


def test_the_pace_beside_others_is_the_steerings_unless_the_user_says_otherwise() -> None:
    for pace, target, duty in (
        (Pace(), FIRST_MS, 0.5),
        (Pace(duty=0.25), FIRST_MS, 0.25),
        (Pace(target_ms=20), 20, 0.5),
        (Pace(duty=0.25, target_ms=20), 20, 0.25),
    ):
        pacer = Pacer(pace)
        pacer.shared = True
        pacer.steering.level = FIRST_MS / 2
        assert (pacer.target_ms, pacer.duty) == (target, duty)
        pacer.shared = False
        assert (pacer.target_ms, pacer.duty) == (pace.target_ms or 50, pace.duty or 1.0)
