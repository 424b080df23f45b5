"""A PostgreSQL server of one's own, shared by all processes that use its data folder.

Who uses it is counted by the kernel. Every process holds a shared `flock` beside the data folder
for as long as it uses the server. On leaving it lets go and tries, without waiting, to get the
lock exclusively: whoever succeeds was the last, and stops the server while it holds off newcomers.
The kernel takes the lock from a process that dies, however it dies, so no list of users can go
stale. (A server whose only user was killed runs on until its next user leaves.)

The server listens on a Unix socket only, in a folder that only its owner can enter; that is its
whole access control.
"""

import atexit
import contextlib
import fcntl
import glob
import hashlib
import os
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple, Self
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from app.embedded import programs
from app.embedded.programs import ServerError

# The role that owns the cluster.
SUPERUSER = "postgres"
# Seconds until a start counts as failed. Recovery after a crash may have much WAL to replay.
START_TIMEOUT = 300.0
# Seconds that a stop is waited for. It writes a checkpoint.
STOP_TIMEOUT = 60

_SOCKET_NAME = ".s.PGSQL.5432"
# An address of a Unix socket has 108 bytes on Linux, 104 on macOS, with a zero at the end.
_SOCKET_PATH_BYTES = 103


class _Postmaster(NamedTuple):
    """What postmaster.pid says of the server; the server fills it in line by line."""

    pid: int
    port: int
    host: str
    ready: bool


