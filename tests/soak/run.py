"""How random histories are run: a few by the tests, many by `make soak`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Protocol

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

# How many steps a history has at most, of those at length.
STEPS = 50


class Play(Protocol):
    """Plays random histories; returns how many steps of each kind they had."""

    def __call__(self, *, examples: int, steps: int, derandomize: bool) -> Counter[str]: ...


def run_histories(
    machine: type[RuleBasedStateMachine], *, examples: int, steps: int, derandomize: bool
) -> None:
    """Run random histories.

    Arguments:
        machine: what a history is made of.
        examples: how many histories.
        steps: how many steps one has at most.
        derandomize: whether each run is the same.
    """
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=derandomize,
            database=None,
            deadline=None,
            print_blob=False,
            report_multiple_bugs=False,
            # To shrink takes minutes.
            phases=(Phase.generate,) if derandomize else (Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


def run_at_length(play: Play, steps: int) -> None:
    """Run so many steps of random histories; say how many there were of each kind."""
    began = time.monotonic()
    made = play(examples=steps // STEPS, steps=STEPS, derandomize=False)
    minutes = (time.monotonic() - began) / 60
    for what, count in sorted(made.items()):
        sys.stdout.write(f"{count:>7,} {what}\n")
    sys.stdout.write(f"{made.total():,} steps in {minutes:.0f} minutes; each as it must be.\n")
