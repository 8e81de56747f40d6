"""Which settings are fastest here: measured at first use, remembered for the next time.

What is fastest depends on the processor, on how many cores the process may use, on the tower and on
the versions of the runtimes. So it is measured with the bundle's own tower, and remembered under
``$CLIPRT_HOME/cpu`` for exactly these. Anything else than a record for exactly these is measured
again: another machine that shares the folder, a new version, a file that was cut or edited.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import msgspec

from cliprt._bundle import Bundle
from cliprt._extras import require
from cliprt._folders import write_whole
from cliprt._tokenizer_cache import cache_home
from cliprt_engines._cpu_measure import Goal, Measured, measure
from cliprt_engines._cpu_settings import CpuSettings
from cliprt_engines._openvino import computes_bfloat16
from cliprt_engines._processor import processor, usable_cores

SWITCH = "CLIPRT_CPU_CHOICE"
"""Environment variable: ``measure`` (the default), or ``default`` for settings that are not
measured."""

_SCHEMA = 1

# Two towers stay within 20 seconds.
_BUDGET_S = 8.0

# How long to wait for another process that measures the same.
_PATIENCE_S = 60.0

_LOG = logging.getLogger(__name__)


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A remembered measurement.

    Attributes:
        key: for what it holds.
        measured: what was seen, the chosen first.
    """

    key: dict[str, str]
    measured: list[Measured]


def default_settings() -> CpuSettings:
    """What is right on most machines: a batch on each core, computed by ONNX Runtime."""
    return CpuSettings(workers=usable_cores(), threads=1)


def chosen_settings(
    bundle: Bundle, tower: str, precision: str, goal: Goal = "throughput"
) -> CpuSettings:
    """The fastest settings for a tower on this machine, measured or remembered.

    Args:
        bundle: whose tower it is.
        tower: ``image`` or ``text``.
        precision: ``fp32`` or ``int8-cpu``.
        goal: whether many items at once shall be fast, or single ones.

    Raises:
        ValueError: the environment variable ``CLIPRT_CPU_CHOICE`` has another value than its two.
        MissingExtra: onnxruntime is not installed.
        FidelityError: the tower does not answer right on this machine.
    """
    switch = os.environ.get(SWITCH, "measure")
    if switch == "default":
        return default_settings()
    if switch != "measure":
        raise ValueError(f"{SWITCH} must be 'measure' or 'default', got {switch!r}")
    key = _key(bundle, tower, precision, goal)
    name = hashlib.sha256(msgspec.json.encode(key, order="sorted")).hexdigest()[:32]
    path = cache_home() / "cpu" / f"{name}.json"
    if record := _remembered(path, key):
        return record.measured[0].settings
    with _alone(path):
        # Another process may have measured it meanwhile.
        if record := _remembered(path, key):
            return record.measured[0].settings
        _LOG.info("measuring how the %s tower in %s is fastest here", tower, precision)
        begun = time.monotonic()
        measured = measure(
            bundle, tower, precision, candidates(precision), goal=goal, budget_s=_BUDGET_S
        )
        best = measured[0]
        took = time.monotonic() - begun
        _LOG.info("%.1f items/s by %s, found in %.1f s", best.items_per_s, best.settings, took)
        record = _Record(key=key, measured=measured)
        # A cache that cannot be written costs a measurement, never an answer.
        with contextlib.suppress(OSError):
            write_whole(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        return best.settings


def candidates(precision: str, cores: int | None = None) -> list[CpuSettings]:
    """What is tried, what is likely to win first.

    Args:
        precision: in ``int8-cpu`` OpenVINO may use bfloat16 where the processor has it.
        cores: how many there are; None means those that this process may use.
    """
    cores = cores or usable_cores()
    found = [CpuSettings(workers=cores, threads=1)]
    if importlib.util.find_spec("openvino") is not None:
        half = precision == "int8-cpu" and computes_bfloat16()
        found.append(CpuSettings(runtime="openvino", workers=cores, threads=1, bfloat16=half))
        if cores > 1:
            found.append(CpuSettings(runtime="openvino", workers=1, threads=cores, bfloat16=half))
    if cores >= 8:
        found.append(CpuSettings(workers=cores // 4, threads=4))
    if cores > 1:
        found.append(CpuSettings(workers=1, threads=cores, spinning=True))
        found.append(CpuSettings(workers=1, threads=cores))
    return found


def _key(bundle: Bundle, tower: str, precision: str, goal: Goal) -> dict[str, str]:
    """Everything the choice depends on."""
    require("onnxruntime", extra="engines")
    graph = f"{tower}.{precision}.onnx"
    bundle.file(graph)
    return {
        "schema": str(_SCHEMA),
        "processor": processor(),
        "cores": str(usable_cores()),
        "onnxruntime": _version("onnxruntime", "onnxruntime-gpu"),
        "openvino": _version("openvino"),
        "tower": bundle.card.files[graph].sha256,
        "precision": precision,
        "goal": goal,
    }


def _version(*packages: str) -> str:
    """Version of the first of several packages that is installed."""
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "none"


def _remembered(path: Path, key: dict[str, str]) -> _Record | None:
    """A record for exactly this, if there is one."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError):
        return None
    return record if record.key == key and record.measured else None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other processes from measuring the same at once: they would slow each other down.

    Where no lock can be had, two may measure: that costs time and nothing else.
    """
    filelock = require("filelock", extra="engines")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, filelock.Timeout):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path.with_suffix(".lock"), timeout=_PATIENCE_S)
            stack.enter_context(lock)
        yield
