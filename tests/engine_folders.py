"""Engine folders whose plans the stand-in for TensorRT runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt import Bundle, FileEntry
from cliprt_engines import OnnxTower, TensorRtTower, TowerInfo
from cliprt_engines._flavor import FlavorName
from cliprt_engines._manifest import (
    MANIFEST,
    PLAN,
    SCHEMA,
    BuilderOptions,
    Manifest,
    Recipe,
    TensorEntry,
)
from cliprt_engines._profiles import Profile, Span

Load = Callable[..., TensorRtTower]
"""Loads an engine's folder with the stand-ins, see the fixture."""

PROFILES = {
    "image": (Profile(batch=Span(1, 3, 6)), Profile(batch=Span(1, 1, 2))),
    "text": (
        Profile(batch=Span(1, 4, 8), length=Span(2, 77, 77)),
        Profile(batch=Span(1, 4, 8), length=Span(2, 8, 16)),
    ),
}


def write_engine(
    folder: Path,
    bundle: Bundle,
    tower: str,
    *,
    onnx: Path | None = None,
    precision: str = "fp32",
    profiles: Sequence[Profile] | None = None,
    plan_profiles: Sequence[Profile] | None = None,
    flavor: FlavorName = "tensorrt",
    version: str = "11.0.0",
    architectures: Sequence[str] = ("sm89",),
    options: BuilderOptions | None = None,
    info: TowerInfo | None = None,
) -> Path:
    """A folder such as ``cliprt build`` makes, with a plan for the stand-in.

    Args:
        folder: where engines lie.
        bundle: that it is built from.
        tower: image or text.
        onnx: another tower than the bundle's for the plan to run.
        precision: of the tower.
        profiles: of the manifest.
        plan_profiles: of the plan, if they are others.
        flavor: of TensorRT.
        version: of TensorRT.
        architectures: that it is for.
        options: that it was built with.
        info: of the tower; None asks its graph.
    """
    graph = f"{tower}.{precision}.onnx"
    info = info or OnnxTower(bundle.file(graph), threads=1).info
    profiles = tuple(profiles or PROFILES[tower])
    content = {
        "onnx": str(onnx or bundle.file(graph)),
        "profiles": [each.shapes(info.shape) for each in plan_profiles or profiles],
    }
    plan = json.dumps(content).encode()
    recipe = Recipe(
        cliprt="0.1.0",
        space=bundle.card.space,
        tower="image" if tower == "image" else "text",
        precision=precision,
        files={graph: bundle.card.files[graph]},
        profiles=profiles,
        flavor=flavor,
        version=version,
        architectures=tuple(architectures),
        built_on=None,
        options=options or BuilderOptions(),
    )
    manifest = Manifest(
        schema=SCHEMA,
        model=bundle.card.name,
        recipe=recipe,
        plan=FileEntry(sha256=hashlib.sha256(plan).hexdigest(), size=len(plan)),
        input=TensorEntry(name=info.input, dtype=info.dtype, shape=info.shape),
        output=TensorEntry(name="embedding", dtype="float32", shape=(info.dim,)),
        products={},
        widened={},
        fused_attentions=None,
        inspected="network",
        built_at="2026-11-21T00:00:00Z",
    )
    engine = folder / recipe.name
    engine.mkdir(parents=True)
    (engine / PLAN).write_bytes(plan)
    (engine / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return engine


def some_tokens(rows: int, length: int = 7, seed: int = 0) -> NDArray[np.int32]:
    tokens = np.random.default_rng(seed).integers(1, 49406, (rows, length), dtype=np.int32)
    tokens[:, -1] = 49407
    return tokens


def expected(bundle: Bundle, batch: NDArray[Any]) -> NDArray[np.float32]:
    tower = "text" if batch.dtype == np.int32 else "image"
    return OnnxTower(bundle.file(f"{tower}.fp32.onnx"), threads=1).run(batch)
