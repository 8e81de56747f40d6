"""What a stage is told, where its findings go, and the bar that it holds answers to.

Findings are written after every figure: what comes before a crash is kept. What answers wrong is
not timed: its stage fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import largest_error, operations, timed

from cliprt import open_bundle
from cliprt_engines import OnnxTower

_LOOKED_AT = 4
"""Rows of each batch that are compared with float32, which the processor computes."""


_BARS = {"fp32": 0.9999, "fp16": 0.999}
"""Least cosine to float32: looser than in verification, as torch's own halves are timed too."""


class NotRunError(Exception):
    """A stage that cannot be run here, with the reason."""


class BarMissedError(Exception):
    """Something answers wrong; how quickly it does so is of no use."""


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
        self.save()

    def save(self) -> None:
        """Writes the findings so far."""
        content = json.dumps(self.found, allow_nan=False)
        self.result.write_text(content, encoding="utf-8")

    @cached_property
    def reference(self) -> OnnxTower:
        """The float32 image tower on the processor."""
        return OnnxTower(self.fp32)

    def least_cosine(
        self, what: str, pixels: NDArray[np.uint8], answers: NDArray[np.float32]
    ) -> float:
        """The least cosine of some answers to those of the float32 tower.

        Args:
            what: answered.
            pixels: uint8 [batch, height, width, 3].
            answers: float32 [batch, dim].

        Raises:
            BarMissedError: it is under the bar, or answers are not numbers.
        """
        some = pixels[:_LOOKED_AT]
        cosine = 1 - largest_error(self.reference.run(some), answers[: len(some)])
        bar = _BARS[self.precision]
        # Not "<": what is not a number is under every bar.
        if len(answers) != len(pixels) or not cosine >= bar:
            raise BarMissedError(
                f"{what}: {len(answers)} answers to {len(pixels)} pictures, the least cosine to "
                f"float32 is {cosine:.6f}, the bar is {bar}"
            )
        return cosine

    def note_speed(
        self,
        what: str,
        pixels: NDArray[np.uint8],
        call: Callable[[], Any],
        answers: Callable[[], NDArray[np.float32]] | None = None,
    ) -> None:
        """Times a call that embeds pictures and returns when the answers are there.

        Args:
            what: is timed.
            pixels: that it embeds.
            call: is timed.
            answers: gives the answers of such a call; None takes what it returns.

        Raises:
            BarMissedError: the answers are wrong.
        """
        batch = len(pixels)
        cosine = self.least_cosine(f"{what}, batch {batch}", pixels, (answers or call)())
        latency = timed(call, self.samples)
        # What a graph replays after all those calls is what was timed.
        self.least_cosine(f"{what}, batch {batch}, timed", pixels, (answers or call)())
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
            "least_cosine": cosine,
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
