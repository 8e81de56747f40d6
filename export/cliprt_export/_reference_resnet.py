"""The modified ResNet's features in plain NumPy; see ``_reference``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cliprt_export._specs import ResNetTower, Tensors

Floats = NDArray[np.float32]


def resnet_features(
    tower: ResNetTower, tensors: Tensors, pixels: Floats, observe: Callable[[str, Floats], None]
) -> Floats:
    """Stem and four stages.

    Args:
        tower: sizes.
        tensors: weights with folded batch norms.
        pixels: normalised, float32 [batch, height, width, 3].
        observe: sees every step.

    Returns:
        float32 [batch, height / 32, width / 32, features].
    """

    def convolution(x: Floats, name: str, stride: int = 1) -> Floats:
        observe(f"{name}.in", x)
        x = _convolution(x, tensors(f"{name}.weight"), stride) + tensors(f"{name}.bias")
        observe(name, x)
        return x

    def relu(x: Floats) -> Floats:
        return np.maximum(x, np.float32(0))

    x = relu(convolution(pixels, "stem.conv1", stride=2))
    x = relu(convolution(x, "stem.conv2"))
    x = _average_pool(relu(convolution(x, "stem.conv3")))
    for stage, blocks in enumerate(tower.blocks):
        for block in range(blocks):
            name = f"stages.{stage}.{block}"
            halved = stage > 0 and block == 0
            inner = relu(convolution(x, f"{name}.conv1"))
            inner = relu(convolution(inner, f"{name}.conv2"))
            inner = convolution(_average_pool(inner) if halved else inner, f"{name}.conv3")
            if block == 0:
                x = convolution(_average_pool(x) if halved else x, f"{name}.shortcut")
            x = relu(x + inner)
            observe(f"{name}.out", x)
            observe(f"{name}.out.stream", x)
    return x


def _convolution(x: Floats, weight: Floats, stride: int) -> Floats:
    """Zero-padded so that stride 1 keeps the size; x is [batch, rows, columns, in]."""
    side, channels = weight.shape[2], weight.shape[1]
    if side == 1:
        # As one product of two matrices: NumPy makes a slow one of each row of pixels otherwise.
        flat = x.reshape(-1, channels) @ weight[:, :, 0, 0].T
        return np.asarray(flat.reshape(*x.shape[:3], -1))
    margin = side // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    rows = (x.shape[1] + 2 * margin - side) // stride + 1
    columns = (x.shape[2] + 2 * margin - side) // stride + 1
    out = np.zeros((len(x) * rows * columns, len(weight)), dtype=np.float32)
    # [rows, columns, in, out], laid out anew: BLAS takes no matrix with gaps between its elements.
    places = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    for i in range(side):
        for j in range(side):
            bottom, right = i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1
            seen = padded[:, i:bottom:stride, j:right:stride]
            out += seen.reshape(-1, channels) @ places[i, j]
    return out.reshape(len(x), rows, columns, -1)


def _average_pool(x: Floats) -> Floats:
    """The mean over 2 x 2 pixels."""
    batch, rows, columns, channels = x.shape
    tiles = x.reshape(batch, rows // 2, 2, columns // 2, 2, channels)
    return np.asarray(tiles.mean(axis=(2, 4)), dtype=np.float32)
