"""The stages of a check, each run in a process of its own by ``__main__.py``.

The first, which says what the machine is, lies in machine.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from numpy.typing import NDArray
from stage import BarMissedError, NotRunError, Stage
from timing import Bound, pictures, timed

from cliprt import CliprtError, open_bundle
from cliprt_engines import (
    Engine,
    OnnxTower,
    TensorRtTower,
    build_engines,
    device_at_hand,
    find_engines,
)
from cliprt_export import export_random, verify_engines

# TensorRT-RTX keeps the shapes of these few profiles small, so that building takes seconds.
SMALL_PROFILES = {"image": "1:8:8", "text": "1:8:8x2:16:77"}

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm80+sm86+sm89+sm120")
"""Architectures that TensorRT-RTX builds for ahead of time; Hopper is none of them."""


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
    name = f"onnxruntime {_place(stage)} {stage.precision}"
    for batch in stage.batches:
        host = pictures(tower.info, batch)
        if not stage.cpu:
            bound = Bound(graph, host, graphs=False)
            stage.note_speed(name, host, bound.run, bound.answers)
        stage.note_speed(f"{name}, pictures on the host", host, partial(tower.run, host))
    if not stage.cpu:
        try:
            one = pictures(tower.info, 1)
            bound = Bound(graph, one, graphs=True)
            stage.note_speed(f"{name}, CUDA graph", one, bound.run, bound.answers)
        except BarMissedError:
            raise
        except Exception as error:  # noqa: BLE001 - a finding, and the library raises many types
            stage.note("CUDA graph", f"failed: {error}")


def torch_stage(stage: Stage) -> None:
    """Torch on this GPU: SDPA eager, compiled, compiled with CUDA graphs."""
    torch = _torch(stage)
    from torch_tower import image_tower

    info = stage.reference.info
    tower = image_tower(stage.fp32, device=_place(stage), half=not stage.cpu)
    name = f"torch {stage.precision}"
    forms: list[tuple[str, Any, list[int]]] = [("SDPA eager", tower, stage.batches)]
    if not stage.cpu:
        compiled = torch.compile(tower, dynamic=False)
        replayed = torch.compile(tower, dynamic=False, mode="reduce-overhead")
        forms += [("compiled", compiled, stage.batches), ("compiled, CUDA graph", replayed, [1])]
    with torch.inference_mode():
        for form, model, batches in forms:
            for batch in batches:
                host = pictures(info, batch)
                pixels = torch.from_numpy(host).to(_place(stage))

                def embed(model: Any = model, pixels: Any = pixels) -> None:
                    model(pixels)
                    _wait(stage, torch)

                def answers(model: Any = model, pixels: Any = pixels) -> NDArray[np.float32]:
                    found: NDArray[np.float32] = model(pixels).cpu().numpy()
                    return found

                try:
                    stage.note_speed(f"{name}, {form}", host, embed, answers)
                except BarMissedError:
                    raise
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
    for engine in _image_engines(stage):
        for graphs in (0, 16):
            with TensorRtTower(engine.path, graphs=graphs) as tower:
                form = "CUDA graphs" if graphs else "no graphs"
                for batch in stage.batches if graphs else [1]:
                    host = pictures(tower.info, batch)
                    name = f"{_name(engine, tower)}, {form}, on the host"
                    stage.note_speed(name, host, partial(tower.run, host))


def overlap(stage: Stage) -> None:
    """The largest batch from the host, cut in two to overlap copies and computing, and whole."""
    for engine in _image_engines(stage):
        for cut, form in ((True, "cut in two"), (False, "whole")):
            with TensorRtTower(engine.path, overlap=cut) as tower:
                most = tower.info.max_batch or max(stage.batches)
                host = pictures(tower.info, min(max(stage.batches), most))
                name = f"{_name(engine, tower)}, {form}, on the host"
                stage.note_speed(name, host, partial(tower.run, host))


def rtx_older(stage: Stage) -> None:
    """Whether TensorRT-RTX engines for other architectures run on this GPU at all."""
    wrong = []
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
                cosine = stage.least_cosine(target, some, tower.run(some))
                stage.note(target, f"runs, least cosine to float32 {cosine:.6f}")
        except BarMissedError as error:
            stage.note(target, f"runs and answers wrong: {error}")
            wrong.append(target)
        except CliprtError as error:
            stage.note(target, f"does not build or run: {error}"[:500])
    if wrong:
        raise BarMissedError(f"engines for {', '.join(wrong)} run here and answer wrong")


def _image_engines(stage: Stage) -> list[Engine]:
    if not stage.engines.is_dir():
        raise NotRunError("no engine was built")
    if device_at_hand() is None:
        raise NotRunError("there is no GPU")
    return [each for each in find_engines(stage.engines) if each.manifest.recipe.tower == "image"]


def _name(engine: Engine, tower: TensorRtTower) -> str:
    runtime = tower.info.runtime.partition(" NVIDIA")[0]
    return f"{runtime} {engine.manifest.recipe.precision}"


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
    "ceiling": ceiling,
    "export": export,
    "onnxruntime": onnxruntime_stage,
    "torch": torch_stage,
    "engines": engines,
    "verify": verify,
    "engine-speed": engine_speed,
    "overlap": overlap,
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
    stage.save()


if __name__ == "__main__":
    main()
