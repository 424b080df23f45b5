import pytest

from migrations_playbook.rehearsal import runner
from tests.rehearsal.forked import FORKED


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the nursery have the processes of the rehearsals in this process."""
    monkeypatch.setattr(runner, "subprocess", FORKED)
