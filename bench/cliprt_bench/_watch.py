"""What a machine and the processes on it do while a point is measured.

With ten processes it takes some 7 ms of processor time in a second, mostly to look for new ones;
`Watched.watcher_cores` tells what it was.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

from cliprt._extras import require
from cliprt_bench._nvml import Nvml, NvmlBroken, open_nvml

_MIB = 2**20

# How often processes that are new are looked for: that reads something of every process there is.
_LOOK_S = 1.0


@dataclass(frozen=True)
class Watched:
    """What was seen between beginning and end. What is unknown is None.

    Attributes:
        seconds: how long was watched.
        readings: how often was looked.
        cpu_cores: cores of the machine that were busy, on average, with whatever.
        own_cores: cores that this process kept busy, all its threads, without its children.
        target_cores: cores that the target processes and their descendants kept busy; None if
            there was no target.
        rss_mb: the most memory that the target had in use at a reading, in mebibytes; what
            processes share is counted in each of them.
        rss_mean_mb: on average.
        gpu_percent: share of the time in which a kernel ran on the GPU, 0 to 100, on average.
        gpu_mb: the most memory of the GPU that was in use, by whomever, in mebibytes.
        gpu_power_w: power that it drew on average, in watts.
        watcher_cores: cores that watching took; they are part of own_cores.
    """

    seconds: float
    readings: int
    cpu_cores: float | None
    own_cores: float
    target_cores: float | None
    rss_mb: float | None
    rss_mean_mb: float | None
    gpu_percent: float | None
    gpu_mb: float | None
    gpu_power_w: float | None
    watcher_cores: float


class Watch:
    """Watches from the beginning of one ``with`` block to its end, in a thread of its own.

    Example::

        with Watch([server.pid]) as watch:
            trace = closed_loop(...)
        watch.seen.cpu_cores
    """

    def __init__(
        self, targets: Sequence[int] = (), *, every_s: float = 0.2, gpu: int | None = 0
    ) -> None:
        """Prepares.

        Args:
            targets: numbers of processes that are watched with all their descendants; may be this
                one (``os.getpid()``). Those that do not exist count nothing.
            every_s: seconds between two readings, more than 0.
            gpu: which of the visible GPUs is watched; None for none.

        Raises:
            ValueError: ``every_s`` is not positive.
            MissingExtra: psutil or nvidia-ml-py is not installed.
        """
        if not every_s > 0:
            raise ValueError(f"every_s must be more than 0, got {every_s}")
        self._psutil = require("psutil", extra="bench")
        self._family = _Family(self._psutil, targets) if targets else None
        self._every_s, self._gpu = every_s, gpu
        self._nvml: Nvml | None = None
        self._over = threading.Event()
        self._rss: list[float] = []
        self._gpus: list[tuple[float | None, float | None, float | None]] = []
        self._watching_s = 0.0
        self._looked = 0.0
        self._seen: Watched | None = None

    @property
    def seen(self) -> Watched:
        """What was seen, once the block is over.

        Raises:
            RuntimeError: it is not over yet.
        """
        if self._seen is None:
            raise RuntimeError("the watch is not over; ask behind its `with` block")
        return self._seen

    def __enter__(self) -> Watch:
        self._nvml = self._opened()
        if self._family is not None:
            self._family.look()
        self._read()
        self._begun = self._looked = time.monotonic()
        self._own, self._busy = time.process_time(), self._busy_s()
        self._thread = threading.Thread(target=self._run, name="cliprt-bench-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        own, busy, seconds = time.process_time(), self._busy_s(), time.monotonic() - self._begun
        self._over.set()
        self._thread.join()
        target = None
        if self._family is not None:
            self._family.look()
            target = self._family.processor_s() / (time.monotonic() - self._begun)
        self._read()
        if self._nvml is not None:
            self._nvml.close()
        percent, used, power = (
            [value for value in column if value is not None]
            for column in zip(*self._gpus, strict=True)
        )
        self._seen = Watched(
            seconds=seconds,
            readings=len(self._gpus),
            cpu_cores=max(0.0, busy - self._busy) / seconds,
            own_cores=(own - self._own) / seconds,
            target_cores=target,
            rss_mb=max(self._rss, default=None),
            rss_mean_mb=statistics.fmean(self._rss) if self._rss else None,
            gpu_percent=statistics.fmean(percent) if percent else None,
            gpu_mb=max(used, default=None),
            gpu_power_w=statistics.fmean(power) if power else None,
            watcher_cores=self._watching_s / seconds,
        )

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            if self._family is not None and time.monotonic() > self._looked + _LOOK_S:
                self._looked = time.monotonic()
                self._family.look()
            self._read()
            self._watching_s = time.thread_time()

    def _read(self) -> None:
        if self._family is not None:
            self._family.read_times()
            if (rss := self._family.rss()) is not None:
                self._rss.append(rss / _MIB)
        if self._nvml is None or self._gpu is None:
            self._gpus.append((None, None, None))
        else:
            number, nvml = self._gpu, self._nvml
            self._gpus.append((nvml.percent(number), nvml.used_mb(number), nvml.power_w(number)))

    def _busy_s(self) -> float:
        """Seconds of work of all cores since the machine's start; what others stole is none."""
        times = self._psutil.cpu_times()
        names = ("user", "nice", "system", "irq", "softirq")
        return float(sum(getattr(times, name, 0.0) for name in names))

    def _opened(self) -> Nvml | None:
        if self._gpu is None:
            return None
        try:
            nvml = open_nvml()
        except NvmlBroken:
            return None  # `machine()` says so, once
        if nvml is not None and len(nvml) <= self._gpu:
            nvml.close()
            return None
        return nvml


