"""The work after a committed exchange: materialized views, statistics, and the proof.

The work may be interrupted anywhere. The catalog shows the remainder, and the same command finishes
the work.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.db import Error as DatabaseError
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors as pg_errors

from migrations_playbook.errors import (
    ConnectionLost,
    LockNotAvailable,
    VerificationFailed,
    primary_message,
)
from migrations_playbook.postgres.locks import LockPolicy
from migrations_playbook.postgres.query import (
    engine_transaction,
    execute,
    pin_search_path,
    set_local,
)
from migrations_playbook.postgres.sessions import is_connection_lost
from migrations_playbook.postgres.steps import Lock, Step
from migrations_playbook.replacement import Replacement
from migrations_playbook.swap.dependents.definitions.reading import read_operator_schemas
from migrations_playbook.swap.gate import finishing_command
from migrations_playbook.swap.pair import Pair
from migrations_playbook.swap.proof.verify import verify_values
from migrations_playbook.swap.reports import Converted, FollowingUp, Together, Verified


def conclude(
    connection: BaseDatabaseWrapper,
    pair: Pair,
    after: tuple[Step, ...],
    policy: LockPolicy,
    *,
    revert: bool,
    refresh: bool,
    rights_changed: tuple[str, ...] = (),
) -> Iterator[FollowingUp | Verified]:
    """Do the work after a committed exchange, and prove the exchange.

    Lock: see `follow`; then ACCESS SHARE.

    Arguments:
        pair: the columns, as they stood before or after the exchange.
        after: the steps that follow.
        revert: whether the exchange was a revert.
        refresh: whether materialized views are built anew.
        rights_changed: see `proof.verify`.

    Raises:
        LockNotAvailable: a step of `after` could not be done; names the command to finish with.
        ConnectionLost: the server went away in between; likewise.
        VerificationFailed: a number is wrong, or could not be counted.
    """
    step: Step | None = None
    finish = finishing_command(pair.replacement, revert=revert, refresh=refresh)
    try:
        for step in after:
            yield FollowingUp(step.what)
            follow(connection, pair, step, policy, revert=revert, refresh=refresh)
        step = None
        verified = verify_values(connection, pair.reread(connection), rights_changed=rights_changed)
    except DatabaseError as error:
        done = f"The exchange of {pair.replacement.label} was committed, but"
        if step is not None:
            sentence = f"{done} this was not done: {step.what} ({primary_message(error)})."
            again = f' Run "{finish}" to finish.'
        else:
            sentence = f"{done} could not be verified: {primary_message(error)}."
            verify = pair.replacement.command("swap", "--verify")
            again = "" if revert else f' Run "{verify}".'
        kind = ConnectionLost if is_connection_lost(error) else VerificationFailed
        raise kind(sentence + again) from None
    yield verified
    insist(pair.replacement, verified, revert=revert)


def insist(replacement: Replacement, verified: Verified, *, revert: bool) -> None:
    """Raise unless the proof was passed.

    Raises:
        VerificationFailed: names the faults.
    """
    if verified.passed:
        return
    shown = f" ({', '.join(verified.exposing)})" if verified.exposing else ""
    named = [
        *(f"not renewed: materialized view {each}" for each in verified.left),
        *(f"still bound to it: {each}" for each in verified.still_bound),
        *(f"privileges changed: {each}" for each in verified.rights_changed),
        *verified.problems,
    ]
    raise VerificationFailed(
        f"{replacement.label} was exchanged, but the numbers are not what they must be: "
        f"{verified.counts}, {verified.exposed} shown by views{shown}"
        f"{''.join(f'; {each}' for each in named)}. "
        + " ".join(_remedies(replacement, verified, revert=revert))
    )


def _remedies(replacement: Replacement, verified: Verified, *, revert: bool) -> Iterator[str]:
    """Yield the remedies for each fault; never a revert, which makes every leaked value live."""
    if verified.left:
        finish = finishing_command(replacement, revert=revert, refresh=True)
        yield f'Run "{finish}" to finish.'
        return
    if isinstance(verified, Converted) and verified.out_of_step:
        mend = replacement.command("swap", "--mend")
        yield f'Run "{mend}": the values of {replacement.live} are kept.'
    elif any(verified.numbers.values()) and isinstance(verified, Together):
        yield "Write a new value to each of those rows, with what is made of it."
    elif any(verified.numbers.values()):
        yield "Write a new value to each of those rows."
    if verified.exposed or verified.still_bound:
        yield "Let what is named read the live column, or drop it."
    if verified.rights_changed:
        yield "Grant what was lost, and revoke what was gained."
    if verified.problems:
        yield f'Run "{replacement.command("swap", "--mend")}".'
    if not revert:
        yield f'Then run "{replacement.command("swap", "--verify")}" again.'


def follow(
    connection: BaseDatabaseWrapper,
    pair: Pair,
    step: Step,
    policy: LockPolicy,
    *,
    revert: bool,
    refresh: bool,
) -> None:
    """Do the steps after a committed exchange: renew materialized views, collect statistics.

    Lock: on the table as each step says; on a materialized view ACCESS EXCLUSIVE, asked for in
    short attempts.

    Arguments:
        revert, refresh: as for `conclude`.

    Raises:
        LockNotAvailable: the exchange is committed, but the step is not done.
    """
    weak = step.lock is Lock.SHARE_UPDATE_EXCLUSIVE
    for _ in policy.take_turns():
        try:
            with engine_transaction(connection):
                timeout = policy.patience_ms if weak else policy.timeout_ms
                set_local(connection, "lock_timeout", f"{timeout}ms")
                if not step.as_session:
                    pin_search_path(connection, *read_operator_schemas(connection, pair))
                execute(connection, step.statement)
        except OperationalError as error:
            if not isinstance(error.__cause__, pg_errors.LockNotAvailable):
                raise
        else:
            return
    retired = pair.replacement.meaning.words.retired
    until = f" Until then {retired} may be shown there." if refresh else ""
    raise LockNotAvailable(
        f"The exchange of {pair.replacement.label} was committed, but this was not done, because "
        f"others hold what it needs: {step.what}.{until} "
        f'Run "{finishing_command(pair.replacement, revert=revert, refresh=refresh)}" to finish.'
    )
