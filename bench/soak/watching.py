"""What a run has in use: memory, files and threads of each process, and what all of them share."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from soak.judging import Series
from soak.serving import Served

_REGIONS = Path("/dev/shm")
_OURS = re.compile(r"cliprt-(?:inputs-)?(\d+)-")


@dataclass(frozen=True)
class Reading:
    """A process at a moment.

    Attributes:
        memory_mb: resident memory, in megabytes of 10**6 bytes.
        proportional_mb: the same with shared pages divided among those who share them; None where
            the system does not tell.
        files: open file descriptors.
        threads: threads, those of libraries included.
    """

    memory_mb: float
    proportional_mb: float | None
    files: int
    threads: int


@dataclass(frozen=True)
class Shared:
    """What all processes of the run have together at a moment.

    Attributes:
        requests: that have ended.
        regions: entries in /dev/shm.
        regions_mb: their size, in megabytes of 10**6 bytes.
        children: processes of the client's, the server's left out.
        zombies: processes that have ended and that nobody has asked for their status.
        temporary: entries in the folder of temporary files.
    """

    requests: int
    regions: int
    regions_mb: float
    children: int
    zombies: int
    temporary: int


class Watcher:
    """Reads everything at intervals, in a thread of its own."""

    def __init__(
        self, served: Served, temporary: Path, requests: Callable[[], int], every_s: float
    ) -> None:
        self._served, self._temporary, self._requests = served, temporary, requests
        self._every_s = every_s
        self._begun = time.monotonic()
        self._me = psutil.Process()
        # Of all processes that there were, since regions bear the numbers of their owners.
        self._pids = {os.getpid(), served.pid}
        # By role, the generations; each with its process, and its readings by time.
        self._roles: dict[str, list[tuple[psutil.Process, list[tuple[float, Reading]]]]] = {}
        self._shared: list[tuple[float, Shared]] = []

    def run(self, over: threading.Event) -> None:
        """Reads until it is over."""
        while not over.wait(self._every_s):
            self.read()

    def read(self) -> None:
        """Reads everything once."""
        now = time.monotonic() - self._begun
        members = {os.getpid(): "client", **self._served.members()}
        for pid, role in members.items():
            with suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                reading = _reading(process)
                self._generation(role, process).append((now, reading))
        self._shared.append((now, self.shared(set(members))))

    def shared(self, members: set[int] | None = None) -> Shared:
        """What all have together now."""
        members = set(self._served.members()) if members is None else members
        children, zombies = 0, 0
        with suppress(psutil.Error):
            for child in self._me.children(recursive=True):
                self._pids.add(child.pid)
                with suppress(psutil.Error):
                    zombies += child.status() == psutil.STATUS_ZOMBIE
                children += child.pid not in members
        sizes = self._region_sizes()
        return Shared(
            self._requests(),
            len(sizes),
            sum(sizes) / 1e6,
            children,
            zombies,
            sum(1 for _ in self._temporary.iterdir()),
        )

    def series(self) -> list[Series]:
        """All that was read."""
        found = []
        for role, generations in self._roles.items():
            for number, (_, readings) in enumerate(generations, start=1):
                found += _series(role, number, [(at, asdict(one)) for at, one in readings])
        return found + _series("run", 1, [(at, asdict(one)) for at, one in self._shared])

    def _generation(self, role: str, process: psutil.Process) -> list[tuple[float, Reading]]:
        """Readings of a process, which begins a generation if it is new."""
        generations = self._roles.setdefault(role, [])
        for known, readings in generations:
            if known == process:  # number and time of creation
                return readings
        generations.append((process, []))
        return generations[-1][1]

    def _region_sizes(self) -> list[int]:
        sizes = []
        for path in _REGIONS.iterdir():
            found = _OURS.match(path.name)
            if found and int(found[1]) in self._pids:
                with suppress(OSError):
                    sizes.append(path.stat().st_size)
        return sizes


def _reading(process: psutil.Process) -> Reading:
    with process.oneshot():
        memory = process.memory_info().rss / 1e6
        threads = process.num_threads()
    return Reading(memory, _proportional_mb(process.pid), process.num_fds(), threads)


def _proportional_mb(pid: int) -> float | None:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    return None


def _series(role: str, number: int, readings: list[tuple[float, dict[str, Any]]]) -> list[Series]:
    if not readings:
        return []
    return [
        Series(
            role,
            number,
            what,
            [at for at, one in readings if one[what] is not None],
            [float(one[what]) for _, one in readings if one[what] is not None],
        )
        for what in readings[0][1]
    ]
