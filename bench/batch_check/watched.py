"""Runs a command and puts down its time, its processor time and the memory of its processes."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """What was seen of a command.

    Attributes:
        output: what it wrote to standard output.
        wall_s: seconds from its start to its end.
        processor_s: seconds of processor time, of it and of the descendants that were waited for.
        memory_mb: at every reading, seconds since its start and the proportional memory of it and
            its descendants, in megabytes of 10**6 bytes: shared memory is counted once.
    """

    output: str
    wall_s: float
    processor_s: float
    memory_mb: list[tuple[float, float]] = field(repr=False)

    @property
    def peak_mb(self) -> float:
        """The most that was read."""
        return max((memory for _, memory in self.memory_mb), default=0.0)


def watched(command: list[str], log: Path, *, every_s: float = 0.5) -> Run:
    """Runs a command to its end.

    Args:
        command: program and arguments.
        log: file that gets its standard error.
        every_s: seconds between two readings of the memory.

    Raises:
        SystemExit: it failed; the end of its standard error is told.
    """
    readings: list[tuple[float, float]] = []
    ended = threading.Event()
    with tempfile.TemporaryFile() as output, log.open("wb") as errors:
        begun = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)

        def read() -> None:
            while not ended.wait(every_s):
                readings.append((time.monotonic() - begun, memory_of(process.pid)))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            ended.set()
            reader.join()
            process.kill()  # at an interrupt only; one that has ended is left alone
        took = time.monotonic() - begun
        output.seek(0)
        text = output.read().decode()
    if process.returncode:
        tail = log.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    return Run(text, took, used.ru_utime + used.ru_stime, readings)


def memory_of(pid: int) -> float:
    """Proportional memory of a process and its descendants, in megabytes."""
    total, waiting = 0.0, [pid]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        try:
            for line in (process / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024 / 1e6
            for children in process.glob("task/*/children"):
                waiting += [int(child) for child in children.read_text().split()]
        except OSError:
            continue  # it ended meanwhile
    return total