class Cluster:
    """One data folder and the server on it.

    As root, which PostgreSQL refuses to run as, the server runs as the owner of the data folder;
    a new one goes to the system user `pgserver`, which is created. The folders above it and above
    the programs are opened to passing through (o+x).

    Arguments:
        data_dir: The data folder, created when missing. Locks lie beside it.
        major: PostgreSQL's major version, which the data folder must be of.
        bin_path: The folder of `initdb`, `pg_ctl` and `postgres`; by default the package's.
        options: Settings that the server is started with, beyond its defaults. They have no
            effect while it runs already.

    Raises:
        ServerError: There are no programs of this version, or the folder is of another version.
    """

    def __init__(
        self,
        data_dir: Path,
        major: int = 18,
        *,
        bin_path: Path | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        # Resolved, since it is compared with the kernel's idea of a process's folder.
        self.data_dir = data_dir.expanduser().resolve()
        self.major = major
        self.bin_path = bin_path or programs.packaged(major)
        self.options = dict(options or {})
        self._use: IO[bytes] | None = None
        self._use_guard = threading.Lock()
        self._refuse_other_folder()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it does not accept connections."""
        server = self._running()
        return server and server.pid

    @property
    def host(self) -> str:
        """The folder of the server's socket, as libpq wants it."""
        return self._address().host

    @property
    def port(self) -> int:
        """The number in the name of the server's socket."""
        return self._address().port

    def url(self, database: str = SUPERUSER) -> str:
        """Return the running server's address, fit for libpq and for DATABASE_URL.

        Arguments:
            database: The name of the database to connect to.

        Raises:
            ServerError: It is not running.
        """
        host = quote(self.host, safe="")
        return f"postgresql://{SUPERUSER}@{host}:{self.port}/{quote(database, safe='')}"

    def start(self) -> None:
        """Count this process as a user, and start the server unless it runs.

        It can be called as often as you like, and starts a server that died meanwhile.

        Raises:
            ServerError: It did not start; the message says why, and where its log is.
        """
        try:
            self._join()
            if not self._running():
                with self._lock("start", fcntl.LOCK_EX):
                    self._launch()
        except OSError as error:
            raise ServerError(
                f"The PostgreSQL data folder {self.data_dir} cannot be used: {error.strerror} "
                f"({error.filename}). Name another one in EMBEDDED_POSTGRES_DATA."
            ) from error

    def stop(self) -> None:
        """Stop counting this process as a user, and stop the server if it was the last one."""
        atexit.unregister(self.stop)
        with self._use_guard:
            if self._use is None:
                return
            # Closed, not unlocked: a forked child shares the lock, and goes on using the server.
            self._use.close()
            self._use = None
        with contextlib.suppress(OSError), self._lock("use", fcntl.LOCK_EX | fcntl.LOCK_NB):
            # pg_ctl signals whatever process postmaster.pid names: be sure that it is the server.
            if self._running():
                self._pg_ctl("stop", "-m", "fast", "-t", str(STOP_TIMEOUT))

    def create_database(self, name: str) -> bool:
        """Create a database unless it exists.

        Arguments:
            name: The database's name.

        Returns:
            Whether it was missing; another process may have been first to create it.
        """
        with psycopg.connect(self.url(), autocommit=True) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
            if found.rowcount:
                return False
            with contextlib.suppress(
                psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation
            ):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            return True

    # Users

    def _join(self) -> None:
        """Take the lock that counts users. Wait while the last user stops the server."""
        with self._use_guard:
            if self._use is None:
                self._use = self._open_locked("use", fcntl.LOCK_SH)
                atexit.register(self.stop)

    def _open_locked(self, name: str, operation: int) -> IO[bytes]:
        """Return the opened lock file, locked.

        `flock` belongs to the opened file. A POSIX lock (`lockf`) would belong to the process, and
        go when any other of its descriptors of the file is closed.
        """
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        path = self.data_dir.with_name(f"{self.data_dir.name}.{name}.lock")
        # To read is enough to lock, also a file that another user has made.
        file = open(os.open(path, os.O_RDONLY | os.O_CREAT, 0o666), "rb")  # noqa: PTH123, SIM115
        try:
            fcntl.flock(file, operation)
        except BaseException:
            file.close()
            raise
        return file

    @contextlib.contextmanager
    def _lock(self, name: str, operation: int) -> Iterator[None]:
        with self._open_locked(name, operation):
            yield

    # The server

    def _postmaster(self) -> _Postmaster | None:
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
            pid, _, _, port, host, _, _, status = (line.strip() for line in lines)
            return _Postmaster(int(pid), int(port), host, status == "ready")
        except (FileNotFoundError, ValueError):
            return None

    def _running(self) -> _Postmaster | None:
        """Return the server if it accepts connections.

        Only the socket tells: postmaster.pid survives a crash, and its process id may have gone to
        another program since.
        """
        server = self._postmaster()
        if server is None or not server.ready:
            return None
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(f"{server.host}/.s.PGSQL.{server.port}")
        except OSError:
            return None
        return server

    def _address(self) -> _Postmaster:
        server = self._running()
        if server is None:
            raise ServerError(f"No PostgreSQL server runs on {self.data_dir}.")
        return server

    def _launch(self) -> None:
        """Start the server, under the lock that lets one process at a time do so."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self._running():
            if time.monotonic() > deadline:
                raise ServerError(f"PostgreSQL is still not ready: see {self._log}.")
            if processes := self._processes():
                # A server whose launcher was killed is replaying its log, or it is shutting down.
                # Without one these are the children of a server that was killed. They hold its
                # shared memory, and no other starts until they are gone. Nothing is lost: what
                # they have committed is in the log.
                if self._postmaster_pid() not in [process.pid for process in processes]:
                    for process in processes:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.kill()
                # They are no children of ours, whose end could be waited for.
                time.sleep(0.02)
                continue
            self._create()
            socket_dir = self._socket_dir()
            # With no process in the folder these are leftovers. They name a process id, and
            # PostgreSQL would take whichever process of this user has that id now for the server,
            # or the dead one itself where nobody reaps it (in a container without init).
            for leftover in (
                self.data_dir / "postmaster.pid",
                socket_dir / f"{_SOCKET_NAME}.lock",
                self._log,
            ):
                leftover.unlink(missing_ok=True)
            settings = {
                "listen_addresses": "",
                "unix_socket_directories": f'"{socket_dir}"',
            }
            settings |= self.options
            flags = shlex.join(f"--{name}={value}" for name, value in settings.items())
            started = self._pg_ctl(
                "start", "-t", f"{START_TIMEOUT:.0f}", "-l", self._log.name, "-o", flags
            )
            if started.returncode:
                raise ServerError(f"PostgreSQL did not start: {self._last_words()}")

    def _postmaster_pid(self) -> int | None:
        """Return the process id that postmaster.pid begins with, also of a half-written one."""
        try:
            return int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None

    def _processes(self) -> list[psutil.Process]:
        """Return the PostgreSQL processes in the data folder, where the server and its children
        spend their lives."""
        return [
            process
            for process in psutil.process_iter(["name", "cwd"])
            if process.info["name"] == "postgres" and process.info["cwd"] == str(self.data_dir)
        ]

    def _create(self) -> None:
        """Create the cluster unless it exists.

        It is made elsewhere and renamed, so that one whose making was interrupted is never taken
        for a whole one; each time elsewhere, since an initdb may outlive whoever ran it.
        """
        self._refuse_other_folder()
        if (self.data_dir / "PG_VERSION").exists():
            return
        prefix = f"{self.data_dir.name}.unfinished-"
        for interrupted in self.data_dir.parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(interrupted, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=prefix, dir=self.data_dir.parent))
        if os.geteuid() == 0:
            programs.give_to_server(unfinished)
        # One locale for all machines: names sort alike, and indexes outlive an upgrade of libc.
        made = programs.run(
            self.bin_path,
            unfinished,
            "initdb",
            f"--username={SUPERUSER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
        )
        if made.returncode:
            shutil.rmtree(unfinished)
            reason = (made.stderr.strip().splitlines() or ["initdb failed"])[-1]
            raise ServerError(f"PostgreSQL's data folder could not be created: {reason}")
        unfinished.rename(self.data_dir)

    def _refuse_other_folder(self) -> None:
        """Refuse a data folder of another version, and a folder of other things."""
        try:
            found = (self.data_dir / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            if self.data_dir.exists() and any(self.data_dir.iterdir()):
                raise ServerError(
                    f"{self.data_dir} is not empty, and no PostgreSQL data folder. "
                    "Name another one in EMBEDDED_POSTGRES_DATA."
                ) from None
        except OSError as error:
            raise ServerError(
                f"The PostgreSQL data folder {self.data_dir} cannot be used: {error.strerror}. "
                "Name another one in EMBEDDED_POSTGRES_DATA."
            ) from error
        else:
            if found != str(self.major):
                raise ServerError(
                    f"The data folder {self.data_dir} is of PostgreSQL {found}, not {self.major}: "
                    "set EMBEDDED_POSTGRES_VERSION, or another folder in EMBEDDED_POSTGRES_DATA."
                )

    def _socket_dir(self) -> Path:
        """Return the folder for the socket: the data folder, or one with a shorter path."""
        if len(os.fsencode(self.data_dir / _SOCKET_NAME)) <= _SOCKET_PATH_BYTES:
            return self.data_dir
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir(), f"postgres-{digest}")
        owner = self.data_dir.stat()
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            os.chown(folder, owner.st_uid, owner.st_gid)
        found = folder.lstat()
        # Anybody may have put a folder or a link of this name there to get at the connections.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.st_uid:
            raise ServerError(f"{folder}, needed for the server's socket, is somebody else's.")
        return folder

    @property
    def _log(self) -> Path:
        return self.data_dir / "server.log"

    def _last_words(self) -> str:
        """Return the last complaint in the server's log, and where the log is."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        fatal = [line.partition("FATAL:")[2].strip() for line in lines if "FATAL:" in line]
        return f"{fatal[-1]} (log: {self._log})" if fatal else f"see {self._log}"

    def _pg_ctl(self, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return programs.run(self.bin_path, self.data_dir, "pg_ctl", action, "-w", *arguments)
