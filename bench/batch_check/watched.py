"""Runs a command and puts down its time, its processor time and the memory of its processes.

What it is compared with can be measured by turns with it, while its processes are stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """What was seen of a command.

    Attributes:
        output: what it wrote to standard output.
        wall_s: seconds from its start to its end, without those in which it was stopped.
        stopped_s: seconds in which it was stopped.
        processor_s: seconds of processor time of it and its descendants, as far as they were read:
            what a process does between its last reading and its end is missing.
        memory_mb: at every reading, seconds since its start and the proportional memory of it and
            its descendants, in megabytes of 10**6 bytes: shared memory is counted once.
    """

    output: str
    wall_s: float
    stopped_s: float
    processor_s: float
    memory_mb: list[tuple[float, float]] = field(repr=False)

    @property
    def peak_mb(self) -> float:
        """The most that was read."""
        return max((memory for _, memory in self.memory_mb), default=0.0)


# Adding up the pages of Ray's processes takes some 200 ms, of processor time and of theirs.
EVERY_S = 15.0

# A machine that others use is faster in one minute than in the next one.
TURN_S = 45.0


def watched(
    command: list[str],
    log: Path,
    *,
    every_s: float = EVERY_S,
    meanwhile: Callable[[], object] | None = None,
    turn_s: float = TURN_S,
) -> Run:
    """Runs a command to its end.

    Args:
        command: program and arguments.
        log: file that gets its standard error.
        every_s: seconds between two readings.
        meanwhile: called from time to time, while the command and all that it started are stopped.
        turn_s: seconds that the command runs between two such calls.

    Raises:
        SystemExit: it failed; the end of its standard error is told.
    """
    memory: list[tuple[float, float]] = []
    processor: dict[int, float] = {}
    stopped_s, turn_ends = 0.0, turn_s
    with tempfile.TemporaryFile() as output, log.open("wb") as errors:
        begun = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(every_s)
                    break
                at, total = time.monotonic() - begun - stopped_s, 0.0
                for pid in tree(process.pid):
                    with suppress(OSError, ValueError):  # it ended meanwhile
                        total += _memory_mb(pid)
                        processor[pid] = _processor_s(pid)
                memory.append((at, total))
                if meanwhile is not None and at >= turn_ends:
                    stopped_s += _stopped(process.pid, meanwhile)
                    turn_ends = at + turn_s
        finally:
            process.kill()  # at an interrupt; one that has ended is left alone
        took = time.monotonic() - begun - stopped_s
        output.seek(0)
        text = output.read().decode()
    if process.returncode:
        tail = log.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    return Run(text, took, stopped_s, sum(processor.values()), memory)


def _stopped(pid: int, meanwhile: Callable[[], object]) -> float:
    """Calls something while a process and its descendants are stopped; seconds that they were."""
    begun, stopped = time.monotonic(), list[int]()
    # Parents first, so that none notices that its child stands still; again for those just started.
    while others := [each for each in tree(pid) if each not in stopped]:
        for each in others:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGSTOP)
        stopped += others
    try:
        meanwhile()
    finally:
        for each in reversed(stopped):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)
    return time.monotonic() - begun


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            with suppress(OSError):
                waiting += [int(child) for child in children.read_text().split()]
    return found


def _memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
