"""A few random histories of writes and plays; `make soak` has the many."""

import pytest

from tests.soak.histories import play_histories


# Beside another worker on a busy machine it takes a minute.
@pytest.mark.timeout(300)
def test_no_write_is_lost_and_no_leaked_token_is_live(template: str) -> None:
    made = play_histories(template, examples=12, steps=30, derandomize=True)
    assert made["swap_token_columns: 0"] > 0
    assert made["write while swapped"] > 0
