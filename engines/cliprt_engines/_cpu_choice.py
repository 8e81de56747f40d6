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
from cliprt._cache_home import cache_folder, cache_home
from cliprt._cores import usable_cores
from cliprt._extras import require
from cliprt._folders import write_whole
from cliprt_engines._cpu_measure import Goal, Measured, check_answers, measure, unusable
from cliprt_engines._cpu_settings import CpuSettings, load_tower
from cliprt_engines._openvino import computes_bfloat16
from cliprt_engines._processor import processor
from cliprt_engines._tower import Tower

SWITCH = "CLIPRT_CPU_CHOICE"
"""Environment variable: ``measure`` (the default), or ``default`` for settings that are not
measured."""

_SCHEMA = 3

_FOLDER = "cpu"

# Two towers stay within 20 seconds.
_BUDGET_S = 8.0

# How long to wait for another process that measures the same.
_PATIENCE_S = 60.0

_LOG = logging.getLogger(__name__)


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A remembered measurement.

    Attributes:
        key: for what it holds.
        measured: what was seen, the chosen first; if that one is refused, all are.
    """

    key: dict[str, str]
    measured: list[Measured]


def default_settings() -> CpuSettings:
    """What is right on most machines: a batch on each core, computed by ONNX Runtime."""
    return CpuSettings(workers=usable_cores(), threads=1)


def load_chosen(
    bundle: Bundle,
    tower: str,
    precision: str,
    goal: Goal = "throughput",
    settings: CpuSettings | None = None,
) -> tuple[Tower, CpuSettings]:
    """Loads a tower that answers right on this machine.

    Args:
        bundle: whose tower it is.
        tower: ``image`` or ``text``.
        precision: ``fp32`` or ``int8-cpu``.
        goal: whether many items at once shall be fast, or single ones.
        settings: how it is computed; None means the fastest. Those that were not measured must give
            the bundle's known answers now.

    Raises:
        ValueError: the environment variable ``CLIPRT_CPU_CHOICE`` has another value than its two.
        MissingExtra: the runtime is not installed.
        BundleError: the tower cannot be loaded.
        FidelityError: it does not answer right.
    """
    graph = bundle.file(f"{tower}.{precision}.onnx")
    if settings is None and _measures():
        settings = chosen_settings(bundle, tower, precision, goal)
        return load_tower(graph, settings), settings
    return load_checked(graph, tower, precision, settings)


def load_checked(
    graph: Path, tower: str, precision: str, settings: CpuSettings | None = None
) -> tuple[Tower, CpuSettings]:
    """Loads a tower whose known answers lie beside it, and checks that it gives them.

    Args:
        graph: its ONNX file; the bundle's ``golden.npz`` and ``certificate.json`` lie in the same
            folder.
        tower: ``image`` or ``text``.
        precision: ``fp32`` or ``int8-cpu``.
        settings: how it is computed; None means what is right on most machines.

    Returns:
        The tower, and the settings it was loaded with.

    Raises:
        MissingExtra: the runtime is not installed.
        BundleError: the tower or its known answers cannot be loaded.
        FidelityError: it does not answer right.
    """
    settings = settings or default_settings()
    loaded = load_tower(graph, settings)
    try:
        check_answers(graph.parent, tower, precision, loaded)
    except BaseException:
        loaded.close()
        raise
    return loaded, settings


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
    found = _chosen(bundle, tower, precision, goal)
    return default_settings() if found is None else found.settings


def measured_speed(bundle: Bundle, tower: str, precision: str) -> float | None:
    """How many items a second a tower embeds on this machine with its fastest settings.

    It was measured with nothing else to do, pictures or captions of some 12 words, or is now.

    Args:
        bundle: whose tower it is.
        tower: ``image`` or ``text``.
        precision: ``fp32`` or ``int8-cpu``.

    Returns:
        None where ``CLIPRT_CPU_CHOICE`` says that nothing is measured.

    Raises:
        ValueError: the environment variable ``CLIPRT_CPU_CHOICE`` has another value than its two.
        MissingExtra: onnxruntime is not installed.
        FidelityError: the tower does not answer right on this machine.
    """
    found = _chosen(bundle, tower, precision, "throughput")
    return None if found is None else found.items_per_s


def _chosen(bundle: Bundle, tower: str, precision: str, goal: Goal) -> Measured | None:
    """The fastest candidate, measured or remembered; None where nothing is measured."""
    if not _measures():
        return None
    key = _key(bundle, tower, precision, goal)
    name = hashlib.sha256(msgspec.json.encode(key, order="sorted")).hexdigest()[:32]
    path = cache_home() / _FOLDER / f"{name}.json"
    if record := _remembered(path, key):
        return _best(record, path)
    with _alone(path.with_name("measuring.lock")):
        # Another process may have measured it meanwhile.
        if record := _remembered(path, key):
            return _best(record, path)
        _LOG.info("measuring how the %s tower in %s is fastest here", tower, precision)
        begun = time.monotonic()
        measured = measure(
            bundle, tower, precision, candidates(precision, goal), goal=goal, budget_s=_BUDGET_S
        )
        record = _Record(key=key, measured=measured)
        # A candidate that failed may have lacked memory; one that answered wrong will again.
        if measured[0].items_per_s > 0 or all(seen.min_cosine is not None for seen in measured):
            _remember(record, path)
        best = _best(record, path)
        took = time.monotonic() - begun
        _LOG.info("%.1f items/s by %s, found in %.1f s", best.items_per_s, best.settings, took)
        return best


def candidates(
    precision: str, goal: Goal = "throughput", cores: int | None = None
) -> list[CpuSettings]:
    """What is tried, what is likely to win first: time may be too short for the others.

    Args:
        precision: in ``int8-cpu`` OpenVINO may use bfloat16 where the processor has it.
        goal: a single item is fastest where all cores compute it.
        cores: how many there are; None means those that this process may use.
    """
    cores = cores or usable_cores()
    found = [CpuSettings(workers=cores, threads=1)]
    if (capable := _openvino_computes_bfloat16()) is not None:
        half = precision == "int8-cpu" and capable
        found.append(CpuSettings(runtime="openvino", workers=cores, threads=1, bfloat16=half))
        if cores > 1:
            found.append(CpuSettings(runtime="openvino", workers=1, threads=cores, bfloat16=half))
    if cores >= 8:
        found.append(CpuSettings(workers=cores // 4, threads=4))
    if cores > 1:
        found.append(CpuSettings(workers=1, threads=cores, spinning=True))
        found.append(CpuSettings(workers=1, threads=cores))
    if goal == "latency":
        # The first answers are those that the others are compared with: ONNX Runtime's.
        plain = [settings for settings in found if settings.runtime == "onnxruntime"]
        first = max(plain, key=lambda settings: settings.threads)
        others = sorted(found, key=lambda settings: -settings.threads)
        found = [first, *(settings for settings in others if settings != first)]
    return found


def _openvino_computes_bfloat16() -> bool | None:
    """Whether OpenVINO computes in bfloat16 here; None if there is no OpenVINO that works."""
    try:
        if importlib.util.find_spec("openvino") is None:
            return None
        return computes_bfloat16()
    except Exception as error:  # noqa: BLE001 - a broken installation raises anything
        _LOG.warning(
            "OpenVINO is installed but does not work, so it is not tried (%s: %s); install it "
            "again or remove it",
            type(error).__name__,
            error,
        )
        return None


def _measures() -> bool:
    """Whether settings are measured here."""
    switch = os.environ.get(SWITCH, "measure")
    if switch not in ("measure", "default"):
        raise ValueError(f"{SWITCH} must be 'measure' or 'default', got {switch!r}")
    return switch == "measure"


def _best(record: _Record, path: Path) -> Measured:
    """The chosen one of a record, if any can be used."""
    best = record.measured[0]
    if best.items_per_s <= 0:
        tower, precision = record.key["graph"].split(".")[:2]
        again = f" (delete {path} to try again)" if path.exists() else ""
        raise unusable(tower, precision, best.refused + again)
    return best


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
        "graph": graph,
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
        cache_folder(_FOLDER)  # raises where somebody else could have put a record there
        record = msgspec.json.decode(path.read_bytes(), type=_Record)
    except (OSError, ValueError):  # bytes that are no UTF-8 raise no error of msgspec's own
        return None
    return record if record.key == key and record.measured else None


def _remember(record: _Record, path: Path) -> None:
    """Writes a record. A folder that cannot be written costs measurements, never an answer."""
    try:
        cache_folder(_FOLDER)
        content = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
        write_whole(path, content, private=True)
    except OSError as error:
        _LOG.warning(
            "what is fastest on this machine cannot be remembered in %s (%s), so that it is "
            "measured at every start; set CLIPRT_HOME to a folder that can be written",
            path.parent,
            error,
        )


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other threads and processes from measuring at once: they would slow each other down.

    Where no lock can be had, two may measure: that costs time and nothing else.
    """
    filelock = require("filelock", extra="engines")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, filelock.Timeout):
            cache_folder(_FOLDER)
            stack.enter_context(filelock.FileLock(path, timeout=_PATIENCE_S))
        yield
