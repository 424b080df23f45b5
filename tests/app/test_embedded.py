"""The embedded PostgreSQL, with real processes that come, go and are killed."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import psycopg
import pytest

from app.embedded.programs import ServerError
from app.embedded.server import Cluster
from tests.fixtures.database import wait_until
from tests.fixtures.nursery import Program

ROOT = Path(__file__).resolve().parent.parent.parent

USER_OF_THE_SERVER = """
import os, sys
from pathlib import Path
from app.embedded.server import Cluster
data_dir, *user = sys.argv[1:]
cluster = Cluster(Path(data_dir))
if user:
    # Only now, since an ordinary user may not be allowed to read the programs of this Python.
    os.setgroups([])
    os.setgid(int(user[0]))
    os.setuid(int(user[0]))
cluster.start()
print(cluster.pid, flush=True)
sys.stdin.read()
"""


class Process:
    """Another process that uses the server until it is told to leave, or its test ends."""

    started: ClassVar[list[subprocess.Popen[str]]] = []

    def __init__(self, data_dir: Path, *user: int) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", USER_OF_THE_SERVER, data_dir, *map(str, user)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(self.popen)

    def server(self) -> int:
        """Wait until it uses the server, and return the server's process id."""
        assert self.popen.stdout
        return int(self.popen.stdout.readline())

    def leave(self) -> None:
        self.popen.communicate(timeout=30)
        assert self.popen.returncode == 0

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.popen.send_signal(number)
        self.popen.communicate(timeout=30)


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "pg"
    yield folder
    for popen in Process.started:
        popen.kill()
        popen.communicate()
    Process.started.clear()
    for process in postgres_processes(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def postgres_processes(data_dir: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["name", "cwd"])
        if process.info["name"] == "postgres" and process.info["cwd"] == str(data_dir)
    ]


def kill_server(cluster: Cluster) -> int:
    """Kill the server itself, and return the process id that it had."""
    server = cluster.pid
    assert server
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: cluster.pid is None, "the server is gone")
    return server


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    chosen = ("DATABASE_URL", "EMBEDDED_POSTGRES_VERSION")
    inherited = {name: value for name, value in os.environ.items() if name not in chosen}
    program = Program(["manage.py", *arguments], cwd=ROOT, env=inherited | environment)
    return program.complete(timeout=60)


def as_server_user(data_dir: Path) -> dict[str, Any]:
    """Arguments that make Popen run something as the user that the server runs as."""
    return {"user": data_dir.stat().st_uid} if os.geteuid() == 0 else {}


# Starting and stopping


@pytest.mark.parametrize("arguments", [("help",), ("check",), ("seed_tickets", "--help")])
def test_a_command_without_a_query_starts_nothing(
    data_dir: Path, arguments: tuple[str, ...]
) -> None:
    done = manage(*arguments, EMBEDDED_POSTGRES_DATA=str(data_dir))
    assert (done.returncode, done.stderr) == (0, "")
    assert list(data_dir.parent.iterdir()) == []


def test_the_first_query_creates_all_and_the_end_of_the_command_stops_it(data_dir: Path) -> None:
    done = manage("migrate", EMBEDDED_POSTGRES_DATA=str(data_dir))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Operations to perform:\n")
    assert postgres_processes(data_dir) == []
    with Cluster(data_dir) as cluster, psycopg.connect(cluster.url("tickets")) as connection:
        found = connection.execute("SELECT count(*) FROM django_content_type").fetchone()
    assert found is not None
    assert found[0] > 0


def test_processes_that_start_at_once_share_one_server(data_dir: Path) -> None:
    processes = [Process(data_dir) for _ in range(4)]
    servers = {process.server() for process in processes}
    for process in processes:
        process.leave()
    assert len(servers) == 1


def test_the_server_stays_until_its_last_user_leaves(data_dir: Path) -> None:
    first, second = Process(data_dir), Process(data_dir)
    server = first.server()
    assert second.server() == server
    first.leave()
    with psycopg.connect(Cluster(data_dir).url()):
        pass
    second.leave()
    assert postgres_processes(data_dir) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_user_no_longer_counts(data_dir: Path, number: int) -> None:
    killed = Process(data_dir)
    server = killed.server()
    killed.kill(number)
    survivor = Process(data_dir)
    assert survivor.server() == server
    survivor.leave()
    assert postgres_processes(data_dir) == []


def test_a_forked_child_is_a_user_too(data_dir: Path) -> None:
    cluster = Cluster(data_dir)
    cluster.start()
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    cluster.stop()
    assert cluster.pid
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with cluster:
        pass
    assert cluster.pid is None


# After accidents


def test_a_killed_server_is_started_again_by_those_who_use_it(data_dir: Path) -> None:
    with Cluster(data_dir) as cluster:
        before = kill_server(cluster)
        cluster.start()
        assert cluster.pid not in (None, before)


