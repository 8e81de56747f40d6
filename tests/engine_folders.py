"""Engine folders whose plans the stand-in for TensorRT runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cliprt import Bundle, FileEntry
from cliprt_engines import OnnxTower
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
    """
    graph = f"{tower}.{precision}.onnx"
    info = OnnxTower(bundle.file(graph), threads=1).info
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
        flavor="tensorrt",
        version="11.0.0",
        architectures=("sm89",),
        built_on=None,
        options=BuilderOptions(),
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
