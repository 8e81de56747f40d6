"""The processor at hand: what it is and how much of it this process may use."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Version 2 has quota and period in one file, version 1 in two; microseconds of processor time.
_QUOTAS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def usable_cores() -> int:
    """Cores that this process may keep busy: its affinity, cut to the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    for files in _QUOTAS:
        # "max" instead of a number, or -1, sets no quota.
        with contextlib.suppress(OSError, ValueError):
            quota, period = map(int, " ".join(Path(file).read_text() for file in files).split())
            if quota > 0:
                cores = min(cores, math.ceil(quota / period))
    return max(1, cores)


def processor() -> str:
    """Name and instruction set of the processor, the latter as a hash."""
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        first = _CPUINFO.read_text().split("\n\n")[0]
        rows = (line.partition(":") for line in first.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in rows}
        name = fields.get("model name", name)
        model = "/".join(fields.get(key, "") for key in ("cpu family", "model", "stepping"))
        flags = f"{model} {fields.get('flags', fields.get('Features', ''))}"
    return f"{name} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"
