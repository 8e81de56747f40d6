"""CLIP's modified ResNet as graph nodes (Radford et al. 2021, sections 2.3 and 2.4)."""

from __future__ import annotations

import numpy as np

from cliprt_export._graph import Value
from cliprt_export._layers import DType, Layers
from cliprt_export._specs import ResNetTower


def resnet(layers: Layers, tower: ResNetTower, pixels: Value) -> Value:
    """Normalised pixels to embedding, before the division by its length.

    Normalisation is never folded into the first convolution: its zero padding stands for the mean
    colour, which folded weights would take for black.

    Args:
        layers: where the nodes go.
        tower: sizes.
        pixels: float32 [batch, 3, height, width], normalised.

    Returns:
        float32 [batch, dim].
    """
    dtype, stream = layers.precision.part("stem"), layers.precision.residual
    x = layers.cast(pixels, np.float32, dtype, "channels_first")
    x = _relu(layers, _convolution(layers, x, "stem.conv1", dtype, stride=2), "stem.conv1")
    x = _relu(layers, _convolution(layers, x, "stem.conv2", dtype), "stem.conv2")
    x = _relu(layers, _convolution(layers, x, "stem.conv3", dtype), "stem.conv3")
    x = layers.cast(_average_pool(layers, x, "stem"), dtype, stream, "stem")
    for stage, blocks in enumerate(tower.blocks):
        for block in range(blocks):
            x = _bottleneck(layers, x, stage, block, stream)
    return _attention_pool(layers, tower, layers.cast(x, stream, np.float32, "features"))


def _bottleneck(layers: Layers, x: Value, stage: int, block: int, stream: DType) -> Value:
    name = f"stages.{stage}.{block}"
    dtype = layers.precision.part(name)
    x = layers.cast(x, stream, dtype, f"{name}.in")
    halved = stage > 0 and block == 0
    inner = _relu(layers, _convolution(layers, x, f"{name}.conv1", dtype), f"{name}.conv1")
    inner = _relu(layers, _convolution(layers, inner, f"{name}.conv2", dtype), f"{name}.conv2")
    if halved:
        inner = _average_pool(layers, inner, f"{name}.conv2")
    inner = _convolution(layers, inner, f"{name}.conv3", dtype)
    if block == 0:
        x = _average_pool(layers, x, f"{name}.in") if halved else x
        x = _convolution(layers, x, f"{name}.shortcut", dtype)
    x = layers.graph.op("Add", x, inner, name=f"{name}.sum")
    x = layers.graph.op("Relu", x, name=f"{name}.out")
    return layers.cast(x, dtype, stream, f"{name}.out")


def _attention_pool(layers: Layers, tower: ResNetTower, x: Value) -> Value:
    """Attention of the mean to all features, one head's query each: [batch, dim], float32."""
    graph, tensors, name = layers.graph, layers.tensors, "head.attention"
    rows, columns = tower.grid
    width = tower.features
    x = graph.op("Reshape", x, graph.constant([0, width, rows * columns]), name="features.flat")
    x = graph.op("Transpose", x, name="features.tokens", perm=[0, 2, 1])
    mean = graph.op("ReduceMean", x, graph.constant([1]), name="features.mean", keepdims=1)
    x = graph.op("Concat", mean, x, name="features.all", axis=1)
    positions = layers.weight("head.positions", tensors("head.positions"), np.float32)
    x = graph.op("Add", x, positions, name="head.tokens")
    first = graph.op(
        "Slice", x, graph.constant([0]), graph.constant([1]), graph.constant([1]), name="head.first"
    )
    scale = np.float32((width // tower.heads) ** -0.5)
    weight, bias = (tensors(f"{name}.query.{kind}") * scale for kind in ("weight", "bias"))
    query = layers.linear(first, weight, bias, f"{name}.q", np.float32)
    query = layers.heads(query, width, tower.heads, f"{name}.query")
    key = layers.named_linear(x, f"{name}.key", np.float32)
    key = layers.heads(key, width, tower.heads, f"{name}.k", key=True)
    value = layers.named_linear(x, f"{name}.value", np.float32)
    value = layers.heads(value, width, tower.heads, f"{name}.v")
    heads = layers.attend(query, key, value, width, name, None)
    out = layers.named_linear(heads, f"{name}.out", np.float32)
    return graph.op("Squeeze", out, graph.constant([1]), name="projection")


def _convolution(layers: Layers, x: Value, name: str, dtype: DType, stride: int = 1) -> Value:
    """A convolution whose zero padding keeps the size at stride 1."""
    weight, bias = layers.tensors(f"{name}.weight"), layers.tensors(f"{name}.bias")
    scope = layers.precision.ranges.get(f"{name}.in")
    if scope is None:
        stored = layers.weight(f"{name}.weight", weight, dtype)
    else:
        x = layers.quantised(x, scope, f"{name}.in", dtype)
        stored = layers.quantised_weight(weight, 0, name, dtype)
    side = weight.shape[2]
    return layers.graph.op(
        "Conv",
        x,
        stored,
        layers.weight(f"{name}.bias", bias, dtype),
        name=name,
        kernel_shape=[side, side],
        pads=[side // 2] * 4,
        strides=[stride, stride],
    )


def _relu(layers: Layers, x: Value, name: str) -> Value:
    return layers.graph.op("Relu", x, name=f"{name}.relu")


def _average_pool(layers: Layers, x: Value, name: str) -> Value:
    return layers.graph.op(
        "AveragePool", x, name=f"{name}.halved", kernel_shape=[2, 2], strides=[2, 2]
    )
