"""The two towers as ONNX models, with the contract of every cliprt tower.

====== ============================================= ==========================================
tower  input                                         output
====== ============================================= ==========================================
image  ``pixels`` uint8 [batch, height, width, 3]    ``embedding`` float32 [batch, dim], norm 1
text   ``tokens`` int32 [batch, length]              ``embedding`` float32 [batch, dim], norm 1
====== ============================================= ==========================================

``length`` is dynamic for causal towers, 2 to the context, and the context for all others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliprt._names import EMBEDDING, PIXELS, TOKENS
from cliprt_export._graph import MAX_BYTES, Graph, Value
from cliprt_export._layers import Layers
from cliprt_export._precision import FP32, Precision, Range
from cliprt_export._resnet import resnet
from cliprt_export._specs import ResNetTower, Tensors, TextTower, Tower, VitTower

# Added to the scores of tokens that must not be seen. Its exponential is 0 in float32 and float16
# alike, and unlike -inf it survives a conversion to half precision.
_HIDDEN = -10000.0


def write_tower(
    path: Path,
    tower: Tower,
    tensors: Tensors,
    producer_version: str,
    precision: Precision = FP32,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Builds a tower and writes it as ONNX.

    Args:
        path: the file to write.
        tower: its sizes.
        tensors: its weights, by the names of ``tower_tensors``.
        producer_version: recorded in the file.
        precision: the types it computes in.
        max_bytes: beyond it the weights go into a file beside the graph.

    Raises:
        CheckpointError: a weight is missing or unusable.
    """
    graph = Graph("text" if isinstance(tower, TextTower) else "image")
    layers = Layers(graph, tensors, precision)
    if isinstance(tower, TextTower):
        x = _text(layers, tower)
    elif isinstance(tower, VitTower):
        x = _vit(layers, tower)
    else:
        x = resnet(layers, tower, _pixels(layers, tower))
    norm = graph.op("ReduceL2", x, graph.constant([1]), name="length", keepdims=1)
    x = graph.op("Div", x, norm, name="normalised")
    graph.output(x, EMBEDDING, "float32", ["batch", tower.dim])
    graph.write(path, producer_version, max_bytes)


