"""The pieces towers are made of, as graph nodes. States are float32 [batch, length, width]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cliprt_export._graph import Graph, Value
from cliprt_export._specs import Tensors, TransformerSpec


def layer_norm(graph: Graph, x: Value, tensors: Tensors, name: str, epsilon: float) -> Value:
    """LayerNorm over the last axis (Ba et al. 2016)."""
    with graph.scope(name):
        scale = graph.weight("weight", tensors(f"{name}.weight"))
        bias = graph.weight("bias", tensors(f"{name}.bias"))
        return graph.op("LayerNormalization", x, scale, bias, name="norm", axis=-1, epsilon=epsilon)


def linear(
    graph: Graph,
    x: Value,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    name: str,
) -> Value:
    """X W^T + b, with the weight given as [out, in] and stored as [in, out]."""
    with graph.scope(name):
        x = graph.op("MatMul", x, graph.weight("weight", np.ascontiguousarray(weight.T)), name="mm")
        if bias is None:
            return x
        return graph.op("Add", x, graph.weight("bias", bias), name="add")


def transformer(
    graph: Graph,
    x: Value,
    tensors: Tensors,
    spec: TransformerSpec,
    *,
    pooled: Value,
    mask: Value | None,
    pooled_mask: Value | None,
) -> Value:
    """All blocks; the last one computes only the token that is pooled.

    Only one token's state is read after the last block, so there the queries, the projection and
    the MLP of all others would be thrown away. Keys and values are still those of all tokens.

    Args:
        graph: where the nodes go.
        x: states [batch, length, width].
        tensors: the tower's tensors.
        spec: its sizes.
        pooled: int64 [batch, 1] or [1, 1], the position of the pooled token.
        mask: float [length, length], added to the attention scores, or None.
        pooled_mask: float [batch, 1, 1, length], the mask's row of the pooled token, or None.

    Returns:
        The pooled token's state, [batch, width].
    """
    for layer in range(spec.layers - 1):
        x = _block(graph, x, tensors, spec, f"blocks.{layer}", mask)
    return _pooled_block(graph, x, tensors, spec, pooled, pooled_mask)


def _block(
    graph: Graph,
    x: Value,
    tensors: Tensors,
    spec: TransformerSpec,
    name: str,
    mask: Value | None,
) -> Value:
    normed = layer_norm(graph, x, tensors, f"{name}.norm1", spec.epsilon)
    query, key, value = _project(graph, normed, tensors, spec, name, ("query", "key", "value"))
    attended = _attend(graph, query, key, value, tensors, spec, name, mask)
    x = graph.op("Add", x, attended, name=f"{name}.add1")
    return _mlp(graph, x, tensors, spec, name)


def _pooled_block(
    graph: Graph,
    x: Value,
    tensors: Tensors,
    spec: TransformerSpec,
    pooled: Value,
    mask: Value | None,
) -> Value:
    name = f"blocks.{spec.layers - 1}"
    normed = layer_norm(graph, x, tensors, f"{name}.norm1", spec.epsilon)
    key, value = _project(graph, normed, tensors, spec, name, ("key", "value"))
    (query,) = _project(graph, take(graph, normed, pooled), tensors, spec, name, ("query",))
    attended = _attend(graph, query, key, value, tensors, spec, name, mask)
    residual = graph.op("Add", take(graph, x, pooled), attended, name=f"{name}.add1")
    state = _mlp(graph, residual, tensors, spec, name)
    return graph.op("Squeeze", state, graph.constant([1]), name="pooled")


def take(graph: Graph, x: Value, positions: Value) -> Value:
    """States at one position per item: [batch, length, width] -> [batch, 1, width]."""
    width = graph.op("Shape", x, name="take_width", start=2, end=3)
    index = graph.op("Unsqueeze", positions, graph.constant([2]), name="take_index")
    batch = graph.op("Shape", x, name="take_batch", start=0, end=1)
    shape = graph.op("Concat", batch, graph.constant([1]), width, name="take_shape", axis=0)
    index = graph.op("Expand", index, shape, name="take_expand")
    return graph.op("GatherElements", x, index, name="take", axis=1)


def _project(
    graph: Graph,
    x: Value,
    tensors: Tensors,
    spec: TransformerSpec,
    block: str,
    roles: tuple[str, ...],
) -> list[Value]:
    """Queries, keys or values in one matrix product, as [batch, heads, length, head width]."""
    scales = [spec.head_width**-0.5 if role == "query" else 1.0 for role in roles]
    # The scores' scale goes into the queries' weights: one multiplication less per score.
    weight = np.concatenate(
        [
            tensors(f"{block}.attention.{role}.weight") * np.float32(scale)
            for role, scale in zip(roles, scales, strict=True)
        ]
    )
    bias = np.concatenate(
        [
            tensors(f"{block}.attention.{role}.bias") * np.float32(scale)
            for role, scale in zip(roles, scales, strict=True)
        ]
    )
    joined = linear(graph, x, weight, bias, f"{block}.attention.{'_'.join(roles)}")
    with graph.scope(f"{block}.attention"):
        parts = [joined]
        if (count := len(roles)) > 1:
            parts = graph.ops("Split", count, joined, name="split", axis=-1, num_outputs=count)
        shape = graph.constant([0, 0, spec.heads, spec.head_width])
        return [
            graph.op(
                "Transpose",
                graph.op("Reshape", part, shape, name=f"{role}_heads"),
                name=f"{role}_transpose",
                # Keys come transposed for the product with the queries.
                perm=[0, 2, 3, 1] if role == "key" else [0, 2, 1, 3],
            )
            for role, part in zip(roles, parts, strict=True)
        ]


def _attend(
    graph: Graph,
    query: Value,
    key: Value,
    value: Value,
    tensors: Tensors,
    spec: TransformerSpec,
    block: str,
    mask: Value | None,
) -> Value:
    """Scaled dot-product attention (Vaswani et al. 2017) and its output projection."""
    with graph.scope(f"{block}.attention"):
        scores = graph.op("MatMul", query, key, name="scores")
        if mask is not None:
            scores = graph.op("Add", scores, mask, name="masked")
        weights = graph.op("Softmax", scores, name="softmax", axis=-1)
        heads = graph.op("MatMul", weights, value, name="heads")
        joined = graph.op("Transpose", heads, name="heads_transpose", perm=[0, 2, 1, 3])
        joined = graph.op("Reshape", joined, graph.constant([0, 0, spec.width]), name="heads_join")
    out = f"{block}.attention.out"
    return linear(graph, joined, tensors(f"{out}.weight"), tensors(f"{out}.bias"), out)


def _mlp(graph: Graph, x: Value, tensors: Tensors, spec: TransformerSpec, block: str) -> Value:
    """X + down(activation(up(norm(x))))."""
    up, down = f"{block}.mlp.up", f"{block}.mlp.down"
    hidden = layer_norm(graph, x, tensors, f"{block}.norm2", spec.epsilon)
    hidden = linear(graph, hidden, tensors(f"{up}.weight"), tensors(f"{up}.bias"), up)
    with graph.scope(f"{block}.mlp"):
        if spec.activation == "quick_gelu":
            scaled = graph.op("Mul", hidden, graph.constant(1.702, np.float32), name="scale")
            gate = graph.op("Sigmoid", scaled, name="sigmoid")
            hidden = graph.op("Mul", hidden, gate, name="quick_gelu")
        else:
            hidden = graph.op("Gelu", hidden, name="gelu", approximate="none")
    hidden = linear(graph, hidden, tensors(f"{down}.weight"), tensors(f"{down}.bias"), down)
    return graph.op("Add", x, hidden, name=f"{block}.add2")
