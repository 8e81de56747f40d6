"""Cards of measurements for tests: every figure is given, none is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cliprt_bench._bench_card import (
    SCHEMA,
    BenchCard,
    Ceiling,
    Fidelity,
    Gpu,
    Inputs,
    Machine,
    Method,
    Model,
    Point,
    Target,
    Workload,
)
from cliprt_bench._figures import Figure, figure

SPREAD = (0.99, 1.0, 1.01, 1.0, 0.995)
"""Repeats of a quiet figure, as parts of its value."""

WIDE = (0.5, 1.0, 1.6)
"""Repeats of a noisy one."""


def quiet(value: float) -> Figure:
    return figure([value * part for part in SPREAD])


def noisy(value: float) -> Figure:
    return figure([value * part for part in WIDE])


def workload(tower: str = "image", batch: int = 1, callers: int = 1, **more: Any) -> Workload:
    fields = {"tower": tower, "batch": batch, "concurrency": callers, "loop": "closed"}
    return Workload(**{**fields, **more})  # type: ignore[arg-type]


def point(
    at: Workload | None = None,
    *,
    p50: float | Figure = 10.0,
    p99: float | Figure | None = 14.0,
    items: float | Figure = 100.0,
    **more: Any,
) -> Point:
    """A point; numbers become quiet figures, None leaves one out."""
    given = {"p50_ms": p50, "p99_ms": p99, "items_s": items, **more.pop("figures", {})}
    figures = {
        name: value if isinstance(value, Figure) else quiet(value)
        for name, value in given.items()
        if value is not None
    }
    return Point(workload=at or workload(), figures=figures, samples=2000, **more)


def machine(cpu: str = "Example CPU 1", cores: int = 2, **more: Any) -> Machine:
    fields: dict[str, Any] = {
        "features": ("avx2",),
        "clock_mhz": 2500.0,
        "memory_mb": 8192,
        "system": "Linux 6.1",
        "python": "3.11.7",
        "libraries": {"numpy": "1.26.4"},
        "gpus": (),
        "load": 0.0,
    }
    return Machine(cpu=cpu, cores=cores, **{**fields, **more})


def gpu(name: str = "Example GPU") -> Gpu:
    return Gpu(name=name, memory_mb=24_000, driver="560.1")


def card(points: Sequence[Point] | None = None, **more: Any) -> BenchCard:
    """A card; what is not given is that of the baseline of most tests."""
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "load",
        "cliprt": "0.1.0",
        "made": "2026-11-20T10:00:00Z",
        "machine": machine(),
        "target": target(),
        "model": Model(name="example-b32", space="ab" * 32, dim=512),
        "fidelity": {"image": fidelity(0.99999), "text": fidelity(0.99998)},
        "inputs": Inputs(described="64 JPEG pictures, 640 x 480; captions", sha256="cd" * 32),
        "method": Method(
            warmup_s=1.0, repeat_s=3.0, repeats=5, seed=0, command="cliprt bench load"
        ),
        "points": tuple(points if points is not None else [point()]),
    }
    return BenchCard(**{**fields, **more})


def target(precision: str | None = "fp32", **more: Any) -> Target:
    fields: dict[str, Any] = {
        "kind": "local",
        "name": "cliprt",
        "runtime": "ONNX Runtime 1.26",
        "settings": {},
        "process": "own",
    }
    return Target(precision=precision, **{**fields, **more})


def fidelity(p01: float) -> Fidelity:
    return Fidelity(p01_cosine=p01, mean_cosine=p01, neighbours=None, top1_loss=None)


def ceiling(name: str, items: Mapping[str, float]) -> Ceiling:
    return Ceiling(
        name=name, figure=quiet(100.0), unit="GFLOP/s", by="a library", items_s=dict(items)
    )


def full_card(speed: float = 1.0, **more: Any) -> BenchCard:
    """A card with everything that a report can plot.

    Args:
        speed: how many times as fast as the baseline its machine is.
        more: fields of the card.
    """
    points = []
    for tower, base in (("image", 60.0), ("text", 240.0)):
        for batch in (1, 2, 4, 8, 16):
            for callers in (1, 4):
                # Larger requests use the machine better, more callers fill its pauses.
                items = base * speed * (1.9 - 0.9 / batch) * (1.25 - 0.25 / callers)
                p50 = 1000 * batch * callers / items
                points.append(
                    point(
                        workload(tower, batch, callers),
                        p50=p50,
                        p99=p50 * 1.35,
                        items=noisy(items) if (batch, callers) == (2, 4) else items,
                        figures={"rss_mb": 900.0, "max_ms": p50 * 1.8},
                    )
                )
    fields: dict[str, Any] = {
        "points": points,
        "ceilings": (
            ceiling("matmul_fp32", {"image": 180.0 * speed, "text": 700.0 * speed}),
            ceiling("matmul_int8", {"image": 420.0 * speed, "text": 1600.0 * speed}),
            ceiling("decode", {"image": 900.0 * speed}),
        ),
        "stages": {
            tower: {name: quiet(ms / speed) for name, ms in stages.items()}
            for tower, stages in (
                ("image", {"decode": 2.1, "resize": 1.4, "wire": 0.6, "queue": 0.9, "tower": 9.4}),
                ("text", {"tokenise": 0.2, "wire": 0.1, "queue": 0.4, "tower": 2.6}),
            )
        },
        "price_per_hour": 0.4,
    }
    return card(**{**fields, **more})
