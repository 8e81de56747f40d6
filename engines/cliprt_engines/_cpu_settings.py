"""How a tower is computed on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from cliprt_engines._onnx import OnnxTower
from cliprt_engines._openvino import OpenVinoTower
from cliprt_engines._tower import Tower

CpuRuntime: TypeAlias = Literal["onnxruntime", "openvino"]


class CpuSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a tower is computed on a CPU.

    Attributes:
        runtime: what computes it; ``openvino`` needs the extra of that name.
        workers: batches that are computed at once.
        threads: threads of each of them.
        batch: most items of one of them. Small ones stay in the processor's caches, large ones read
            the weights less often.
        spinning: whether ONNX Runtime's threads wait in a busy loop.
        bfloat16: whether OpenVINO may compute what the graph leaves in float32 in bfloat16.
    """

    runtime: CpuRuntime = "onnxruntime"
    workers: int = 1
    threads: int = 1
    batch: int = 8
    spinning: bool = False
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "batch"):
            if not 1 <= getattr(self, name) <= 4096:
                raise ValueError(f"{name} must be from 1 to 4096, got {getattr(self, name)}")
        if self.bfloat16 and self.runtime != "openvino":
            raise ValueError("bfloat16 is a setting of OpenVINO")
        if self.spinning and self.runtime != "onnxruntime":
            raise ValueError("spinning is a setting of ONNX Runtime")


def load_tower(path: Path, settings: CpuSettings) -> Tower:
    """Loads a tower as the settings say.

    Args:
        path: its ONNX file.
        settings: how it is computed.

    Raises:
        MissingExtra: the runtime is not installed.
        BundleError: the runtime cannot load it.
    """
    if settings.runtime == "openvino":
        return OpenVinoTower(
            path,
            threads=settings.threads * settings.workers,
            streams=settings.workers,
            bfloat16=settings.bfloat16,
        )
    # A worker with one thread computes in the thread that calls; several share one session.
    return OnnxTower(path, threads=settings.threads, spinning=settings.spinning)
