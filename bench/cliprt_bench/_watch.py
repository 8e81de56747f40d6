"""What a machine and the processes on it do while a point is measured.

With ten processes it takes some 7 ms of processor time in a second, mostly to look for new ones.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

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
        target_cores: cores that the target processes and their descendants kept busy; None if
            there was no target.
        rss_mb: the most memory that the target had in use at a reading, in mebibytes; what
            processes share is counted in each of them.
        gpu_percent: share of the time in which a kernel ran on the busiest of the visible GPUs, 0
            to 100, on average.
        gpu_mb: the most memory of all visible GPUs that was in use, by whomever, in mebibytes.
        gpu_power_w: power that all of them drew on average, in watts.
        gpu_clocks_mhz: of the multiprocessors of each visible GPU, on average; None of one that
            does not tell.
    """

    seconds: float
    readings: int
    cpu_cores: float | None
    target_cores: float | None
    rss_mb: float | None
    gpu_percent: float | None
    gpu_mb: float | None
    gpu_power_w: float | None
    gpu_clocks_mhz: tuple[float | None, ...]


class Watch:
    """Watches from the beginning of one ``with`` block to its end, in a thread of its own.

    Of a block in which :meth:`counted` was entered only that part counts.

    Example::

        with Watch([server.pid]) as watch:
            trace = closed_loop(..., during=watch.counted())
        watch.seen.cpu_cores
    """

    def __init__(
        self, targets: Sequence[int] = (), *, every_s: float = 0.2, gpus: bool = True
    ) -> None:
        """Prepares.

        Args:
            targets: numbers of processes that are watched with all their descendants; may be this
                one (``os.getpid()``). Those that do not exist count nothing.
            every_s: seconds between two readings, more than 0.
            gpus: whether the visible GPUs are watched, too.

        Raises:
            ValueError: ``every_s`` is not positive.
            MissingExtra: psutil or nvidia-ml-py is not installed.
        """
        if not every_s > 0:
            raise ValueError(f"every_s must be more than 0, got {every_s}")
        self._psutil = require("psutil", extra="bench")
        self._family = _Family(self._psutil, targets) if targets else None
        self._every_s, self._watches_gpus = every_s, gpus
        self._nvml: Nvml | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._rss: list[float] = []
        self._gpus: list[list[_Gpu]] = []
        self._readings = 0
        self._looked = self._begun = self._busy = self._used = 0.0
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
        self._begin()
        self._thread = threading.Thread(target=self._run, name="cliprt-bench-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._seen is None:
            self._seen = self._end()
        if self._nvml is not None:
            self._nvml.close()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The part of the block that counts, which may be entered once: what is seen is of it."""
        with self._lock:
            self._begin()
        try:
            yield
        finally:
            with self._lock:
                self._seen = self._end()

    def _begin(self) -> None:
        self._rss, self._gpus, self._readings = [], [], 0
        if self._family is not None:
            self._family.look()
        self._read()
        self._used = 0.0 if self._family is None else self._family.processor_s()
        self._busy, self._begun = self._busy_s(), time.monotonic()
        self._looked = self._begun

    def _end(self) -> Watched:
        busy, seconds = self._busy_s(), max(time.monotonic() - self._begun, 1e-9)
        target = None
        if self._family is not None:
            self._family.look()
            used = max(0.0, self._family.processor_s() - self._used)
            target = used / max(time.monotonic() - self._begun, 1e-9)
        self._read()
        percents = [_mean(gpu.percent for gpu in each) for each in zip(*self._gpus, strict=True)]
        return Watched(
            seconds=seconds,
            readings=self._readings,
            cpu_cores=max(0.0, busy - self._busy) / seconds,
            target_cores=target,
            rss_mb=max(self._rss, default=None),
            gpu_percent=max((each for each in percents if each is not None), default=None),
            gpu_mb=max(self._together(lambda gpu: gpu.used_mb), default=None),
            gpu_power_w=_mean(self._together(lambda gpu: gpu.power_w)),
            gpu_clocks_mhz=tuple(
                _mean(gpu.clock_mhz for gpu in each) for each in zip(*self._gpus, strict=True)
            ),
        )

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            with self._lock:
                if self._family is not None and time.monotonic() > self._looked + _LOOK_S:
                    self._looked = time.monotonic()
                    self._family.look()
                self._read()

    def _read(self) -> None:
        self._readings += 1
        if self._family is not None:
            self._family.read_times()
            if (rss := self._family.rss()) is not None:
                self._rss.append(rss / _MIB)
        if (nvml := self._nvml) is not None:
            self._gpus.append(
                [
                    _Gpu(nvml.percent(n), nvml.used_mb(n), nvml.power_w(n), nvml.clock_mhz(n))
                    for n in range(len(nvml))
                ]
            )

    def _together(self, of: Callable[[_Gpu], float | None]) -> list[float]:
        """Sums over all GPUs, of the readings in which at least one told it."""
        rows = ([of(gpu) for gpu in reading] for reading in self._gpus)
        told = ([value for value in row if value is not None] for row in rows)
        return [sum(row) for row in told if row]

    def _busy_s(self) -> float:
        """Seconds of work of all cores since the machine's start; what others stole is none."""
        times = self._psutil.cpu_times()
        names = ("user", "nice", "system", "irq", "softirq")
        return float(sum(getattr(times, name, 0.0) for name in names))

    def _opened(self) -> Nvml | None:
        if not self._watches_gpus:
            return None
        try:
            return open_nvml()
        except NvmlBroken:
            return None  # `machine()` says so, once


class _Gpu(NamedTuple):
    """What a GPU told at a reading."""

    percent: float | None
    used_mb: float | None
    power_w: float | None
    clock_mhz: float | None


def _mean(values: Iterable[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return statistics.fmean(told) if told else None


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
