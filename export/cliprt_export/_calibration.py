"""What can be quantised in a tower, and what its inputs look like.

Quantised are the matrix products of a transformer's blocks and the convolutions of a ResNet's
stages: nearly all the arithmetic. Left alone are the stem, attention's own products and softmax,
LayerNorms, residual additions, pooling and the last projection; and the patch embedding, whose
input needs no calibration (``_quantise.pixel_range``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliprt_export._reference import embed
from cliprt_export._specs import ResNetTower, Tensors, Tower

Floats = NDArray[np.float32]

# Rows of each input that are kept. Enough for an estimate of rounding errors, which are averages
# over channels too; at ViT-L/14's sizes 256 rows are 0.7 GB.
_ROWS = 128


@dataclass(frozen=True)
class Product:
    """A product that can be quantised.

    Attributes:
        input: name of its input, as ``_reference`` reports it.
        weights: names of the weights that are multiplied with that input.
        producer: where a factor per input channel can be folded: names of tensors whose first axis
            are those channels; empty if nowhere.
    """

    input: str
    weights: tuple[str, ...]
    producer: tuple[str, ...]


class Calibration:
    """Keeps rows of every product's input while the original weights run.

    Attributes:
        products: what can be quantised.
        peaks: greatest magnitude of every step.
    """

    def __init__(self, tower: Tower) -> None:
        """Starts with nothing seen."""
        self._tower = tower
        self.products = tuple(products_of(tower))
        self._wanted = {product.input for product in self.products}
        self._rows: dict[str, Floats] = {}
        self._low: dict[str, Floats] = {}
        self._high: dict[str, Floats] = {}
        self._seen: dict[str, int] = {}
        self.peaks: dict[str, float] = {}
        self._random = np.random.Generator(np.random.PCG64(0))

    def run(self, tensors: Tensors, batch: NDArray[np.uint8] | NDArray[np.int32]) -> None:
        """Runs the original weights over a batch of pixels or tokens."""
        embed(self._tower, tensors, batch, self._observe)

    def rows(self, name: str) -> Floats:
        """A sample of the input's rows, [n, channels]; first of all each channel's extremes."""
        return np.concatenate([self._low[name][None], self._high[name][None], self._rows[name]])

    def _observe(self, name: str, values: Floats) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0.0), float(np.abs(values).max()))
        if name not in self._wanted:
            return
        flat = values.reshape(-1, values.shape[-1])
        low, high = flat.min(axis=0), flat.max(axis=0)
        if name not in self._rows:
            self._low[name], self._high[name] = low, high
            self._rows[name], self._seen[name] = flat[:0], 0
        self._low[name] = np.minimum(self._low[name], low)
        self._high[name] = np.maximum(self._high[name], high)
        # Every row seen so far has the same chance to be in the sample.
        before, after = self._seen[name], self._seen[name] + len(flat)
        keep = self._random.random(len(self._rows[name])) < before / after
        fresh = min(len(flat), _ROWS - int(keep.sum()))
        fresh = min(fresh, max(1, round(_ROWS * len(flat) / after)))
        picked = self._random.choice(len(flat), fresh, replace=False)
        self._rows[name] = np.concatenate([self._rows[name][keep], flat[picked]])
        self._seen[name] = after


def products_of(tower: Tower) -> Iterator[Product]:
    """All products of a tower that can be quantised."""
    if isinstance(tower, ResNetTower):
        for stage, blocks in enumerate(tower.blocks):
            for block in range(blocks):
                yield from _bottleneck_products(f"stages.{stage}.{block}", block == 0)
        return
    for layer in range(tower.transformer.layers):
        name = f"blocks.{layer}"
        attention, mlp = f"{name}.attention", f"{name}.mlp"
        roles = tuple(f"{attention}.{role}.weight" for role in ("query", "key", "value"))
        yield Product(f"{name}.norm1", roles, _both(f"{name}.norm1"))
        # What attention mixes are values, channel by channel: a factor of theirs passes through.
        yield Product(
            f"{attention}.heads", (f"{attention}.out.weight",), _both(f"{attention}.value")
        )
        yield Product(f"{name}.norm2", (f"{mlp}.up.weight",), _both(f"{name}.norm2"))
        yield Product(f"{mlp}.hidden", (f"{mlp}.down.weight",), ())


def _bottleneck_products(name: str, first: bool) -> Iterator[Product]:
    # ReLU and average pools pass a positive factor on, so that a convolution can carry the one of
    # the next.
    yield Product(f"{name}.conv1.in", (f"{name}.conv1.weight",), ())
    yield Product(f"{name}.conv2.in", (f"{name}.conv2.weight",), _both(f"{name}.conv1"))
    yield Product(f"{name}.conv3.in", (f"{name}.conv3.weight",), _both(f"{name}.conv2"))
    if first:
        yield Product(f"{name}.shortcut.in", (f"{name}.shortcut.weight",), ())


def _both(name: str) -> tuple[str, str]:
    return f"{name}.weight", f"{name}.bias"
