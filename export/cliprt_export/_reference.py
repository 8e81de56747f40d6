"""The towers in plain NumPy: the formula of the checkpoint, term by term.

This is what exported graphs are measured against. It shares no code with the graph builder and
repeats none of its rearrangements: normalisation before the convolution, separate query, key and
value products, scores scaled where the paper scales them, every token through every block.

An observer sees every step under a name that the graph uses for the same value. That is how ranges
are measured for low precisions, and how the layer is found where a graph begins to drift.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf, exp, pi, sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cliprt_export._reference_resnet import resnet_features
from cliprt_export._specs import (
    Activation,
    ResNetTower,
    Tensors,
    TextTower,
    Tower,
    TransformerSpec,
    VitTower,
)

Floats: TypeAlias = NDArray[np.float32]
Observer: TypeAlias = Callable[[str, Floats], None]
"""Called with the name of a step and its result."""

# Nodes of a cubic Hermite interpolation of erf, whose error is below 1e-12 at this distance; beyond
# the last one erf is 1 in float32. NumPy has no erf.
_STEP = 1 / 512
_NODES = np.arange(0, 6 + _STEP, _STEP)
_ERF = np.array([erf(node) for node in _NODES])
_SLOPE = np.array([2 / sqrt(pi) * exp(-node * node) for node in _NODES])


def embed(
    tower: Tower,
    tensors: Tensors,
    inputs: NDArray[np.uint8] | NDArray[np.int32],
    observe: Observer = lambda name, values: None,
) -> Floats:
    """Embeds pictures or texts.

    Args:
        tower: the tower's sizes and normalisation.
        tensors: its weights, by the names of ``tower_tensors``.
        inputs: pixels, uint8 [batch, height, width, 3], or tokens, int32 [batch, length] with
            2 <= length <= context.
        observe: sees every step.

    Returns:
        float32 [batch, dim], rows of length 1.
    """
    if isinstance(tower, TextTower):
        x = _text(tower, tensors, inputs.astype(np.int64), observe)
    else:
        scaled = inputs.astype(np.float32) * np.float32(tower.rescale)
        mean, std = (np.array(values, dtype=np.float32) for values in (tower.mean, tower.std))
        normalised = (scaled - mean) / std
        if isinstance(tower, ResNetTower):
            x = _resnet(tower, tensors, normalised, observe)
        else:
            x = _vit(tower, tensors, normalised, observe)
    observe("projection", x)
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), dtype=np.float32)


def _vit(tower: VitTower, tensors: Tensors, pixels: Floats, observe: Observer) -> Floats:
    (rows, columns), patch, spec = tower.grid, tower.patch, tower.transformer
    batch, width = len(pixels), spec.width
    cut = pixels[:, : rows * patch, : columns * patch]
    # [batch, rows, patch, columns, patch, 3] -> [batch, rows * columns, 3 * patch * patch]
    split = cut.reshape(batch, rows, patch, columns, patch, 3).transpose(0, 1, 3, 5, 2, 4)
    flat = split.reshape(batch, rows * columns, 3 * patch * patch)
    x = flat @ tensors("patch.weight").reshape(width, -1).T
    if tower.patch_bias:
        x = x + tensors("patch.bias")
    observe("patch", x)
    if tower.class_token:
        classes = np.broadcast_to(tensors("class_token"), (batch, 1, width))
        x = np.concatenate([classes, x], axis=1)
    x = x + tensors("positions")
    observe("all", x)
    if tower.pre_norm:
        x = _layer_norm(x, tensors, "pre_norm", spec.epsilon)
        observe("pre_norm", x)
    x = _transformer(x, tensors, spec, None, observe)
    if tower.pooling == "class":
        x = x[:, 0]
        observe("pooled", x)
    patches = x[:, int(tower.class_token) :] if tower.pooling == "average" else x
    if tower.pooling == "average" and tower.norm_after_pooling:
        x = _layer_norm(patches.mean(axis=1), tensors, "post_norm", spec.epsilon)
    elif tower.pooling == "average":
        x = _layer_norm(patches, tensors, "post_norm", spec.epsilon).mean(axis=1)
    else:
        x = _layer_norm(x, tensors, "post_norm", spec.epsilon)
        observe("post_norm", x)
    if tower.pooling == "attention":
        x = _attention_head(x, tensors, spec, observe)
    return x @ tensors("projection.weight").T if tower.projection else x


def _text(
    tower: TextTower, tensors: Tensors, tokens: NDArray[np.int64], observe: Observer
) -> Floats:
    length, spec = tokens.shape[1], tower.transformer
    x = tensors("token_embedding")[tokens] + tensors("positions")[:length]
    observe("all", x)
    hidden = None
    if tower.causal:
        hidden = np.triu(np.full((length, length), -np.inf, dtype=np.float32), k=1)
    x = _transformer(x, tensors, spec, hidden, observe)
    x = x[np.arange(len(tokens)), pooled_positions(tower, tokens)]
    observe("pooled", x)
    x = _layer_norm(x, tensors, "post_norm", spec.epsilon)
    observe("post_norm", x)
    if tower.projection == "none":
        return x
    x = x @ tensors("projection.weight").T
    return x + tensors("projection.bias") if tower.projection == "affine" else x


def pooled_positions(tower: TextTower, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which token's state becomes each text's embedding, int64 [batch]."""
    # argmax returns the first of equal values: the first end token, or the first highest id.
    positions: dict[str, NDArray[np.int64]] = {
        "end": (tokens == tower.end_id).argmax(axis=1),
        "highest": tokens.argmax(axis=1),
        "first": np.zeros(len(tokens), dtype=np.int64),
        "last": np.full(len(tokens), tokens.shape[1] - 1),
    }
    return positions[tower.pooling]


