"""The fleets: processes of the releases, started, listened to, and sent home."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Generator

from migrations_playbook.errors import PlaybookError
from migrations_playbook.rehearsal.runner import ProcessRunner, look_while
from migrations_playbook.rehearsal.states import Release
from migrations_playbook.rehearsal.traffic.measure import ClientRequest

# Threads of a process, and rows that each begins with.
THREADS = 4
HANDFUL = 25
# How long a process may take to come up, and to finish its last request and its books; seconds.
PATIENCE = 60.0


class ClientProcess:
    """A process of a release.

    Arguments:
        release: the release's name.
        keys: of the rows that its clients begin with, a list each.
        requests: where its requests are collected.
    """

    def __init__(
        self,
        release: Release,
        popen: subprocess.Popen[str],
        keys: list[list[str]],
        requests: list[ClientRequest],
    ) -> None:
        self.release = release
        self.popen = popen
        self.keys = keys
        self.ready = threading.Event()
        self.left = False
        self._requests = requests
        self._complaints: list[str] = []
        self._threads = [
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=self._drain, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as lines:
            for line in lines:
                report = json.loads(line)
                if report == "ready":
                    self.ready.set()
                else:
                    self._requests.append(ClientRequest(self.release, *report))
        self.ready.set()

    def _drain(self) -> None:
        assert self.popen.stderr is not None
        with self.popen.stderr as lines:
            self._complaints += lines

    def leave(self) -> None:
        """Tell the process to finish."""
        assert self.popen.stdin is not None
        if not self.popen.stdin.closed:
            self.popen.stdin.close()

    def kill(self) -> None:
        """End the process without ceremony, and wait for the end."""
        self.popen.kill()
        self.popen.wait()

    def problem(self) -> str | None:
        """Say how the process failed; None when it ended as it should."""
        for thread in self._threads:
            thread.join(timeout=PATIENCE)
        self.leave()
        if self.popen.returncode == 0:
            return None
        # The last line of a traceback may quote a row's values: its class is enough.
        last = (self._complaints or ["nothing said"])[-1].partition(":")[0].strip()
        return f"a process of release {self.release} ended with {self.popen.returncode} ({last})"


class Fleets:
    """All processes at work.

    Arguments:
        runner: starts their processes.
        keys: primary keys to hand out; each client's rows are its own.
    """

    def __init__(self, runner: ProcessRunner, keys: list[str]) -> None:
        self.requests: list[ClientRequest] = []
        self.problems: list[str] = []
        self._runner = runner
        self._keys = iter(keys)
        self._processes: list[ClientProcess] = []

    def join(self, release: Release, rate: float) -> Generator[None, None, None]:
        """Start a process; yield until its clients are at work.

        Arguments:
            release: the release of its models.
            rate: requests a second.

        Raises:
            PlaybookError: the process did not come up.
        """
        keys = [self._take_handful() for _ in range(THREADS)]
        popen = self._runner.start("client", release=release, rate=rate, keys=keys)
        process = ClientProcess(release, popen, keys, self.requests)
        self._processes.append(process)
        yield from self._until(process.ready.is_set)
        if not process.ready.is_set() or popen.poll() is not None:
            process.kill()
            raise PlaybookError(f"Release {release} did not come up: {process.problem()}.")

    def leave(self, release: Release, count: int = 1) -> Generator[None, None, None]:
        """Send processes of a release home; yield until their books are filed."""
        leaving = [each for each in self._processes if each.release == release][:count]
        for each in leaving:
            each.left = True
            each.leave()
        yield from self._until(lambda: all(each.popen.poll() is not None for each in leaving))
        for each in leaving:
            self._processes.remove(each)
            if each.popen.poll() is None:
                each.kill()
            if problem := each.problem():
                self.problems.append(problem)

    def leave_all(self) -> Generator[None, None, None]:
        """Send everybody home."""
        for release in dict.fromkeys(each.release for each in self._processes):
            yield from self.leave(release, len(self._processes))

    def kill_all(self) -> None:
        """End the remaining processes, without ceremony."""
        for each in self._processes:
            each.kill()
            each.problem()

    def list_keys(self) -> list[str]:
        """List the keys of the rows that the processes at work began with."""
        return [key for each in self._processes for own in each.keys for key in own]

    def note_deaths(self) -> None:
        """Note processes that ended on their own."""
        for each in list(self._processes):
            if not each.left and each.popen.poll() is not None:
                self._processes.remove(each)
                self.problems.append(each.problem() or f"release {each.release} left unasked")

    def _take_handful(self) -> list[str]:
        return list(itertools.islice(self._keys, HANDFUL))

    def _until(self, condition: Callable[[], bool]) -> Generator[None, None, None]:
        deadline = time.monotonic() + PATIENCE
        yield from look_while(lambda: not condition() and time.monotonic() < deadline)
