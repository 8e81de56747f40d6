"""The machine at hand, as a card of a measurement describes it. Nothing in it names its owner."""

from __future__ import annotations

import contextlib
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from itertools import zip_longest
from pathlib import Path

import msgspec

from cliprt._cores import usable_cores
from cliprt._extras import require
from cliprt_bench._bench_card import Gpu, Machine
from cliprt_bench._nvml import Nvml, NvmlBroken, open_nvml

FEATURES = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8",
    "amx_bf16", "amx_fp16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""Instruction sets that decide the speed of products, as Linux calls them: x86, then ARM."""

LIBRARIES = (
    "cuda-bindings", "grpcio", "numpy", "nvidia-pytriton", "onnxruntime", "onnxruntime-gpu",
    "openvino", "pillow", "pillow-simd", "tensorrt", "tensorrt-cu12", "tensorrt-cu13",
    "tensorrt-rtx", "tensorrt-rtx-cu13-libs", "tokenizers", "torch", "transformers", "tritonclient",
)  # fmt: skip
"""Distributions that compute or carry."""

_MIB = 2**20

# Readings of the number of runnable threads: at one moment it is anything.
_READINGS, _PAUSE_S = 10, 0.02


def machine(*, warn: Callable[[str], None] | None = None) -> Machine:
    """Describes the machine at hand as it is now; takes a fifth of a second.

    Before a measurement: clock and load are told of its beginning. Clocks of GPUs are not told,
    since they are others under load; see ``Watched.gpu_clocks_mhz``.

    Args:
        warn: is given a sentence if there is a driver for a GPU that cannot be asked.

    Raises:
        MissingExtra: psutil or nvidia-ml-py is not installed.
    """
    psutil = require("psutil", extra="bench")
    fields = cpu_fields()
    clock = None
    with contextlib.suppress(OSError, NotImplementedError):
        clock = psutil.cpu_freq()
    groups = ""
    with contextlib.suppress(OSError):
        groups = Path("/proc/self/cgroup").read_text()
    memory = [psutil.virtual_memory().total, *memory_limits(groups, Path("/sys/fs/cgroup"))]
    return Machine(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        features=features(fields),
        clock_mhz=clock.current if clock is not None and clock.current else None,
        memory_mb=min(memory) // _MIB,
        system=_system(),
        python=platform.python_version(),
        libraries=_versions(),
        gpus=_gpus(warn or (lambda sentence: None)),
        load=_load(),
    )


def elsewhere(generator: Machine) -> Machine:
    """What is known of the machine of a target elsewhere: where it was asked from."""
    return msgspec.structs.replace(
        generator,
        cpu=f"another machine, asked from {generator.cpu}",
        features=(),
        clock_mhz=None,
        gpus=(),
    )


def with_clocks(here: Machine, clocks_mhz: Sequence[float | None]) -> Machine:
    """A machine with the clocks that its GPUs had under load, those that were read."""
    gpus = tuple(
        gpu if mhz is None else msgspec.structs.replace(gpu, clock_mhz=round(mhz))
        for gpu, mhz in zip_longest(here.gpus, clocks_mhz[: len(here.gpus)])
    )
    return msgspec.structs.replace(here, gpus=gpus)


def cpu_fields(text: str | None = None) -> dict[str, str]:
    """What Linux tells of the first core.

    Args:
        text: what stands in ``/proc/cpuinfo``; None reads it. Empty if it cannot be read.
    """
    if text is None:
        try:
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
    rows = (line.partition(":") for line in text.strip().split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in rows}


def features(fields: Mapping[str, str]) -> tuple[str, ...]:
    """Of the instruction sets that a core has, those that decide the speed of products."""
    found = set(fields.get("flags", fields.get("Features", "")).split())
    return tuple(name for name in FEATURES if name in found)


def _system() -> str:
    """Distribution and kernel; of the latter the numbers alone, since builds have names."""
    number = re.match(r"\d+(\.\d+)*", platform.release())
    kernel = f"{platform.system()} {number[0] if number else ''}".strip()
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
        return f"{release['NAME']} {release.get('VERSION_ID', '')}".strip() + f", {kernel}"
    return kernel


def memory_limits(groups: str, root: Path) -> Iterator[int]:
    """Bytes that control groups around a process grant, of versions 1 and 2.

    Args:
        groups: what stands in its ``/proc/PID/cgroup``.
        root: where the groups are mounted.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folder, file = root, "memory.max"
        elif "memory" in controllers.split(","):
            folder, file = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(path)
        # A container may see its own group at the root, so the root is asked as well.
        for around in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # "max" is no limit
                yield int((folder / str(around).lstrip("/") / file).read_text())


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _gpus(warn: Callable[[str], None]) -> tuple[Gpu, ...]:
    library: Nvml | None = None
    try:
        library = open_nvml()
        return tuple(library.gpu(number) for number in range(len(library))) if library else ()
    except NvmlBroken as error:
        warn(f"{error}; the card says nothing about GPUs")
        return ()
    finally:
        if library is not None:
            library.close()


def _load() -> float:
    """Runnable threads per core besides this one, on average of some readings."""
    try:
        counts = []
        for _ in range(_READINGS):
            time.sleep(_PAUSE_S)
            runnable = Path("/proc/loadavg").read_text().split()[3].partition("/")[0]
            counts.append(max(0, int(runnable) - 1))
    except (OSError, ValueError, IndexError):
        return 0.0
    return sum(counts) / len(counts) / usable_cores()
