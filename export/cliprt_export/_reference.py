"""The towers in plain NumPy: the formula of the checkpoint, term by term.

This is what exported graphs are measured against. It shares no code with the graph builder and
repeats none of its rearrangements: normalisation before the convolution, separate query, key and
value products, scores scaled where the paper scales them, every token through every block.
"""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
from numpy.typing import NDArray

from cliprt_export._specs import ImageTower, Tensors, TextTower, TransformerSpec

_erf = np.vectorize(erf, otypes=[np.float32])

Floats = NDArray[np.float32]


def embed_pixels(tower: ImageTower, tensors: Tensors, pixels: NDArray[np.uint8]) -> Floats:
    """Embeds pictures.

    Args:
        tower: the tower's sizes and normalisation.
        tensors: its weights, by the names of ``image_tensors``.
        pixels: uint8 [batch, height, width, 3], RGB.

    Returns:
        float32 [batch, dim], rows of length 1.
    """
    scaled = pixels.astype(np.float32) * np.float32(tower.rescale)
    mean, std = (np.array(values, dtype=np.float32) for values in (tower.mean, tower.std))
    normalised = (scaled - mean) / std
    rows, columns = tower.grid
    patch, width = tower.patch, tower.transformer.width
    cut = normalised[:, : rows * patch, : columns * patch]
    # [batch, rows, patch, columns, patch, 3] -> [batch, rows * columns, 3 * patch * patch]
    split = cut.reshape(len(pixels), rows, patch, columns, patch, 3).transpose(0, 1, 3, 5, 2, 4)
    flat = split.reshape(len(pixels), rows * columns, 3 * patch * patch)
    patches = flat @ tensors("patch.weight").reshape(width, -1).T
    classes = np.broadcast_to(tensors("class_token"), (len(pixels), 1, width))
    x = np.concatenate([classes, patches], axis=1) + tensors("positions")
    x = _layer_norm(x, tensors, "pre_norm", tower.transformer.epsilon)
    x = _transformer(x, tensors, tower.transformer, None)
    return _finish(x[:, 0], tensors, tower.transformer.epsilon)


def embed_tokens(tower: TextTower, tensors: Tensors, tokens: NDArray[np.int32]) -> Floats:
    """Embeds texts.

    Args:
        tower: the tower's sizes.
        tensors: its weights, by the names of ``text_tensors``.
        tokens: int32 [batch, length], 2 <= length <= context.

    Returns:
        float32 [batch, dim], rows of length 1.
    """
    length = tokens.shape[1]
    x = tensors("token_embedding")[tokens] + tensors("positions")[:length]
    hidden = np.triu(np.full((length, length), -np.inf, dtype=np.float32), k=1)
    x = _transformer(x, tensors, tower.transformer, hidden)
    # argmax returns the first of equal values: the first end token, or the first highest id.
    wanted = tokens if tower.pooling == "highest" else tokens == tower.end_id
    pooled = x[np.arange(len(tokens)), wanted.argmax(axis=1)]
    return _finish(pooled, tensors, tower.transformer.epsilon)


def _transformer(x: Floats, tensors: Tensors, spec: TransformerSpec, mask: Floats | None) -> Floats:
    for layer in range(spec.layers):
        block = f"blocks.{layer}"
        normed = _layer_norm(x, tensors, f"{block}.norm1", spec.epsilon)
        x = x + _attention(normed, tensors, spec, f"{block}.attention", mask)
        normed = _layer_norm(x, tensors, f"{block}.norm2", spec.epsilon)
        hidden = _activation(_linear(normed, tensors, f"{block}.mlp.up"), spec)
        x = x + _linear(hidden, tensors, f"{block}.mlp.down")
    return x


def _attention(
    x: Floats, tensors: Tensors, spec: TransformerSpec, name: str, mask: Floats | None
) -> Floats:
    batch, length, width = x.shape

    def heads(role: str) -> Floats:
        projected = _linear(x, tensors, f"{name}.{role}")
        return projected.reshape(batch, length, spec.heads, spec.head_width).transpose(0, 2, 1, 3)

    scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) * np.float32(spec.head_width**-0.5)
    if mask is not None:
        scores = scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    joined = (weights @ heads("value")).transpose(0, 2, 1, 3).reshape(batch, length, width)
    return _linear(joined, tensors, f"{name}.out")


def _activation(x: Floats, spec: TransformerSpec) -> Floats:
    if spec.activation == "quick_gelu":
        # exp overflows to inf for very negative x, and x / inf is the right limit, 0.
        with np.errstate(over="ignore"):
            return np.asarray(x / (1 + np.exp(np.float32(-1.702) * x)))
    return np.asarray(x * (1 + _erf(x / np.float32(sqrt(2)))) / 2)


def _layer_norm(x: Floats, tensors: Tensors, name: str, epsilon: float) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(variance + np.float32(epsilon))
    return np.asarray(normed * tensors(f"{name}.weight") + tensors(f"{name}.bias"))


def _linear(x: Floats, tensors: Tensors, name: str) -> Floats:
    return x @ tensors(f"{name}.weight").T + tensors(f"{name}.bias")


def _finish(x: Floats, tensors: Tensors, epsilon: float) -> Floats:
    x = _layer_norm(x, tensors, "post_norm", epsilon) @ tensors("projection.weight").T
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), dtype=np.float32)