@dataclass
class _Member:
    """A process: its parent, and its processor time with that of children it has waited for."""

    process: Any
    parent: int
    began_with: float
    has_used: float


class _Family:
    """Processes and their descendants, those that come and those that go.

    The system adds the time of a child that ended to its parent when that waits for it. So time of
    children that nobody saw counts, and a member that is gone counts by itself only if no parent
    is left that took over.
    """

    def __init__(self, psutil: ModuleType, roots: Sequence[int]) -> None:
        self._psutil = psutil
        self._roots = tuple(dict.fromkeys(roots))
        self._members: dict[int, _Member] = {}
        self._known: set[int] = set()
        self._gone_s = 0.0
        self._first = True

    def look(self) -> None:
        """Takes in who is new and reads everybody's time."""
        for root in self._roots:
            try:
                process = self._psutil.Process(root)
                found = [process, *process.children(recursive=True)]
            except self._psutil.Error:
                continue
            for each in found:
                known = self._members.get(each.pid)
                if known is None or known.process != each:  # numbers are used again
                    self._take_in(each)
        self._first = False
        self.read_times()

    def rss(self) -> int | None:
        """Bytes of memory of all that are there; None if nobody is."""
        total = None
        for member in self._members.values():
            try:
                total = (total or 0) + member.process.memory_info().rss
            except self._psutil.Error:
                continue
        return total

    def processor_s(self) -> float:
        """Seconds of processor time that all have used since the first look."""
        self.read_times()
        used = sum(each.has_used - each.began_with for each in self._members.values())
        return max(0.0, self._gone_s + used)

    def _take_in(self, process: Any) -> None:
        try:
            times, parent = _seconds(process), process.ppid()
        except self._psutil.Error:
            return
        # What was there before the first look has used what it had used by then.
        self._members[process.pid] = _Member(process, parent, times if self._first else 0.0, times)

    def read_times(self) -> None:
        """Reads everybody's time; what a process does between this and its end may be lost."""
        gone = []
        for pid, member in self._members.items():
            try:
                member.has_used = _seconds(member.process)
            except self._psutil.Error:
                gone.append(pid)
        ended = [self._members.pop(pid) for pid in gone]
        for member in ended:
            # What a parent took over is a whole life, with what came before the first look.
            taken_over = member.parent in self._members
            self._gone_s -= member.began_with
            self._gone_s += 0.0 if taken_over else member.has_used


def _seconds(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
