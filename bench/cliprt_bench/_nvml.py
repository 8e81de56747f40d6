"""NVIDIA's management library: which GPUs are there, and what they are doing."""

from __future__ import annotations

import os
from typing import Any

from cliprt._extras import require
from cliprt_bench._bench_card import Gpu

_MIB = 2**20


class NvmlBroken(Exception):
    """There is a driver, but its management library does not work; the text is a sentence."""


class Nvml:
    """NVML, open until it is closed. What a GPU does not tell is None."""

    def __init__(self, library: Any) -> None:
        """Takes NVML, which was initialised.

        Args:
            library: the module ``pynvml``.
        """
        self._library = library
        self._devices: tuple[Any, ...] = ()
        try:
            every = [
                library.nvmlDeviceGetHandleByIndex(index)
                for index in range(library.nvmlDeviceGetCount())
            ]
            uuids = [_text(library.nvmlDeviceGetUUID(device)) for device in every]
            chosen = visible(uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))
            self._devices = tuple(every[index] for index in chosen)
        except library.NVMLError as error:
            self.close()
            raise NvmlBroken(f"NVML does not list the GPUs: {error}") from None

    def __len__(self) -> int:
        """How many GPUs are visible."""
        return len(self._devices)

    def gpu(self, number: int) -> Gpu:
        """Describes one of the visible GPUs, without its clock, which is another one under load.

        Raises:
            NvmlBroken: it tells neither its name nor its memory.
        """
        library, device = self._library, self._devices[number]
        try:
            name = _text(library.nvmlDeviceGetName(device))
            memory = int(library.nvmlDeviceGetMemoryInfo(device).total)
            driver = _text(library.nvmlSystemGetDriverVersion())
        except library.NVMLError as error:
            raise NvmlBroken(f"NVML does not describe GPU {number}: {error}") from None
        limit = self._asked(library.nvmlDeviceGetEnforcedPowerLimit, device)
        return Gpu(
            name=name,
            memory_mb=memory // _MIB,
            driver=driver,
            power_limit_w=None if limit is None else limit / 1000,
        )

    def percent(self, number: int) -> float | None:
        """Share of the last moments (1/6 s to 1 s) in which a kernel ran, 0 to 100."""
        rates = self._asked(self._library.nvmlDeviceGetUtilizationRates, self._devices[number])
        return None if rates is None else float(rates.gpu)

    def used_mb(self, number: int) -> float | None:
        """Memory of the GPU in use, by whomever, in mebibytes."""
        memory = self._asked(self._library.nvmlDeviceGetMemoryInfo, self._devices[number])
        return None if memory is None else memory.used / _MIB

    def power_w(self, number: int) -> float | None:
        """Power that it draws, in watts."""
        power = self._asked(self._library.nvmlDeviceGetPowerUsage, self._devices[number])
        return None if power is None else power / 1000

    def clock_mhz(self, number: int) -> float | None:
        """Clock of its multiprocessors at the moment."""
        library = self._library
        clock = self._asked(
            library.nvmlDeviceGetClockInfo, self._devices[number], library.NVML_CLOCK_SM
        )
        return None if clock is None else float(clock)

    def close(self) -> None:
        """Lets go of the library."""
        library = self._library
        try:
            library.nvmlShutdown()
        except library.NVMLError:
            return  # nothing depends on it any more

    def _asked(self, question: Any, *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except self._library.NVMLError:
            return None


def open_nvml() -> Nvml | None:
    """NVML, or None where there is no driver of NVIDIA.

    Raises:
        MissingExtra: nvidia-ml-py is not installed.
        NvmlBroken: there is a driver, and the library fails.
    """
    library: Any = require("pynvml", extra="bench")
    try:
        library.nvmlInit()
    except (library.NVMLError_LibraryNotFound, library.NVMLError_DriverNotLoaded):
        return None
    except library.NVMLError as error:
        raise NvmlBroken(f"NVML does not start: {error}") from None
    return Nvml(library)


def visible(uuids: list[str], wanted: str | None) -> list[int]:
    """Which GPUs CUDA programs may use, in their order.

    Numbers are those of the bus, as with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``; where GPUs differ, CUDA
    itself may count the fastest as the first.

    Args:
        uuids: of all GPUs of the machine.
        wanted: ``CUDA_VISIBLE_DEVICES``: numbers and beginnings of UUIDs with commas between them.
            As in CUDA, what comes behind the first that does not exist is left out.
    """
    if wanted is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for part in (part.strip() for part in wanted.split(",")):
        if part.isascii() and part.isdigit():
            matches = [int(part)] if int(part) < len(uuids) else []
        else:
            matches = [
                index
                for index, uuid in enumerate(uuids)
                if part.startswith("GPU-") and uuid.startswith(part)
            ]
        if len(matches) != 1:
            break
        found += matches
    return found


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
