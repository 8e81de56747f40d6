"""The processor: how much of it this process may use, and what it computes wrong."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

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


def saturates_bytes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor adds products of unsigned by signed bytes in too few bits.

    Those of x86 with AVX2 and without VNNI add two products in 16 bits, and saturate.

    Args:
        cpuinfo: what the kernel says of the processor; False where it says nothing.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return False
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return "avx2" in flags and not {"avx_vnni", "avx512_vnni"} & set(flags)
