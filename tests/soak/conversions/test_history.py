"""A few random histories of conversions; `make soak` has the many."""

import pytest

from tests.soak.conversions.history import play_histories


# Beside another worker on a busy machine it takes longer than a few seconds.
@pytest.mark.timeout(300)
def test_either_column_holds_what_the_page_says_of_who_writes_what() -> None:
    made = play_histories(examples=6, steps=18, derandomize=True)
    assert made["swap: done"] > 0
    assert made["write while swapped"] > 0