def _resnet(tower: ResNetTower, tensors: Tensors, pixels: Floats, observe: Observer) -> Floats:
    """Features, then attention of their mean to all of them (Radford et al. 2021, section 2.3)."""
    x = resnet_features(tower, tensors, pixels, observe)
    x = x.reshape(len(x), -1, tower.features)
    x = np.concatenate([x.mean(axis=1, keepdims=True), x], axis=1) + tensors("head.positions")
    observe("head.tokens", x)
    return _attention(x[:, :1], x, tensors, tower.heads, "head.attention", None, observe)[:, 0]


def _transformer(
    x: Floats, tensors: Tensors, spec: TransformerSpec, mask: Floats | None, observe: Observer
) -> Floats:
    for layer in range(spec.layers):
        block = f"blocks.{layer}"
        normed = _layer_norm(x, tensors, f"{block}.norm1", spec.epsilon)
        observe(f"{block}.norm1", normed)
        update = _attention(
            normed, normed, tensors, spec.heads, f"{block}.attention", mask, observe
        )
        x = x + (update * tensors(f"{block}.scale1") if spec.layer_scale else update)
        observe(f"{block}.add1", x)
        normed = _layer_norm(x, tensors, f"{block}.norm2", spec.epsilon)
        observe(f"{block}.norm2", normed)
        update = _mlp(normed, tensors, spec, f"{block}.mlp", observe)
        x = x + (update * tensors(f"{block}.scale2") if spec.layer_scale else update)
        observe(f"{block}.add2", x)
    return x


def _attention_head(
    x: Floats, tensors: Tensors, spec: TransformerSpec, observe: Observer
) -> Floats:
    """A learned query reads all states, then an MLP (Zhai et al. 2023)."""
    probe = np.broadcast_to(tensors("head.probe"), (len(x), 1, spec.width))
    x = _attention(probe, x, tensors, spec.heads, "head.attention", None, observe)
    normed = _layer_norm(x, tensors, "head.norm", spec.epsilon)
    x = (x + _mlp(normed, tensors, spec, "head.mlp", observe))[:, 0]
    observe("head", x)
    return x


def _attention(
    queries: Floats,
    states: Floats,
    tensors: Tensors,
    count: int,
    name: str,
    mask: Floats | None,
    observe: Observer,
) -> Floats:
    batch, _, width = states.shape

    def heads(role: str, x: Floats) -> Floats:
        projected = _linear(x, tensors, f"{name}.{role}")
        observe(f"{name}.{role}", projected)
        return projected.reshape(batch, -1, count, width // count).transpose(0, 2, 1, 3)

    query, key, value = heads("query", queries), heads("key", states), heads("value", states)
    scores = query @ key.transpose(0, 1, 3, 2) * np.float32((width // count) ** -0.5)
    observe(f"{name}.scores", scores)
    if mask is not None:
        scores = scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    joined = (weights @ value).transpose(0, 2, 1, 3).reshape(batch, -1, width)
    observe(f"{name}.heads", joined)
    out = _linear(joined, tensors, f"{name}.out")
    observe(f"{name}.out", out)
    return out


def _mlp(
    x: Floats, tensors: Tensors, spec: TransformerSpec, name: str, observe: Observer
) -> Floats:
    up = _linear(x, tensors, f"{name}.up")
    observe(f"{name}.up", up)
    hidden = _activation(up, spec.activation)
    observe(f"{name}.hidden", hidden)
    down = _linear(hidden, tensors, f"{name}.down")
    observe(f"{name}.down", down)
    return down


def _activation(x: Floats, kind: Activation) -> Floats:
    if kind == "quick_gelu":
        # exp overflows to inf for very negative x, and x / inf is the right limit, 0.
        with np.errstate(over="ignore"):
            return np.asarray(x / (1 + np.exp(np.float32(-1.702) * x)))
    if kind == "gelu_tanh":
        inner = np.float32(sqrt(2 / pi)) * (x + np.float32(0.044715) * x * x * x)
        return np.asarray(x * (1 + np.tanh(inner)) / 2)
    return np.asarray(x * (1 + _erf(x / np.float32(sqrt(2)))) / 2)


def _erf(x: Floats) -> Floats:
    place = np.minimum(np.abs(x).astype(np.float64), 6.0) / _STEP
    left = np.minimum(place.astype(np.int64), len(_NODES) - 2)
    t = place - left
    low, high = _ERF[left], _ERF[left + 1]
    rise, fall = _SLOPE[left] * _STEP, _SLOPE[left + 1] * _STEP
    bend = rise + fall - 2 * (high - low)
    curve = low + t * (rise + t * (high - low - rise - bend + t * bend))
    return np.asarray(np.copysign(curve, x), dtype=np.float32)


def _layer_norm(x: Floats, tensors: Tensors, name: str, epsilon: float) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(variance + np.float32(epsilon))
    return np.asarray(normed * tensors(f"{name}.weight") + tensors(f"{name}.bias"))


def _linear(x: Floats, tensors: Tensors, name: str) -> Floats:
    weight = tensors(f"{name}.weight")
    # One product of all states: NumPy would take one for each item, which is a third slower.
    product = x.reshape(-1, x.shape[-1]) @ weight.T
    product += tensors(f"{name}.bias")
    return product.reshape(*x.shape[:-1], len(weight))