def fold_normalisation(
    tower: VitTower, weight: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Folds ``(x * rescale - mean) / std`` into a convolution without padding.

    Exact up to rounding, because every output sees a whole patch. Computed in float64.

    Args:
        tower: holds rescale, mean and std.
        weight: float32 [out, 3, patch, patch].

    Returns:
        Weight (same shape) and bias [out] that take bytes 0..255.
    """
    mean, std = np.asarray(tower.mean), np.asarray(tower.std)
    wide = weight.astype(np.float64)
    scaled = wide * (tower.rescale / std)[None, :, None, None]
    bias = -(wide * (mean / std)[None, :, None, None]).sum(axis=(1, 2, 3))
    return scaled.astype(np.float32), bias.astype(np.float32)


def _vit(layers: Layers, tower: VitTower) -> Value:
    """Pixels to embedding, before the division by its length: float32 [batch, dim]."""
    graph, spec, residual = layers.graph, tower.transformer, layers.precision.residual
    x = _patches(layers, tower)
    positions = layers.tensors("positions")
    if tower.class_token:
        seen = layers.weight("positions", positions[1:], residual)
        x = graph.op("Add", x, seen, name="add_positions")
        classes = _class_tokens(layers, x, positions[0])
        x = graph.op("Concat", classes, x, name="all", axis=1)
    else:
        x = graph.op("Add", x, layers.weight("positions", positions, residual), name="all")
    if tower.pre_norm:
        x = layers.norm(x, residual, residual, "pre_norm", spec.epsilon)
    first = graph.constant([[0]]) if tower.pooling == "class" else None
    x = layers.transformer(x, spec, pooled=first)
    if tower.pooling == "average":
        x = _average(layers, tower, x)
    else:
        x = layers.norm(x, np.float32, np.float32, "post_norm", spec.epsilon)
    if tower.pooling == "attention":
        x = _attention_head(layers, tower, x)
    if tower.projection:
        x = layers.linear(x, layers.tensors("projection.weight"), None, "projection", np.float32)
    return x


def _text(layers: Layers, tower: TextTower) -> Value:
    """Tokens to embedding, before the division by its length: float32 [batch, dim]."""
    graph, spec, precision = layers.graph, tower.transformer, layers.precision
    fixed = tower.fixed_length
    tokens = _known_ids(
        layers, graph.input(TOKENS, "int32", ["batch", tower.context if fixed else "length"]), tower
    )
    pooled = _pooled_positions(layers, tokens, tower)
    table = layers.weight("token_embedding", layers.tensors("token_embedding"), precision.compute)
    x = graph.op("Gather", table, tokens, name="embedded", axis=0)
    x = layers.cast(x, precision.compute, precision.residual, "embedded")

    def used(table: Value, axis: int, name: str) -> Value:
        """As much of a table as the texts are long."""
        if fixed:
            return table
        length = graph.op("Shape", tokens, name=f"{name}.length", start=1, end=2)
        start, place = graph.constant([0]), graph.constant([axis])
        return graph.op("Slice", table, start, length, place, name=name)

    positions = layers.weight("positions", layers.tensors("positions"), precision.residual)
    x = graph.op("Add", x, used(positions, 0, "positions.used"), name="all")
    mask = pooled_mask = None
    if tower.causal:
        causal = np.triu(np.full((tower.context, tower.context), _HIDDEN), k=1)
        seen = used(layers.weight("mask", causal, precision.compute), 1, "mask.columns")
        mask = used(seen, 0, "mask.rows")
        row = graph.op("Gather", seen, pooled, name="mask.pooled", axis=0)
        pooled_mask = graph.op("Unsqueeze", row, graph.constant([1]), name="mask.pooled_heads")
    x = layers.transformer(x, spec, pooled=pooled, mask=mask, pooled_mask=pooled_mask)
    x = layers.norm(x, np.float32, np.float32, "post_norm", spec.epsilon)
    if tower.projection == "affine":
        return layers.named_linear(x, "projection", np.float32)
    if tower.projection == "linear":
        x = layers.linear(x, layers.tensors("projection.weight"), None, "projection", np.float32)
    return x


def _pixels(layers: Layers, tower: VitTower | ResNetTower, *, normalise: bool = True) -> Value:
    """Input to float32 [batch, 3, height, width], normalised or as bytes."""
    graph = layers.graph
    x = graph.input(PIXELS, "uint8", ["batch", tower.height, tower.width, 3])
    # TensorRT takes uint8 at the border of a network only: the cast must come first.
    x = layers.cast(x, np.uint8, np.float32, "pixels")
    if normalise:
        mean, std = np.asarray(tower.mean), np.asarray(tower.std)
        factor = layers.weight("pixels.factor", tower.rescale / std, np.float32)
        offset = layers.weight("pixels.offset", -mean / std, np.float32)
        x = graph.op("Mul", x, factor, name="pixels.scaled")
        x = graph.op("Add", x, offset, name="pixels.normalised")
    return graph.op("Transpose", x, name="channels_first", perm=[0, 3, 1, 2])


def _patches(layers: Layers, tower: VitTower) -> Value:
    """One state per patch, [batch, patches, width] in the type of the residual stream."""
    graph, precision = layers.graph, layers.precision
    if PIXELS in precision.ranges:
        return _patches_of_bytes(layers, tower, precision.ranges[PIXELS])
    weight, dtype = layers.tensors("patch.weight"), precision.compute
    x = _pixels(layers, tower, normalise=precision.half)
    if precision.half:
        bias = np.zeros(len(weight), dtype=np.float32)
        x = layers.cast(x, np.float32, dtype, "channels_first")
    else:
        weight, bias = fold_normalisation(tower, weight)
    if tower.patch_bias:
        bias = bias + layers.tensors("patch.bias")
    x = graph.op(
        "Conv",
        x,
        layers.weight("patch.weight", weight, dtype),
        layers.weight("patch.bias", bias, dtype),
        name="patch.convolution",
        kernel_shape=[tower.patch, tower.patch],
        strides=[tower.patch, tower.patch],
    )
    shape = graph.constant([0, tower.transformer.width, tower.patches])
    x = graph.op("Reshape", x, shape, name="patch.flat")
    x = graph.op("Transpose", x, name="patch", perm=[0, 2, 1])
    return layers.cast(x, dtype, precision.residual, "patch")


def _patches_of_bytes(layers: Layers, tower: VitTower, scope: Range) -> Value:
    """The same by products of integers: a convolution of patches is a matrix product."""
    graph, side = layers.graph, tower.patch
    rows, columns = tower.height // side, tower.width // side
    weight, bias = fold_normalisation(tower, layers.tensors("patch.weight"))
    # What is taken off the bytes to centre them comes back here, by the weights as they were.
    _, middle = scope.asymmetric()
    wide = bias.astype(np.float64) + middle * weight.astype(np.float64).sum(axis=(1, 2, 3))
    if tower.patch_bias:
        wide = wide + layers.tensors("patch.bias")
    x = graph.input(PIXELS, "uint8", ["batch", tower.height, tower.width, 3])
    split = graph.constant([0, rows, side, columns, side * 3])
    x = graph.op("Reshape", x, split, name="patch.rows")
    x = graph.op("Transpose", x, name="patch.gathered", perm=[0, 1, 3, 2, 4])
    flat = graph.constant([0, rows * columns, side * side * 3])
    x = graph.op("Reshape", x, flat, name="patch.bytes")
    x = layers.dequantised(x, scope, "patch.in", np.float32)
    # Rows, columns, channels, as the bytes of a patch lie in memory.
    stored = weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))
    x = layers.twice_quantised(x, np.ascontiguousarray(stored), "patch")
    return graph.op("Add", x, layers.weight("patch.bias", wide, np.float32), name="patch")


def _class_tokens(layers: Layers, x: Value, position: NDArray[np.float32]) -> Value:
    """The class token with its position, once per item of the batch: [batch, 1, width]."""
    graph = layers.graph
    token = layers.tensors("class_token") + position
    batch = graph.op("Shape", x, name="batch", start=0, end=1)
    shape = graph.op("Concat", batch, graph.constant([1, token.size]), name="class.shape", axis=0)
    stored = layers.weight("class_token", token, layers.precision.residual)
    return graph.op("Expand", stored, shape, name="class_tokens")


def _average(layers: Layers, tower: VitTower, x: Value) -> Value:
    """The mean over patches, normalised before or after: [batch, width]."""
    graph, epsilon = layers.graph, tower.transformer.epsilon
    if tower.class_token:
        start, end = graph.constant([1]), graph.constant([tower.tokens])
        x = graph.op("Slice", x, start, end, graph.constant([1]), name="patches")
    if not tower.norm_after_pooling:
        x = layers.norm(x, np.float32, np.float32, "post_norm", epsilon)
    x = graph.op("ReduceMean", x, graph.constant([1]), name="average", keepdims=0)
    if tower.norm_after_pooling:
        x = layers.norm(x, np.float32, np.float32, "post_norm", epsilon)
    return x


def _attention_head(layers: Layers, tower: VitTower, x: Value) -> Value:
    """What a learned query reads from all states, [batch, width] (Zhai et al. 2023, SigLIP).

    The same query meets every picture, so that its projection is computed here once and for all.
    """
    graph, spec, tensors = layers.graph, tower.transformer, layers.tensors
    dtype, name = layers.precision.part("head"), "head.attention"
    x = layers.cast(x, np.float32, dtype, "post_norm")
    key = layers.named_linear(x, f"{name}.key", dtype)
    key = layers.heads(key, spec.width, spec.heads, f"{name}.k", key=True)
    value = layers.named_linear(x, f"{name}.value", dtype)
    value = layers.heads(value, spec.width, spec.heads, f"{name}.v")
    query = tensors("head.probe") @ tensors(f"{name}.query.weight").T
    query = (query + tensors(f"{name}.query.bias")) * np.float32(spec.head_width**-0.5)
    asked = query.reshape(1, spec.heads, 1, spec.head_width)
    heads = layers.attend(
        layers.weight(f"{name}.query", asked, dtype), key, value, spec.width, name, None
    )
    out = layers.named_linear(heads, f"{name}.out", dtype)
    normed = layers.norm(out, dtype, dtype, "head.norm", spec.epsilon)
    x = graph.op("Add", out, layers.mlp(normed, spec, "head.mlp", dtype), name="head.add")
    x = graph.op("Squeeze", x, graph.constant([1]), name="head")
    return layers.cast(x, dtype, np.float32, "head")


def _known_ids(layers: Layers, tokens: Value, tower: TextTower) -> Value:
    """Ids outside the vocabulary as the nearest inside, [batch, length].

    Servers that hand tensors straight to the graph check no ids. Without this one such id fails the
    whole batch in ONNX Runtime, and what TensorRT does with it is not defined.
    """
    graph = layers.graph
    least, most = (graph.constant(bound, np.int32) for bound in (0, tower.vocabulary - 1))
    tokens = graph.op("Max", tokens, least, name="tokens.least")
    return graph.op("Min", tokens, most, name="tokens.known")


def _pooled_positions(layers: Layers, tokens: Value, tower: TextTower) -> Value:
    """Position of the token that is pooled, int64 [batch, 1] or [1, 1].

    The wanted token is the first of several equal ones, and engines differ in which of equal values
    ArgMax returns. So every position gets a key of its own: greater for wanted ids, and among these
    greater for earlier positions. Without an end token position 0 is pooled, as by the reference.
    """
    graph = layers.graph
    if tower.pooling == "first":
        return graph.constant([[0]])
    if tower.pooling == "last":
        return graph.constant([[tower.context - 1]])
    if tower.pooling == "highest":
        wanted = tokens
    else:
        end = graph.constant(tower.end_id, np.int32)
        wanted = graph.op("Equal", tokens, end, name="end.equal")
        wanted = layers.cast(wanted, np.bool_, np.int32, "end.equal")
    scaled = graph.op("Mul", wanted, graph.constant(tower.context, np.int32), name="end.scaled")
    countdown = graph.weight("end.countdown", np.arange(tower.context, 0, -1, dtype=np.int32))
    length = graph.op("Shape", tokens, name="end.length", start=1, end=2)
    first = graph.constant([0])
    countdown = graph.op("Slice", countdown, first, length, first, name="end.countdown.used")
    key = graph.op("Add", scaled, countdown, name="end.key")
    return graph.op("ArgMax", key, name="end", axis=1, keepdims=1)
