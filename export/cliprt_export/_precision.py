"""Which parts of a tower are computed in which type: decided here and nowhere else.

========= ====================== ============================== ==================================
precision states and weights     products of the blocks         always float32
========= ====================== ============================== ==================================
fp32      float32                float32                        everything
fp16      float16                float16                        normalisation of pixels, LayerNorm,
                                                                the last LayerNorm, projection and
                                                                division by the length
int8      float16                int8 x int8, explicit Q/DQ     as fp16
int8-cpu  float32                uint8 x int8, explicit Q/DQ;   everything else
                                 patches: bytes x 2 x int8
========= ====================== ============================== ==================================

Why these islands: a half has 11 bits and ends at 65,504. Squares in a LayerNorm leave that range
first (TensorRT issues 2709 and 4373 are this failure), so LayerNorms take and give float32. Weights
with the pixels' normalisation folded in lie near 1e-4, where halves lose bits, and bytes that were
not centred cancel badly, so pixels are normalised in float32 first. The projection is one small
product per item whose error nothing afterwards averages out.

Any other part becomes an island only where measured values call for it: a part of a block (its
attention or its MLP) in which a value beyond ``WIDE`` was seen, and the whole residual stream if
one was seen there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from cliprt._extras import require

PrecisionName: TypeAlias = Literal["fp32", "fp16", "int8", "int8-cpu", "fp8"]
PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8", "int8-cpu", "fp8")

QUANTISED: tuple[PrecisionName, ...] = ("int8", "int8-cpu", "fp8")

WIDE = 65504 / 8
"""Magnitude from which a value is kept in float32: an eighth of the greatest half, because the
values seen on a few pictures and texts are not the greatest there are."""


@dataclass(frozen=True)
class Range:
    """What a quantised tensor may hold; beyond it is clipped.

    Attributes:
        low: least value.
        high: greatest value.
    """

    low: float
    high: float

    @property
    def magnitude(self) -> float:
        """Greatest magnitude; never 0."""
        return max(abs(self.low), abs(self.high), 1e-9)

    def asymmetric(self) -> tuple[float, int]:
        """Scale and zero point of uint8; 0 is always represented exactly."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = max(high - low, 1e-9) / 255
        return scale, int(np.clip(round(-low / scale), 0, 255))


@dataclass(frozen=True)
class Precision:
    """The types of one variant of a tower.

    Attributes:
        name: fp32, fp16, int8, int8-cpu or fp8.
        peaks: greatest magnitudes seen, by the names of ``_reference``; decides float32 islands.
        ranges: per quantised product, by the name of its input, what is quantised.
    """

    name: PrecisionName
    peaks: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)

    @property
    def half(self) -> bool:
        """Whether weights and states are float16."""
        return self.name in ("fp16", "int8", "fp8")

    @property
    def compute(self) -> type[np.generic]:
        """Type of weights and products outside islands."""
        return np.float16 if self.half else np.float32

    @property
    def stored(self) -> type[np.generic]:
        """Type of quantised weights."""
        if self.name == "fp8":
            # What NumPy lacks: 4 bits of exponent, 3 of mantissa, no infinities (Micikevicius et
            # al. 2022).
            return cast("type[np.generic]", require("ml_dtypes", extra="export").float8_e4m3fn)
        return np.int8

    @property
    def levels(self) -> float:
        """Greatest value of that type that is used."""
        return 448 if self.name == "fp8" else 127

    def rounded(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values in units of the scale as the stored type holds them."""
        x = np.clip(x, -self.levels, self.levels)
        return np.rint(x) if self.stored is np.int8 else x.astype(self.stored).astype(np.float32)

    @property
    def joins_projections(self) -> bool:
        """Whether queries, keys and values of a block come from one product.

        One wide product is faster. But TensorRT-RTX 1.7 computes the joined one in float16 where it
        was quantised, and separate ones in 8 bits, so those are what its precisions get.
        """
        return self.name not in ("int8", "fp8")

    @property
    def residual(self) -> type[np.generic]:
        """Type of the residual stream."""
        stream = (name for name in self.peaks if _in_stream(name))
        return np.float32 if any(self._is_wide(name) for name in stream) else self.compute

    def part(self, name: str) -> type[np.generic]:
        """Type of a part, ``blocks.3.mlp`` for instance."""
        inside = (seen for seen in self.peaks if _part_of(seen) == name)
        return np.float32 if any(self._is_wide(seen) for seen in inside) else self.compute

    def islands(self) -> list[str]:
        """Parts kept in float32 because of what was measured, for the record."""
        if not self.half:
            return []
        wide = {name for name in self.peaks if self._is_wide(name)}
        stream = ["residual stream"] if any(map(_in_stream, wide)) else []
        return stream + sorted({_part_of(name) for name in wide} - {""})

    def _is_wide(self, name: str) -> bool:
        # Written so that NaN and infinity count.
        return not self.peaks[name] < WIDE


def _in_stream(name: str) -> bool:
    """Whether a step's result is a state of the residual stream."""
    names = ("patch", "all", "pre_norm", "pooled", "stem.conv3")
    return name in names or name.endswith((".add1", ".add2", ".out.stream"))


def _part_of(name: str) -> str:
    """The part that computes a step, or takes it in; empty for the stream itself.

    ``blocks.3.norm1`` and ``blocks.3.attention.out`` -> ``blocks.3.attention``,
    ``stages.0.1.conv2`` -> ``stages.0.1``, ``head.mlp.up`` -> ``head``.
    """
    first, *rest = name.split(".")
    if first in ("stem", "head"):
        return first
    if first == "stages":
        return ".".join([first, *rest[:2]])
    if first == "blocks":
        inside = {"norm1": "attention", "norm2": "mlp"}.get(rest[1], rest[1])
        return f"{first}.{rest[0]}.{inside}" if inside in ("attention", "mlp") else ""
    return ""


FP32 = Precision("fp32")
