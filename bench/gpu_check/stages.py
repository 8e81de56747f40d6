"""The stages of a check, each run in a process of its own by ``__main__.py``.

Each writes what it found so far after every figure: what comes before a crash is kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from timing import Bound, largest_error, operations, pictures, timed

from cliprt import CliprtError, open_bundle
from cliprt_engines import (
    OnnxTower,
    TensorRtTower,
    build_engines,
    device_at_hand,
    find_engines,
)
from cliprt_export import export_random, verify_engines

VERSIONS = (
    "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "triton", "cuda-bindings",
    "tensorrt", "tensorrt_rtx_cu13_libs", "nvidia-cudnn-cu13",
)  # fmt: skip

# TensorRT-RTX keeps the shapes of these few profiles small, so that building takes seconds.
SMALL_PROFILES = {"image": "1:8:8", "text": "1:8:8x2:16:77"}

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm80+sm86+sm89+sm120")
"""Architectures that TensorRT-RTX builds for ahead of time; Hopper is none of them."""


class NotRunError(Exception):
    """A stage that cannot be run here, with the reason."""


@dataclass
class Stage:
    """What a stage is told, and where its findings go.

    Attributes:
        model: the architecture.
        work: folder of bundles, engines and results.
        batches: sizes to time.
        samples: timed calls of each figure.
        cpu: whether this is a rehearsal on the processor.
        result: file of the findings.
        found: the findings.
    """

    model: str
    work: Path
    batches: list[int]
    samples: int
    cpu: bool
    result: Path
    found: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, value: Any) -> None:
        """Keeps a finding."""
        self.found[name] = value
        self.result.write_text(json.dumps(self.found), encoding="utf-8")

    def note_speed(self, what: str, batch: int, call: Callable[[], object]) -> None:
        """Times a call that embeds pictures and returns when the answers are there."""
        latency = timed(call, self.samples)
        per_s = batch / latency.p50_ms * 1e3
        ceiling = self.work / "ceiling.json"
        share = None
        # A rehearsal's ceiling is that of one small product.
        if ceiling.is_file() and not self.cpu:
            greatest = json.loads(ceiling.read_text(encoding="utf-8")).get("teraflops")
            work = operations(self.fp32)
            share = per_s * work / greatest / 1e12 if greatest else None
        row = {
            "what": what,
            "batch": batch,
            "p50_ms": latency.p50_ms,
            "p95_ms": latency.p95_ms,
            "samples": latency.samples,
            "per_s": per_s,
            "share": share,
        }
        self.note("speed", [*self.found.get("speed", []), row])

    @property
    def bundle(self) -> Path:
        """The bundle of the model."""
        return self.work / f"bundle-{self.model}"

    @property
    def engines(self) -> Path:
        """The engines of the model."""
        return self.work / f"engines-{self.model}"

    @property
    def fp32(self) -> Path:
        """The float32 image tower of the model."""
        return open_bundle(self.bundle).file("image.fp32.onnx")

    @property
    def precision(self) -> str:
        """What is timed: halves, which processors do not compute."""
        return "fp32" if self.cpu else "fp16"


def machine(stage: Stage) -> None:
    """What this machine is, and what is installed."""
    device = device_at_hand()
    stage.note("gpu", None if device is None else device.name)
    if device is not None:
        stage.note("architecture", device.architecture)
        stage.note("memory GiB", round(device.memory_bytes / 2**30, 1))
        stage.note("driver", device.driver)
        stage.note("CUDA of the driver", device.cuda)
    stage.note("processor", platform.processor() or platform.machine())
    stage.note("python", platform.python_version())
    for name in VERSIONS:
        try:
            stage.note(name, version(name))
        except PackageNotFoundError:
            stage.note(name, "not installed")


def ceiling(stage: Stage) -> None:
    """The greatest rate of half-precision matrix products here, by torch (cuBLAS)."""
    torch = _torch(stage)
    kind = torch.float32 if stage.cpu else torch.float16
    sizes = [(512, 512, 512)] if stage.cpu else [
        (4096, 4096, 4096), (8192, 8192, 8192), (256 * 50, 768, 3072), (256 * 257, 1024, 4096),
    ]  # fmt: skip
    rates = {}
    for rows, inner, columns in sizes:
        one = torch.randn(rows, inner, device=_place(stage), dtype=kind)
        other = torch.randn(inner, columns, device=_place(stage), dtype=kind)

        def product(one: Any = one, other: Any = other) -> None:
            torch.matmul(one, other)
            _wait(stage, torch)

        latency = timed(product, stage.samples)
        rates[f"{rows}x{inner}x{columns}"] = 2e-9 * rows * inner * columns / latency.p50_ms
        stage.note("teraflops by size", rates)
        stage.note("teraflops", max(rates.values()))
    stage.note("type", str(kind))


def export(stage: Stage) -> None:
    """A bundle with drawn weights."""
    if (stage.bundle / "card.json").is_file():
        stage.note("bundle", "was there")
        return
    if stage.cpu:
        export_random(stage.model, stage.bundle, precisions=("fp32",), samples=8)
    else:
        export_random(stage.model, stage.bundle, precisions=("fp32", "fp16"), samples=8)
    stage.note("bundle", f"fp32 and {stage.precision}, with drawn weights")


def onnxruntime_stage(stage: Stage) -> None:
    """ONNX Runtime on this GPU."""
    graph = open_bundle(stage.bundle).file(f"image.{stage.precision}.onnx")
    tower = OnnxTower(graph, provider="cpu" if stage.cpu else "cuda")
    stage.note("runtime", tower.info.runtime)
    some = pictures(tower.info, 4)
    reference = OnnxTower(stage.fp32).run(some)
    stage.note("least cosine to float32", 1 - largest_error(reference, tower.run(some)))
    name = f"onnxruntime {_place(stage)} {stage.precision}"
    for batch in stage.batches:
        if not stage.cpu:
            bound = Bound(graph, pictures(tower.info, batch), graphs=False)
            stage.note_speed(name, batch, bound.run)
        host = pictures(tower.info, batch)
        stage.note_speed(f"{name}, pictures on the host", batch, partial(tower.run, host))
    if not stage.cpu:
        try:
            bound = Bound(graph, pictures(tower.info, 1), graphs=True)
            stage.note_speed(f"{name}, CUDA graph", 1, bound.run)
        except Exception as error:  # noqa: BLE001 - a finding, and the library raises many types
            stage.note("CUDA graph", f"failed: {error}")


def torch_stage(stage: Stage) -> None:
    """Torch on this GPU: SDPA eager, compiled, compiled with CUDA graphs."""
    torch = _torch(stage)
    from torch_tower import image_tower

    info = OnnxTower(stage.fp32).info
    some = pictures(info, 4)
    tower = image_tower(stage.fp32, device=_place(stage), half=not stage.cpu)
    name = f"torch {stage.precision}"
    forms: list[tuple[str, Any, list[int]]] = [("SDPA eager", tower, stage.batches)]
    if not stage.cpu:
        compiled = torch.compile(tower, dynamic=False)
        replayed = torch.compile(tower, dynamic=False, mode="reduce-overhead")
        forms += [("compiled", compiled, stage.batches), ("compiled, CUDA graph", replayed, [1])]
    with torch.inference_mode():
        found = tower(torch.from_numpy(some).to(_place(stage))).cpu().numpy()
        reference = OnnxTower(stage.fp32).run(some)
        stage.note("least cosine to float32", 1 - largest_error(reference, found))
        for form, model, batches in forms:
            for batch in batches:
                pixels = torch.from_numpy(pictures(info, batch)).to(_place(stage))

                def embed(model: Any = model, pixels: Any = pixels) -> None:
                    model(pixels)
                    _wait(stage, torch)

                try:
                    stage.note_speed(f"{name}, {form}", batch, embed)
                except Exception as error:  # noqa: BLE001 - compilers raise many types
                    stage.note(f"{form}, batch {batch}", f"failed: {error}"[:500])


def engines(stage: Stage) -> None:
    """Builds what can be built for this GPU."""
    ahead: dict[str, Any] = {}
    if stage.cpu:
        ahead = {"targets": ["sm89"], "flavor": "tensorrt-rtx", "profiles": SMALL_PROFILES}
    try:
        built = build_engines(stage.bundle, stage.engines, precisions=[stage.precision], **ahead)
    except CliprtError as error:
        raise NotRunError(f"nothing can be built here: {error}") from None
    for engine in built:
        stage.note(engine.path.name, f"{engine.manifest.plan.size / 2**20:.1f} MiB")


def verify(stage: Stage) -> None:
    """``cliprt verify ENGINES``."""
    if not stage.engines.is_dir():
        raise NotRunError("no engine was built")
    if device_at_hand() is None:
        raise NotRunError("there is no GPU")
    result = verify_engines(stage.engines, bundle=stage.bundle, samples=40)
    for row in result.rows:
        wrong = [f"not run: {row.refused}"] if row.refused else []
        wrong += [f"failed: {row.failed}"] if row.failed else []
        wrong += row.certificate.missed if row.certificate else []
        stage.note(row.engine, "; ".join(wrong) or "passed")
    if not result.passed:
        raise RuntimeError("a bar was missed, see what was found")


def engine_speed(stage: Stage) -> None:
    """TensorRT engines on this GPU, with and without CUDA graphs."""
    if not stage.engines.is_dir():
        raise NotRunError("no engine was built")
    if device_at_hand() is None:
        raise NotRunError("there is no GPU")
    for engine in find_engines(stage.engines):
        if engine.manifest.recipe.tower != "image":
            continue
        for graphs in (0, 16):
            with TensorRtTower(engine.path, graphs=graphs) as tower:
                form = "CUDA graphs" if graphs else "no graphs"
                name = f"{tower.info.runtime.partition(' NVIDIA')[0]} fp16, {form}, on the host"
                for batch in stage.batches if graphs else [1]:
                    host = pictures(tower.info, batch)
                    stage.note_speed(name, batch, partial(tower.run, host))


def rtx_older(stage: Stage) -> None:
    """Whether TensorRT-RTX engines for other architectures run on this GPU at all."""
    for target in RTX_TARGETS[1:3] if stage.cpu else RTX_TARGETS:
        try:
            (engine,) = build_engines(
                stage.bundle,
                stage.work / "rtx-older",
                precisions=[stage.precision],
                towers=["image"],
                flavor="tensorrt-rtx",
                targets=[target],
                profiles=SMALL_PROFILES,
            )
            if device_at_hand() is None:
                stage.note(target, "built, not run: there is no GPU")
                continue
            # What stays if this very process ends while it runs.
            stage.note(target, "built; running it ended the process")
            with TensorRtTower(engine.path, any_device=True) as tower:
                some = pictures(tower.info, 4)
                apart = largest_error(OnnxTower(stage.fp32).run(some), tower.run(some))
                stage.note(target, f"runs, least cosine to float32 {1 - apart:.6f}")
        except CliprtError as error:
            stage.note(target, f"does not build or run: {error}"[:500])


def _torch(stage: Stage) -> Any:
    try:
        import torch
    except ImportError as error:
        raise NotRunError(f"torch is not installed: {error}") from None
    if not stage.cpu and not torch.cuda.is_available():
        raise NotRunError("this torch sees no GPU")
    return torch


def _place(stage: Stage) -> str:
    return "cpu" if stage.cpu else "cuda"


def _wait(stage: Stage, torch: Any) -> None:
    if not stage.cpu:
        torch.cuda.synchronize()


STAGES: dict[str, Callable[[Stage], None]] = {
    "machine": machine,
    "ceiling": ceiling,
    "export": export,
    "onnxruntime": onnxruntime_stage,
    "torch": torch_stage,
    "engines": engines,
    "verify": verify,
    "engine-speed": engine_speed,
    "rtx-older": rtx_older,
}


def main() -> None:
    """Runs one stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--model", default="")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--batches", nargs="+", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    stage = Stage(
        options.model, options.work, options.batches, options.samples, options.cpu, options.result
    )
    try:
        STAGES[options.stage](stage)
    except NotRunError as error:
        if stage.found:
            raise
        stage.note("not_run", str(error))
    # A stage without findings has run all the same.
    stage.result.write_text(json.dumps(stage.found), encoding="utf-8")


if __name__ == "__main__":
    main()
