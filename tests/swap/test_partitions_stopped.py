"""Partitioned tables, and a play that ends between its transactions."""

from __future__ import annotations

import pytest

from migrations_playbook import status
from migrations_playbook.errors import LockNotAvailable
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.play import swap
from migrations_playbook.swap.reports import Exchanged, Resuming, Verified
from tests.fixtures.database import Database
from tests.fixtures.models_partitioned import STATEMENTS, Partitioned, expand, verified
from tests.fixtures.models_zoo import fill, play

shapes = pytest.mark.parametrize("model", STATEMENTS, ids=lambda model: model.__name__)


def swap_as_if_killed_after_its_commit(replacement: Replacement) -> None:
    events = swap(replacement, using="default")
    while not isinstance(next(events), Exchanged):
        pass
    events.close()


def look(replacement: Replacement) -> status.ShadowStatus:
    (found,) = status.read("default", replacement)
    return found


def rotate(database: Database, model: type[Partitioned]) -> tuple[Replacement, str, str]:
    """Fill and swap; the dumps of before and after tell what an undisturbed swap comes to."""
    replacement = expand(database, model)
    fill(replacement)
    before = database.dump()
    play(replacement)
    return replacement, before, database.dump()


def finish(replacement: Replacement) -> None:
    """Run the swap once more, which does the rest."""
    resuming, *_, proof = swap(replacement, using="default")
    assert resuming == Resuming(("one",))
    assert isinstance(proof, Verified)
    assert proof.passed
    assert not look(replacement).left
    assert "contract" in look(replacement).next


@shapes
def test_names_that_a_kill_after_the_commit_has_left_are_said_and_the_same_command_exchanges_them(
    model: type[Partitioned], database: Database
) -> None:
    replacement, before, undisturbed = rotate(database, model)
    play(replacement, revert=True)
    swap_as_if_killed_after_its_commit(replacement)
    assert database.dump() != undisturbed
    # Nothing that a query could notice.
    assert verified(replacement).passed
    left = look(replacement)
    assert [str(each) for each in left.left] == ["unique constraint one"]
    assert left.next == replacement.command("swap")
    finish(replacement)
    assert database.dump() == undisturbed
    # A revert needs nothing finished first.
    play(replacement, revert=True)
    swap_as_if_killed_after_its_commit(replacement)
    assert play(replacement, revert=True).passed
    assert database.dump() == before


@shapes
def test_names_that_a_revert_has_given_back_in_vain_are_exchanged_by_either_command(
    model: type[Partitioned], database: Database
) -> None:
    replacement, before, undisturbed = rotate(database, model)
    with database.connect() as busy:
        busy.execute(f"SELECT FROM {model._meta.db_table} LIMIT 0")
        with pytest.raises(LockNotAvailable):
            list(
                swap(
                    replacement,
                    using="default",
                    revert=True,
                    policy=LockPolicy(timeout_ms=10, attempts=1),
                )
            )
    assert look(replacement).next == replacement.command("swap")
    finish(replacement)
    assert database.dump() == undisturbed
    play(replacement, revert=True)
    assert database.dump() == before
