"""What became of the access token of before; copied as a test beside theirs."""

from __future__ import annotations

import pytest

from .settings import STAGE


@pytest.mark.usefixtures("db")
def test_a_leaked_token_logs_nobody_in_once_it_is_exchanged(logged_in: dict[str, bool]) -> None:
    """The row's own does, and one that is made now: each is looked up by its own checksum."""
    assert logged_in == {"before": STAGE != "exchanged", "row": True, "now": True}
