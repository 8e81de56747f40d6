"""Small towers of every kind with drawn weights, below any checkpoint format."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt_export._specs import (
    ResNetTower,
    Tensors,
    TextTower,
    Tower,
    TransformerSpec,
    VitTower,
    tower_tensors,
)

_PIXELS: dict[str, Any] = {
    "mean": (0.48, 0.46, 0.41),
    "std": (0.27, 0.26, 0.28),
    "rescale": 1 / 255,
}
_PLAIN = TransformerSpec(48, 3, 3, 192, "quick_gelu", 1e-5)
_SCALED = TransformerSpec(48, 3, 4, 120, "gelu", 1e-5, layer_scale=True)
_SIGMOID = TransformerSpec(48, 3, 4, 192, "gelu_tanh", 1e-6)

IMAGE_TOWERS: dict[str, Tower] = {
    "vit": VitTower(32, 48, 8, 24, _PLAIN, **_PIXELS),
    "vit, average": VitTower(32, 32, 8, 24, _PLAIN, **_PIXELS, pooling="average"),
    "vit, average before the norm": VitTower(
        32,
        32,
        8,
        24,
        _SCALED,
        **_PIXELS,
        pooling="average",
        norm_after_pooling=True,
        pre_norm=False,
    ),
    "vit, attention": VitTower(
        48,
        32,
        8,
        48,
        _SIGMOID,
        **_PIXELS,
        pooling="attention",
        class_token=False,
        patch_bias=True,
        pre_norm=False,
        projection=False,
    ),
    "resnet": ResNetTower(64, 96, 24, 8, (2, 1, 1, 2), 8, **_PIXELS),
}
TEXT_TOWERS: dict[str, Tower] = {
    "text, end": TextTower(100, 12, 24, _PLAIN, "end", 99),
    "text, highest": TextTower(100, 12, 24, _SCALED, "highest", 99),
    "text, first": TextTower(100, 12, 48, _PLAIN, "first", 99, projection="none"),
    "text, last": TextTower(100, 12, 24, _PLAIN, "last", 99),
    "text, all see all": TextTower(
        100, 12, 48, _SIGMOID, "last", 1, causal=False, projection="affine"
    ),
}
TOWERS = {**IMAGE_TOWERS, **TEXT_TOWERS}


def drawn_tensors(tower: Tower, seed: int = 0) -> Tensors:
    """Weights that keep a signal alive through all layers."""
    rng = np.random.Generator(np.random.PCG64(seed))
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in tower_tensors(tower).items():
        if "norm" in name:
            values = 0.1 * rng.standard_normal(shape) + name.endswith("weight")
        elif len(shape) == 1:
            values = 0.2 * rng.standard_normal(shape)
        else:
            values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        tensors[name] = values.astype(np.float32)
    return tensors.__getitem__


def drawn_inputs(tower: Tower, count: int, seed: int = 1) -> NDArray[np.uint8] | NDArray[np.int32]:
    """Pictures that are smooth in parts, or texts of drawn ids that end where they end."""
    rng = np.random.Generator(np.random.PCG64(seed))
    if isinstance(tower, TextTower):
        tokens = rng.integers(2, tower.vocabulary - 1, (count, tower.context))
        for row in tokens:
            row[rng.integers(2, tower.context) :] = tower.end_id
        return tokens.astype(np.int32)
    coarse = rng.integers(0, 256, (count, tower.height // 8, tower.width // 8, 3))
    fine = coarse.repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(fine + rng.integers(-20, 20, fine.shape), 0, 255).astype(np.uint8)
