"""Disk, locks, a server that takes writes: what runs short is one sentence, and goes on after."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg import IsolationLevel, sql

from tests.fixtures.database import Database, admin_url
from tests.fixtures.replica import replicated
from tests.fixtures.server import new_server, server_home
from tests.fixtures.subscriber import OnServer
from tests.fixtures.tickets import add_old_tickets, bring_to, changed, nulls, remember


@dataclass(frozen=True)
class SmallDisk:
    """A file system of a few MB, with a tablespace "small" on it.

    Arguments:
        folder: where it is mounted.
    """

    folder: Path

    def resize(self, megabytes: int) -> None:
        options = f"remount,size={megabytes}m"
        subprocess.run(["mount", "-o", options, str(self.folder)], check=True, capture_output=True)  # noqa: S607 - root's


@contextmanager
def small_disk(database: Database, megabytes: int) -> Iterator[SmallDisk]:
    """Within this context there is one, which is the server's; skip where none may be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="playbook-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("no file system may be mounted here")
    try:
        data = Path(database.value("SHOW data_directory")).stat()
        space = folder / "space"
        space.mkdir()
        shutil.chown(space, data.st_uid, data.st_gid)
        with database.connect(autocommit=True) as session:
            session.execute(
                sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(space)))
            )
        try:
            yield SmallDisk(folder)
        finally:
            empty_disk(database)
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)  # noqa: S607
        folder.rmdir()


def empty_disk(database: Database) -> None:
    database.run("ALTER TABLE tickets_ticket SET TABLESPACE pg_default")
    for (index,) in database.fetch(
        "SELECT indexrelid::regclass::text FROM pg_index "
        "WHERE indrelid = 'tickets_ticket'::regclass"
    ):
        database.run(f"ALTER INDEX {index} SET TABLESPACE pg_default")
    database.run("DROP TABLESPACE small")


FULL = (
    "CommandError: The server's disk is full. What was committed stays. Make room, then run the "
    "same command again.\n"
)


def test_a_full_disk_stops_the_backfill_with_a_sentence_and_nothing_lost(
    database: Database,
) -> None:
    add_old_tickets(database, 30_000)
    remember(database, "token")
    with small_disk(database, 3) as disk:
        database.run("ALTER TABLE tickets_ticket SET TABLESPACE small")
        command = ("backfill_new_token", "--no-progress", "--vacuum-every", "0")
        with database.connect() as dump:
            # While its snapshot lives, no old version of a row gives its room back.
            dump.isolation_level = IsolationLevel.REPEATABLE_READ
            dump.execute("SELECT")
            done = database.manage(*command)
        assert (done.returncode, done.stderr) == (75, FULL)
        left = nulls(database)
        assert 0 < left < 30_000
        disk.resize(64)
        assert database.manage(*command).returncode == 0
    assert nulls(database) == 0
    assert changed(database, "token") == 0


def test_a_full_disk_stops_the_build_of_an_index_with_a_sentence_and_nothing_lost(
    database: Database,
) -> None:
    add_old_tickets(database, 40_000)
    bring_to("filled")
    remember(database, "token", "new_token")
    database.run("REINDEX INDEX tickets_ticket_token_key")
    with small_disk(database, 2) as disk:
        database.run("ALTER INDEX tickets_ticket_token_key SET TABLESPACE small")
        done = database.manage("swap_token_columns")
        assert (done.returncode, done.stderr) == (75, FULL)
        assert changed(database, "token") == 0
        disk.resize(64)
        assert database.manage("swap_token_columns").returncode == 0
        assert changed(database, "token", now="new_token") == 0


def test_too_little_room_for_locks_is_foretold_with_the_setting() -> None:
    folder = Path(tempfile.mkdtemp(prefix="playbook-few-locks-", dir=server_home()))
    server = new_server(
        folder / "data",
        max_locks_per_transaction="16",
        max_connections="6",
        superuser_reserved_connections="1",
        max_wal_senders="0",
        max_worker_processes="2",
        autovacuum="off",
    )
    try:
        with server:
            server.create_database("many")
            database = OnServer("many", server)
            assert database.manage("migrate").returncode == 0
            database.run("ALTER TABLE tickets_ticket RENAME TO plain")
            database.run(
                "CREATE TABLE tickets_ticket (LIKE plain INCLUDING DEFAULTS INCLUDING IDENTITY, "
                "UNIQUE (token, id)) PARTITION BY HASH (id)"
            )
            database.run("DROP TABLE plain")
            database.run(
                "DO $$ BEGIN FOR n IN 0..29 LOOP EXECUTE format('CREATE TABLE part_%s PARTITION OF "
                "tickets_ticket FOR VALUES WITH (MODULUS 30, REMAINDER %s)', n, n); COMMIT; "
                "END LOOP; END $$"
            )
            assert database.manage("pgtrigger", "install").returncode == 0
            done = database.manage("swap_token_columns", "--dry-run")
            assert done.returncode == 1
            assert "set max_locks_per_transaction to " in done.stdout, done.stderr
            # Where there is room for the swap there may be none for the revert, which drops the
            # quarantine's triggers too.
            database.run(
                "DO $$ BEGIN FOR n IN 12..29 LOOP EXECUTE format('DROP TABLE part_%s', n); COMMIT; "
                "END LOOP; END $$"
            )
            done = database.manage("swap_token_columns")
            assert done.returncode == 0, done.stderr
            done = database.manage("swap_token_columns", "--revert")
            assert done.returncode == 1
            assert "set max_locks_per_transaction to " in done.stderr
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_standby_says_that_it_is_one_and_is_known_to_the_plan() -> None:
    with replicated() as pair:
        standby = OnServer("tickets", pair.replica)
        done = standby.manage("swap_token_columns")
        assert done.returncode == 1
        assert "is a standby, which takes no writes" in done.stderr
        assert done.stderr.count("\n") == 1
        # The primary knows that a query on the standby may be cancelled by the exchange.
        plan = pair.manage("swap_token_columns", "--dry-run")
        assert plan.returncode == 0, plan.stderr
        assert "max_standby_streaming_delay is cancelled): left as it is" in plan.stdout
        # To look is allowed.
        assert standby.manage("playbook_status").returncode == 0


def test_a_subscriptions_table_is_refused_before_it_is_filled_or_swapped(
    database: Database,
) -> None:
    add_old_tickets(database, 5)
    database.run(
        f"CREATE SUBSCRIPTION incoming CONNECTION '{admin_url()}' PUBLICATION outgoing "
        "WITH (connect = false)"
    )
    with database.connect(autocommit=True) as session:
        # As REFRESH PUBLICATION would, for which there would have to be another server.
        session.execute("SET allow_system_table_mods = on")
        session.execute(
            "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) "
            "SELECT oid, 'tickets_ticket'::regclass, 'r' FROM pg_subscription"
        )
    try:
        done = database.manage("backfill_new_token")
        assert done.returncode == 1
        assert "it is filled by a subscription (incoming), whose rows come past" in done.stderr
        assert nulls(database) == 5
    finally:
        database.run("ALTER SUBSCRIPTION incoming SET (slot_name = NONE)")
        database.run("DROP SUBSCRIPTION incoming")
