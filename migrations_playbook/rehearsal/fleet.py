"""The fleets: processes of the releases, started, listened to, and sent home."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from migrations_playbook.errors import PlaybookError
from migrations_playbook.rehearsal.measure import Request
from migrations_playbook.rehearsal.script import Script

# Threads of a process, and rows that each begins with.
THREADS = 4
HANDFUL = 25
# How long a process may take to come up, and to finish its last request and its books; seconds.
PATIENCE = 60.0


def environment(url: str, settings: str) -> dict[str, str]:
    """What a process of a release needs: its settings, the database, and our own import path."""
    return {
        **os.environ,
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": settings,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONUNBUFFERED": "1",
    }


class Process:
    """One process of a release.

    Arguments:
        release: the release's name.
        requests: where its requests are collected.
    """

    def __init__(self, release: str, popen: subprocess.Popen[str], requests: list[Request]) -> None:
        self.release = release
        self.popen = popen
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
                    self._requests.append(Request(self.release, *report))
        self.ready.set()

    def _drain(self) -> None:
        assert self.popen.stderr is not None
        with self.popen.stderr as lines:
            self._complaints += lines

    def leave(self) -> None:
        """Tell it to finish."""
        assert self.popen.stdin is not None
        if not self.popen.stdin.closed:
            self.popen.stdin.close()

    def problem(self) -> str | None:
        """What its end was like, once it has ended; None when it was as it should be."""
        for thread in self._threads:
            thread.join(timeout=PATIENCE)
        self.leave()
        if self.popen.returncode == 0:
            return None
        # The last line of a traceback may quote a row's values: its class is enough.
        last = (self._complaints or ["nothing said"])[-1].partition(":")[0].strip()
        return f"a process of release {self.release} ended with {self.popen.returncode} ({last})"


class Fleets:
    """All processes that are at work.

    Arguments:
        script: what is rehearsed.
        url: the scratch database.
        keys: primary keys to hand out; each client's rows are its own.
    """

    def __init__(self, script: Script, url: str, keys: list[str]) -> None:
        self.requests: list[Request] = []
        self.problems: list[str] = []
        self._script = script
        self._url = url
        self._keys = iter(keys)
        self._processes: list[Process] = []

    def join(self, release: str, settings: str, rate: float) -> Iterator[None]:
        """Start a process; yield until it is at work.

        Arguments:
            release: its name.
            settings: its settings module.
            rate: requests a second.

        Raises:
            PlaybookError: it did not come up.
        """
        popen = subprocess.Popen(
            [sys.executable, "-m", "migrations_playbook.rehearsal.client"],
            env=environment(self._url, settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert popen.stdin is not None
        popen.stdin.write(
            json.dumps(
                {
                    "model": self._script.model,
                    "live": self._script.live,
                    "stamp": self._script.stamp,
                    "rate": rate,
                    "keys": [self._handful() for _ in range(THREADS)],
                }
            )
            + "\n"
        )
        popen.stdin.flush()
        process = Process(release, popen, self.requests)
        self._processes.append(process)
        yield from self._until(process.ready.is_set)
        if not process.ready.is_set() or popen.poll() is not None:
            popen.kill()
            popen.wait()
            raise PlaybookError(f"Release {release} did not come up: {process.problem()}.")

    def leave(self, release: str, count: int = 1) -> Iterator[None]:
        """Send processes of a release home; yield until their books are filed."""
        leaving = [each for each in self._processes if each.release == release][:count]
        for each in leaving:
            each.left = True
            each.leave()
        yield from self._until(lambda: all(each.popen.poll() is not None for each in leaving))
        for each in leaving:
            self._processes.remove(each)
            if each.popen.poll() is None:
                each.popen.kill()
                each.popen.wait()
            if problem := each.problem():
                self.problems.append(problem)

    def leave_all(self) -> Iterator[None]:
        """Send everybody home."""
        for release in dict.fromkeys(each.release for each in self._processes):
            yield from self.leave(release, len(self._processes))

    def kill(self) -> None:
        """End what is left, without ceremony."""
        for each in self._processes:
            each.popen.kill()
            each.popen.wait()
            each.problem()

    def check(self) -> None:
        """Note processes that ended on their own."""
        for each in list(self._processes):
            if not each.left and each.popen.poll() is not None:
                self._processes.remove(each)
                self.problems.append(each.problem() or f"release {each.release} left unasked")

    def _handful(self) -> list[str]:
        return list(itertools.islice(self._keys, HANDFUL))

    def _until(self, condition: Callable[[], bool]) -> Iterator[None]:
        deadline = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < deadline:
            yield
            # For one of several processes, and to look at each of them between.
            time.sleep(0.02)
