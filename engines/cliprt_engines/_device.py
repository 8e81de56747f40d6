"""The GPU at hand, as NVIDIA's driver library describes it: asking needs nothing installed."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

_LIBRARY = "libcuda.so.1"
_DRIVER = Path("/proc/driver/nvidia/version")
# From cuda.h: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Device:
    """A GPU, and what drives it.

    Attributes:
        name: as NVIDIA calls it, ``NVIDIA L4`` for instance.
        architecture: its compute capability, ``sm89`` for 8.9.
        memory_bytes: memory of the GPU.
        cuda: the newest CUDA that its driver runs, ``13.0`` for instance.
        driver: version of the driver, ``580.95.05`` for instance; None if it does not say.
    """

    name: str
    architecture: str
    memory_bytes: int
    cuda: str
    driver: str | None


def device_at_hand(ordinal: int = 0) -> Device | None:
    """The GPU of that number, or None where there is no driver or no such GPU.

    ``CUDA_VISIBLE_DEVICES`` counts, as everywhere in CUDA.
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    device, number = ctypes.c_int(), ctypes.c_int()
    if library.cuInit(0) or library.cuDeviceGet(ctypes.byref(device), ordinal):
        return None
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    version = []
    for attribute in (_MAJOR, _MINOR):
        library.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        version.append(number.value)
    library.cuDriverGetVersion(ctypes.byref(number))
    return Device(
        name=name.value.decode(errors="replace"),
        architecture=f"sm{version[0]}{version[1]}",
        memory_bytes=memory.value,
        cuda=f"{number.value // 1000}.{number.value % 1000 // 10}",
        driver=driver_version(),
    )


def driver_version(path: Path = _DRIVER) -> str | None:
    """The version that the kernel's module tells in a file, None if it does not."""
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1] if found else None
