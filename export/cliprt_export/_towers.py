"""The two towers as ONNX models, with the contract of every cliprt tower.

====== ============================================= ==========================================
tower  input                                         output
====== ============================================= ==========================================
image  ``pixels`` uint8 [batch, height, width, 3]    ``embedding`` float32 [batch, dim], norm 1
text   ``tokens`` int32 [batch, length]              ``embedding`` float32 [batch, dim], norm 1
====== ============================================= ==========================================
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliprt._names import EMBEDDING, PIXELS, TOKENS
from cliprt_export._graph import Graph, Value
from cliprt_export._layers import layer_norm, linear, transformer
from cliprt_export._specs import ImageTower, Tensors, TextTower

# Added to the scores of tokens that must not be seen. Its exponential is 0 in float32 and float16
# alike, and unlike -inf it survives a conversion to half precision.
_HIDDEN = -10000.0


def write_image_tower(
    path: Path, tower: ImageTower, tensors: Tensors, producer_version: str
) -> None:
    """Builds the image tower and writes it as ONNX.

    Args:
        path: the file to write.
        tower: its sizes and normalisation.
        tensors: its weights, by the names of ``image_tensors``.
        producer_version: recorded in the file.
    """
    graph = Graph("image")
    pixels = graph.input(PIXELS, "uint8", ["batch", tower.height, tower.width, 3])
    # TensorRT takes uint8 at the border of a network only: the cast must come first.
    x = graph.op("Cast", pixels, name="cast", to=graph.element_type("float32"))
    x = graph.op("Transpose", x, name="channels_first", perm=[0, 3, 1, 2])
    weight, bias = fold_normalisation(tower, tensors("patch.weight"))
    with graph.scope("patch"):
        x = graph.op(
            "Conv",
            x,
            graph.weight("weight", weight),
            graph.weight("bias", bias),
            name="conv",
            kernel_shape=[tower.patch, tower.patch],
            strides=[tower.patch, tower.patch],
        )
        patches = tower.tokens - 1
        shape = graph.constant([0, tower.transformer.width, patches])
        x = graph.op("Reshape", x, shape, name="flatten")
        x = graph.op("Transpose", x, name="tokens", perm=[0, 2, 1])
    positions = tensors("positions")
    x = graph.op("Add", x, graph.weight("positions", positions[1:]), name="add_positions")
    x = graph.op("Concat", _class_tokens(graph, x, tensors, positions[0]), x, name="all", axis=1)
    x = layer_norm(graph, x, tensors, "pre_norm", tower.transformer.epsilon)
    x = transformer(
        graph,
        x,
        tensors,
        tower.transformer,
        pooled=graph.constant([[0]]),
        mask=None,
        pooled_mask=None,
    )
    _finish(graph, x, tensors, tower.transformer.epsilon, tower.dim)
    graph.write(path, producer_version)


def write_text_tower(path: Path, tower: TextTower, tensors: Tensors, producer_version: str) -> None:
    """Builds the text tower and writes it as ONNX. Arguments as for write_image_tower."""
    graph = Graph("text")
    tokens = graph.input(TOKENS, "int32", ["batch", "length"])
    length = graph.op("Shape", tokens, name="length", start=1, end=2)
    pooled = _end_positions(graph, tokens, tower)
    table = graph.weight("token_embedding", tensors("token_embedding"))
    x = graph.op("Gather", table, tokens, name="embed", axis=0)
    start, axis = graph.constant([0]), graph.constant([0])
    positions = graph.weight("positions", tensors("positions"))
    positions = graph.op("Slice", positions, start, length, axis, name="positions_slice")
    x = graph.op("Add", x, positions, name="add_positions")
    causal = np.triu(np.full((tower.context, tower.context), _HIDDEN, dtype=np.float32), k=1)
    mask = graph.weight("causal_mask", causal)
    mask = graph.op("Slice", mask, start, length, graph.constant([1]), name="mask_columns")
    rows = graph.op("Gather", mask, pooled, name="pooled_mask", axis=0)
    x = transformer(
        graph,
        x,
        tensors,
        tower.transformer,
        pooled=pooled,
        mask=graph.op("Slice", mask, start, length, axis, name="mask_rows"),
        pooled_mask=graph.op("Unsqueeze", rows, graph.constant([1]), name="pooled_mask_heads"),
    )
    _finish(graph, x, tensors, tower.transformer.epsilon, tower.dim)
    graph.write(path, producer_version)


def fold_normalisation(
    tower: ImageTower, weight: NDArray[np.float32]
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


def _class_tokens(graph: Graph, x: Value, tensors: Tensors, position: NDArray[np.float32]) -> Value:
    """The class token with its position, once per item of the batch: [batch, 1, width]."""
    token = tensors("class_token") + position
    batch = graph.op("Shape", x, name="batch", start=0, end=1)
    shape = graph.op("Concat", batch, graph.constant([1, token.size]), name="class_shape", axis=0)
    return graph.op("Expand", graph.weight("class_token", token), shape, name="class_expand")


def _end_positions(graph: Graph, tokens: Value, tower: TextTower) -> Value:
    """Position of the token that is pooled, int64 [batch, 1].

    The wanted token is the first of several equal ones, and engines differ in which of equal values
    ArgMax returns. So every position gets a key of its own: greater for wanted ids, and among these
    greater for earlier positions. Without an end token position 0 is pooled, as by the reference.
    """
    with graph.scope("end"):
        if tower.pooling == "highest":
            wanted = tokens
        else:
            end = graph.constant(tower.end_id, np.int32)
            wanted = graph.op("Equal", tokens, end, name="equal")
            wanted = graph.op("Cast", wanted, name="cast", to=graph.element_type("int32"))
        scaled = graph.op("Mul", wanted, graph.constant(tower.context, np.int32), name="scale")
        countdown = graph.weight("countdown", np.arange(tower.context, 0, -1, dtype=np.int32))
        length = graph.op("Shape", tokens, name="length", start=1, end=2)
        first = graph.constant([0])
        countdown = graph.op("Slice", countdown, first, length, first, name="countdown_slice")
        key = graph.op("Add", scaled, countdown, name="key")
        return graph.op("ArgMax", key, name="position", axis=1, keepdims=1)


def _finish(graph: Graph, x: Value, tensors: Tensors, epsilon: float, dim: int) -> None:
    """Final norm, projection and length 1, from the pooled state [batch, width]."""
    x = layer_norm(graph, x, tensors, "post_norm", epsilon)
    x = linear(graph, x, tensors("projection.weight"), None, "projection")
    norm = graph.op("ReduceL2", x, graph.constant([1]), name="norm", keepdims=1)
    x = graph.op("Div", x, norm, name="normalise")
    graph.output(x, EMBEDDING, "float32", ["batch", dim])
