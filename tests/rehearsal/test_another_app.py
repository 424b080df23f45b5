"""An app of another shape is rehearsed with nothing written but how one of its rows is made."""

from __future__ import annotations

import json

import pytest

from tests.fixtures.database import Database
from tests.rehearsal.forked import FORKED_COMMANDS

TARGET = "vouchers.Voucher.new_code"
VOUCHERS = "tests.vouchers.rehearsal"
SETTINGS = "tests.vouchers.settings"


@pytest.fixture
def vouchers(empty_database: Database) -> Database:
    """A database of a project that has vouchers."""
    return empty_database


@pytest.mark.timeout(240)
def test_it_passes(vouchers: Database) -> None:
    done = vouchers.start(
        *(
            "playbook",
            "rehearse",
            TARGET,
            "--json",
            "--rows",
            "2000",
            "--rate",
            "100",
            "--seconds",
            "0.3",
        ),
        *("--max-stall-ms", "30000"),
        *("--row", f"{VOUCHERS}.make_voucher", "--read", f"{VOUCHERS}.read_vouchers"),
        settings=SETTINGS,
        program=FORKED_COMMANDS,
    )
    output, complaint = done.communicate()
    verdict = json.loads(output)
    assert (verdict["reasons"], complaint, done.returncode) == ([], "", 0)
    assert set(verdict["checks"].values()) == {0}
    assert verdict["rows"] == 2000
    # The lost writes and the rows made were looked for, so some were made.
    assert all(phase["requests"] for phase in verdict["phases"])


def test_rows_that_cannot_be_made_are_refused_before_it_begins(vouchers: Database) -> None:
    done = vouchers.manage("playbook", "rehearse", TARGET, "--rows", "10", settings=SETTINGS)
    assert done.returncode == 1
    assert vouchers.manage("migrate", settings=SETTINGS).returncode == 0
    words = vouchers.complaint(
        """INSERT INTO vouchers_voucher (id, "Code", note) VALUES (gen_random_uuid(), 'any', '')"""
    )
    assert '"Shop"' in words or "»Shop«" in words
    assert done.stderr == (
        "CommandError: The stage could not be set: add rows: No row of vouchers.Voucher can be "
        f"made of its defaults: PostgreSQL says: {words}. Name a callable that returns a row's "
        "fields with --row.\n"
    )


@pytest.mark.parametrize(
    ("option", "path", "sentence"),
    [
        ("--row", f"{VOUCHERS}.nothing", f"'{VOUCHERS}.nothing' cannot be imported: Module "),
        ("--read", f"{VOUCHERS}.__name__", f"'{VOUCHERS}.__name__' is no callable.\n"),
        ("--read", "nothing", "'nothing' cannot be imported: nothing doesn't look like a module "),
    ],
)
def test_a_callable_that_is_not_there_is_refused(
    vouchers: Database, option: str, path: str, sentence: str
) -> None:
    done = vouchers.manage("playbook", "rehearse", TARGET, option, path, settings=SETTINGS)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"CommandError: {sentence}")
    assert done.stderr.count("\n") == 1


def test_a_field_that_no_client_could_write_is_refused(vouchers: Database) -> None:
    done = vouchers.manage("playbook", "rehearse", TARGET, "--stamp", "shop", settings=SETTINGS)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "CommandError: 'shop' of vouchers.Voucher is no field that the clients could write: name "
        "a date with time, a text or an integer with --stamp, neither unique nor with choices.\n"
    )