def test_children_of_a_killed_server_do_not_keep_the_next_from_starting(data_dir: Path) -> None:
    with Cluster(data_dir) as cluster:
        connection = psycopg.connect(cluster.url(), autocommit=True)
        # Busy without end, and without a look at whether the server lives.
        busy = "DO $$ DECLARE n bigint := 0; BEGIN LOOP n := n + 1; END LOOP; END $$"

        def run() -> None:
            with contextlib.suppress(psycopg.Error):
                connection.execute(busy)

        thread = threading.Thread(target=run)
        thread.start()
        backend = psutil.Process(connection.info.backend_pid)
        wait_until(lambda: backend.cpu_times().user > 0.1, "it is at work")
        kill_server(cluster)
        assert backend.is_running()
        cluster.start()
        assert cluster.pid
        thread.join(timeout=20)
        assert not thread.is_alive()
        connection.close()


def test_a_process_id_given_to_another_program_is_not_taken_for_the_server(data_dir: Path) -> None:
    with Cluster(data_dir) as cluster:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
    sleep = [shutil.which("sleep") or "sleep", "60"]
    with subprocess.Popen(sleep, **as_server_user(data_dir)) as stranger:
        leftover = data_dir / "postmaster.pid"
        leftover.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        shutil.chown(leftover, data_dir.stat().st_uid)
        try:
            with cluster:
                assert cluster.pid not in (None, stranger.pid)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_broken_pid_file_does_not_stick(data_dir: Path) -> None:
    with Cluster(data_dir) as cluster:
        pass
    for text in ("", "1", "1\n/elsewhere\n", "no number\n"):
        (data_dir / "postmaster.pid").write_text(text)
        with cluster:
            assert cluster.pid


def test_a_creation_that_was_interrupted_begins_anew(data_dir: Path) -> None:
    unfinished = data_dir.with_name("pg.unfinished-1")
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    with Cluster(data_dir) as cluster:
        assert cluster.pid
    assert not unfinished.exists()


# Places and settings


def test_a_long_or_odd_path_will_do(tmp_path: Path) -> None:
    folder = tmp_path / 'with "quotes", $HOME & space' / ("long" * 25)
    with Cluster(folder) as cluster, psycopg.connect(cluster.url()) as connection:
        assert connection.execute("SHOW data_directory").fetchone() == (str(folder),)
        assert len(cluster.host) < 100


def test_the_server_takes_settings_and_another_version(data_dir: Path) -> None:
    with (
        Cluster(data_dir, 16, options={"max_connections": "7"}) as cluster,
        psycopg.connect(cluster.url()) as connection,
    ):
        assert connection.execute("SHOW max_connections").fetchone() == ("7",)
        assert connection.info.server_version // 10000 == 16
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
    done = manage("migrate", EMBEDDED_POSTGRES_DATA=str(data_dir))
    assert done.returncode == 1
    assert done.stderr == (
        f"manage.py: The data folder {data_dir} is of PostgreSQL 16, not 18: "
        "set EMBEDDED_POSTGRES_VERSION, or another folder in EMBEDDED_POSTGRES_DATA.\n"
    )


def test_a_server_that_does_not_start_says_why(data_dir: Path) -> None:
    cluster = Cluster(data_dir, options={"max_connections": "-7"})
    with pytest.raises(ServerError) as raised:
        cluster.start()
    assert str(raised.value).startswith("PostgreSQL did not start: -7 is outside the valid range")
    cluster.stop()


def test_a_folder_of_other_things_is_left_alone(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "letter.txt").touch()
    done = manage("migrate", EMBEDDED_POSTGRES_DATA=str(data_dir))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"manage.py: {data_dir} is not empty, and no PostgreSQL data folder. "
        "Name another one in EMBEDDED_POSTGRES_DATA.\n"
    )


def test_dbshell_has_a_psql_of_its_own(data_dir: Path) -> None:
    done = manage("dbshell", "--", "-Atc", "SELECT 7", EMBEDDED_POSTGRES_DATA=str(data_dir))
    assert (done.returncode, done.stdout) == (0, "7\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_an_ordinary_user_and_root_share_a_server(data_dir: Path) -> None:
    ordinary = pwd.getpwnam("nobody").pw_uid
    with Cluster(data_dir.with_name("of-root")):
        pass  # opens the way to the programs and to the folder of the test
    os.chown(data_dir.parent, ordinary, ordinary)
    first = Process(data_dir, ordinary)
    server = first.server()
    with Cluster(data_dir) as cluster:
        assert cluster.pid == server
        first.leave()
        assert cluster.pid == server
    assert postgres_processes(data_dir) == []
    with cluster:  # started by root, on the other's data
        second = Process(data_dir, ordinary)
        assert second.server() == cluster.pid
    second.leave()
    assert postgres_processes(data_dir) == []
