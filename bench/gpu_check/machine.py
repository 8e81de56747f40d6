"""The stage that says what this machine is. Needs Python alone, like the command itself.

It comes first, and names the modules that the other stages lack.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent

NEEDED = (
    "PIL", "click", "filelock", "ftfy", "msgspec", "numpy", "onnx", "onnxruntime", "rich",
    "safetensors", "tokenizers",
)  # fmt: skip
"""Modules without which no other stage can begin."""

VERSIONS = (
    "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "triton", "cuda-bindings",
    "tensorrt", "tensorrt_rtx_cu13_libs", "nvidia-cudnn-cu13",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """The GPU, its driver, the processor, versions, and what is missing."""
    device = _device()
    found: dict[str, Any] = {"gpu": None if device is None else device.name}
    if device is not None:
        found["architecture"] = device.architecture
        found["memory GiB"] = round(device.memory_bytes / 2**30, 1)
        found["driver"] = device.driver
        found["CUDA of the driver"] = device.cuda
    found["processor"] = platform.processor() or platform.machine()
    found["python"] = platform.python_version()
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        found["missing modules"] = missing
    return found


def _device() -> Any:
    """What ``cliprt_engines`` says of the GPU; its file alone, as the package needs others."""
    path = ROOT / "engines" / "cliprt_engines" / "_device.py"
    spec = spec_from_file_location("gpu_check_device", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # Where dataclasses look for the types of their fields.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.device_at_hand()


def main() -> None:
    """Writes what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()
    options.result.write_text(json.dumps(describe(), allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main()
