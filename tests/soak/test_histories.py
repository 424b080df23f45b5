"""A few random histories of writes and plays; `make soak` has the many."""

from tests.soak.histories import play_histories


def test_no_write_is_lost_and_no_leaked_token_is_live(template: str) -> None:
    made = play_histories(template, examples=15, steps=30, derandomize=True)
    assert {"swap_token_columns: 0", "swap_token_columns --revert: 0"} < made.keys()
    assert made["write while swapped"] > 0
