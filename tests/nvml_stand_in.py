"""A module in the place of pynvml, with GPUs that are not there."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class NVMLError(Exception):
    """As pynvml's."""


class NVMLError_LibraryNotFound(NVMLError):
    """No driver."""


class NVMLError_DriverNotLoaded(NVMLError):
    """A driver that is not loaded."""


class NVMLError_NotSupported(NVMLError):
    """What some GPUs do not tell."""


def install(
    patch: pytest.MonkeyPatch,
    uuids: tuple[str, ...] = ("GPU-aa11", "GPU-ab22"),
    *,
    start: Exception | None = None,
    silent: bool = False,
) -> list[str]:
    """Puts it there.

    Args:
        patch: takes it away again.
        uuids: one GPU each; the n-th has n + 1 GiB, of which half is in use, and is busy for n + 1
            times 40 per cent of the time.
        start: raised at the start.
        silent: whether the GPUs tell nothing but name and memory.

    Returns:
        what happened: ``init`` and ``shutdown``.
    """
    seen: list[str] = []
    module: Any = ModuleType("pynvml")

    def init() -> None:
        if start is not None:
            raise start
        seen.append("init")

    def told(value: Any) -> Any:
        def tell(*arguments: Any) -> Any:
            if silent:
                raise NVMLError_NotSupported("not supported")
            return value

        return tell

    for error in (
        NVMLError, NVMLError_LibraryNotFound, NVMLError_DriverNotLoaded, NVMLError_NotSupported,
    ):  # fmt: skip
        setattr(module, error.__name__, error)
    module.NVML_CLOCK_SM = 1
    module.nvmlInit = init
    module.nvmlShutdown = lambda: seen.append("shutdown")
    module.nvmlDeviceGetCount = lambda: len(uuids)
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetUUID = lambda device: uuids[device]
    module.nvmlDeviceGetName = lambda device: f"Stand-in {device}"
    module.nvmlDeviceGetMemoryInfo = lambda device: SimpleNamespace(
        total=(device + 1) * 2**30, used=(device + 1) * 2**29
    )
    module.nvmlSystemGetDriverVersion = lambda: b"580.1"
    module.nvmlDeviceGetClockInfo = told(1980)
    module.nvmlDeviceGetEnforcedPowerLimit = told(700_000)
    busy = told(True)
    module.nvmlDeviceGetUtilizationRates = lambda device: SimpleNamespace(
        gpu=busy() and (device + 1) * 40
    )
    module.nvmlDeviceGetPowerUsage = told(250_500)
    patch.setitem(sys.modules, "pynvml", module)
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return seen
