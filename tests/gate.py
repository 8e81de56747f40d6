"""The gate that needs no GPU: every tower that is published here must build, and stay narrow.

    make gate

Exports the demo model and ViT-B/32, RN50 and SigLIP-B/16 at full width (drawn weights), builds
engines of both towers in FP16 and INT8 with TensorRT-RTX's ahead-of-time builder, and inspects the
built plans: inputs, outputs, types, profiles, architectures, and that no product fell back to
float32. What the parser, the builder or the inspection refuses ends it with an error.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cliprt import Bundle, CliprtError
from cliprt_engines import Engine, build_engines, find_engines, open_engine
from cliprt_export import export_checkpoint, export_random
from folders import write_calibration

ROOT = Path(__file__).resolve().parent.parent
LINE = "{:<16} {:<6} {:<5} {:<6} {:>7} {:>6}  {:<34} {:<22} {}"


@dataclass(frozen=True)
class Case:
    """A model of the gate.

    Attributes:
        name: of the model.
        export: writes its bundle into a folder.
        precisions: that are built.
        targets: that they are built for.
        profiles: by tower, of engines for the first target beside those with the default ones.
    """

    name: str
    export: Callable[[Path], Bundle]
    precisions: tuple[str, ...] = ("fp16", "int8")
    targets: tuple[str, ...] = ("sm89",)
    profiles: Mapping[str, str] = field(default_factory=dict)


def demo(folder: Path) -> Bundle:
    """The demo model, calibrated on what it was trained on."""
    write_calibration(folder / "calibrate", count=64)
    return export_checkpoint(
        ROOT / "demo" / "checkpoint",
        folder / "bundle",
        precisions=("fp16", "int8", "fp8"),
        calibrate=folder / "calibrate",
        samples=8,
    )


def drawn(architecture: str) -> Callable[[Path], Bundle]:
    """A published architecture with drawn weights; few items, as nothing is learnt from more."""

    def export(folder: Path) -> Bundle:
        return export_random(
            architecture, folder / "bundle", precisions=("fp16", "int8"), samples=2
        )

    return export


CASES = (
    Case(
        "demo",
        demo,
        ("fp16", "int8", "fp8"),
        ("sm89", "sm86", "sm120"),
        # For one item alone other kernels are made, for a matrix times a vector.
        {"image": "1", "text": "1x16:16:16"},
    ),
    Case("ViT-B-32", drawn("ViT-B-32")),
    Case("RN50", drawn("RN50")),
    Case("ViT-B-16-SigLIP", drawn("ViT-B-16-SigLIP")),
)


def run(case: Case, folder: Path) -> None:
    """Exports, builds and inspects; prints a line for each engine."""
    start = time.monotonic()
    bundle = case.export(folder)
    print(f"{case.name}: exported in {time.monotonic() - start:.0f} s", flush=True)
    built = []
    for target in case.targets:
        # fp8 came with Ada.
        precisions = [p for p in case.precisions if p != "fp8" or target != "sm86"]
        for tower in ("image", "text"):
            others = [{tower: case.profiles[tower]}] if tower in case.profiles else []
            for profiles in [{}, *(others if target == case.targets[0] else [])]:
                for precision in precisions:
                    start = time.monotonic()
                    (engine,) = build_engines(
                        bundle,
                        folder / "engines",
                        precisions=(precision,),
                        towers=(tower,),
                        flavor="tensorrt-rtx",
                        targets=(target,),
                        profiles=profiles,
                    )
                    report(case, engine, bundle, time.monotonic() - start)
                    built.append(engine.path)
    assert sorted(engine.path for engine in find_engines(folder / "engines")) == sorted(built)


def report(case: Case, engine: Engine, bundle: Bundle, seconds: float) -> None:
    """Checks an engine once more from its folder, and prints its line."""
    opened = open_engine(engine.path, bundle=bundle, any_device=True)
    manifest, recipe = opened.manifest, opened.manifest.recipe
    # build_engines has refused anything else, unless the plan did not say.
    if manifest.inspected != "plan":
        raise AssertionError(f"{recipe.name} was not inspected as built: {manifest.inspected}")
    print(
        LINE.format(
            case.name,
            recipe.tower,
            recipe.precision,
            "+".join(recipe.architectures),
            f"{manifest.plan.size / 1e6:.1f} MB",
            f"{seconds:.1f} s",
            " ".join(f"{count} {dtype}" for dtype, count in manifest.products.items()),
            ", ".join(f"{count} {pair}" for pair, count in manifest.widened.items()) or "-",
            f"{len(recipe.profiles)} profiles, {manifest.fused_attentions} attentions fused",
        ),
        flush=True,
    )


def main() -> None:
    """Runs all cases, or those that are named."""
    start = time.monotonic()
    print(
        LINE.format(
            "model", "tower", "prec.", "for", "plan", "built", "products", "widened", "also"
        )
    )
    for case in CASES:
        if len(sys.argv) > 1 and case.name not in sys.argv[1:]:
            continue
        # One at a time: a bundle and its engines take up to 2 GB.
        with tempfile.TemporaryDirectory(prefix="cliprt-gate-") as folder:
            try:
                run(case, Path(folder))
            except CliprtError as error:
                sys.exit(f"{case.name}: {error}")
    print(f"the gate is open after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
