"""What every way of running a tower in process has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Inputs: TypeAlias = NDArray[np.uint8] | NDArray[np.int32]
"""Pixels, uint8 [batch, height, width, 3], or tokens, int32 [batch, length]."""


@dataclass(frozen=True)
class TowerInfo:
    """What a tower takes and gives.

    Attributes:
        input: name of the input, ``pixels`` or ``tokens``.
        dtype: of the input, ``uint8`` or ``int32``.
        shape: of the input, without the batch; None where the length may change.
        dim: length of an embedding.
        max_batch: most items of one run; None where there is no limit.
        max_length: most tokens of a text; None for pictures and where the runtime sets no limit.
        runtime: what computes it, with its version, for instance ``onnxruntime 1.26.0 CPU``.
    """

    input: str
    dtype: str
    shape: tuple[int | None, ...]
    dim: int
    max_batch: int | None
    max_length: int | None
    runtime: str


class Tower(Protocol):
    """A tower that runs in this process."""

    @property
    def info(self) -> TowerInfo:
        """What it takes and gives."""

    def run(self, batch: Inputs) -> NDArray[np.float32]:
        """Embeds a batch.

        Args:
            batch: uint8 pixels [batch, height, width, 3], or int32 tokens [batch, length].

        Returns:
            float32 [batch, dim], rows of length 1.
        """

    def close(self) -> None:
        """Gives back what it holds. A second call does nothing."""
