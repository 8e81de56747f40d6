"""The pieces towers are made of, as graph nodes.

Names of values are those of ``_reference`` where both compute the same thing, so that the two can
be compared step by step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt_export._graph import Graph, Value
from cliprt_export._precision import Precision, Range
from cliprt_export._specs import Activation, Tensors, TransformerSpec

DType = type[np.generic]

# Numbers of float32 in a cache line.
_STRIP = 16


class Layers:
    """Adds pieces to a graph, in the types that a precision asks for."""

    def __init__(self, graph: Graph, tensors: Tensors, precision: Precision) -> None:
        """Takes what all pieces share.

        Args:
            graph: where the nodes go.
            tensors: the tower's weights, by the names of ``tower_tensors``.
            precision: decides every type.
        """
        self.graph = graph
        self.tensors = tensors
        self.precision = precision
        self._rounded: dict[Value, Value] = {}

    def weight(self, name: str, array: NDArray[Any], dtype: DType) -> Value:
        """A weight in the given type."""
        return self.graph.weight(name, _laid_out(array, dtype))

    def cast(self, x: Value, have: DType, want: DType, name: str) -> Value:
        """Changes the type, if it is another one."""
        if have is want:
            return x
        target = self.graph.element_type(np.dtype(want).name)
        return self.graph.op("Cast", x, name=f"{name}.{np.dtype(want).name}", to=target)

    def norm(self, x: Value, have: DType, want: DType, name: str, epsilon: float) -> Value:
        """LayerNorm over the last axis (Ba et al. 2016), computed in float32."""
        x = self.cast(x, have, np.float32, f"{name}.in")
        scale = self.weight(f"{name}.weight", self.tensors(f"{name}.weight"), np.float32)
        bias = self.weight(f"{name}.bias", self.tensors(f"{name}.bias"), np.float32)
        x = self.graph.op("LayerNormalization", x, scale, bias, name=name, axis=-1, epsilon=epsilon)
        return self.cast(x, np.float32, want, name)

    def linear(
        self,
        x: Value,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        name: str,
        dtype: DType,
        quantised: str = "",
    ) -> Value:
        """X W^T + b.

        Args:
            x: states [..., in], of the given type.
            weight: [out, in]; stored as [in, out].
            bias: [out], or None.
            name: of the result.
            dtype: of states, weight and result.
            quantised: name of the input under which its range was measured; the product is taken of
                8-bit integers if there is one.
        """
        product = name if bias is None else f"{name}.product"
        scope = self.precision.ranges.get(quantised)
        if scope is None:
            stored = self.weight(f"{name}.weight", weight.T, dtype)
        else:
            # Once, however many products take it.
            if x not in self._rounded:
                self._rounded[x] = self.quantised(x, scope, f"{name}.in", dtype)
            x = self._rounded[x]
            stored = self.quantised_weight(weight.T, 1, name, dtype)
        x = self.graph.op("MatMul", x, stored, name=product)
        if bias is None:
            return x
        return self.graph.op("Add", x, self.weight(f"{name}.bias", bias, dtype), name=name)

    def named_linear(self, x: Value, name: str, dtype: DType, quantised: str = "") -> Value:
        """A linear layer with the weights of that name."""
        weight, bias = self.tensors(f"{name}.weight"), self.tensors(f"{name}.bias")
        return self.linear(x, weight, bias, name, dtype, quantised)

    def quantised(self, x: Value, scope: Range, name: str, dtype: DType) -> Value:
        """X rounded to 8 bits and back: QuantizeLinear and DequantizeLinear.

        For TensorRT int8 or fp8 with zero point 0; for ONNX Runtime on x86 uint8, which its kernels
        want.
        """
        factor, offset = self._steps(scope, name, dtype)
        x = self.graph.op("QuantizeLinear", x, factor, offset, name=f"{name}.quantize")
        return self.graph.op("DequantizeLinear", x, factor, offset, name=f"{name}.dequantize")

    def dequantised(self, x: Value, scope: Range, name: str, dtype: DType) -> Value:
        """What 8-bit values stand for: DequantizeLinear alone."""
        factor, offset = self._steps(scope, name, dtype)
        return self.graph.op("DequantizeLinear", x, factor, offset, name=f"{name}.dequantize")

    def _steps(self, scope: Range, name: str, dtype: DType) -> tuple[Value, Value]:
        """Scale and zero point of a range."""
        if self.precision.name == "int8-cpu":
            scale, point = scope.asymmetric()
            zero = np.array(point, dtype=np.uint8)
        else:
            zero = np.zeros((), dtype=self.precision.stored)
            scale = scope.magnitude / self.precision.levels
        factor = self.weight(f"{name}.scale", np.array(scale), dtype)
        return factor, self.graph.weight(f"{name}.zero_point", zero)

    def quantised_weight(
        self, weight: NDArray[np.float32], axis: int, name: str, dtype: DType
    ) -> Value:
        """A weight in 8 bits with a scale per output channel, which lies along the axis."""
        steps, scale = self._weight_steps(weight, axis, dtype)
        stored = self.precision.stored
        return self.graph.op(
            "DequantizeLinear",
            self.weight(f"{name}.weight", steps, stored),
            self.weight(f"{name}.weight.scale", scale, dtype),
            self.graph.weight(f"{name}.weight.zero_point", np.zeros(scale.shape, stored)),
            name=f"{name}.weight.dequantize",
            axis=axis,
        )

    def twice_quantised(self, x: Value, weight: NDArray[np.float32], name: str) -> Value:
        """X times a weight of 16 bits: its upper and its lower half, 8 bits each.

        Two products of integers lose nothing worth mentioning, and take a fraction of the time of
        one in float32.

        Args:
            x: dequantised bytes [..., in].
            weight: [in, out].
            name: of the weight.
        """
        steps, scale = self._weight_steps(weight, 1, np.float32)
        rest = np.asarray(weight - steps * scale.astype(np.float32), dtype=np.float32)
        upper = self.quantised_weight(weight, 1, name, np.float32)
        lower = self.quantised_weight(rest, 1, f"{name}.rest", np.float32)
        products = [
            self.graph.op("MatMul", x, half, name=f"{name}.{part}")
            for part, half in (("upper", upper), ("lower", lower))
        ]
        return self.graph.op("Add", *products, name=f"{name}.product")

    def _weight_steps(
        self, weight: NDArray[np.float32], axis: int, dtype: DType
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """A weight in units of its channels' scales, rounded, and these scales."""
        others = tuple(other for other in range(weight.ndim) if other != axis)
        scale = np.maximum(np.abs(weight).max(axis=others), np.float32(1e-9))
        scale = scale / self.precision.levels
        # Rounded to the stored type first, so that what is stored and what is multiplied agree; and
        # not to 0, as a channel of all but nothing would be.
        tiny = np.finfo(np.float16 if dtype is np.float16 else np.float32).smallest_subnormal
        scale = np.maximum(scale.astype(dtype), tiny)
        shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
        return self.precision.rounded(weight / scale.astype(np.float32).reshape(shape)), scale

    def activation(self, x: Value, kind: Activation, name: str, dtype: DType) -> Value:
        """An MLP's nonlinearity."""
        if kind == "quick_gelu":
            factor = self.graph.constant(1.702, dtype)
            gate = self.graph.op("Mul", x, factor, name=f"{name}.scaled")
            gate = self.graph.op("Sigmoid", gate, name=f"{name}.gate")
            return self.graph.op("Mul", x, gate, name=name)
        approximate = "tanh" if kind == "gelu_tanh" else "none"
        return self.graph.op("Gelu", x, name=name, approximate=approximate)

    def transformer(
        self,
        x: Value,
        spec: TransformerSpec,
        *,
        pooled: Value | None,
        mask: Value | None = None,
        pooled_mask: Value | None = None,
    ) -> Value:
        """All blocks; where one token is pooled, the last block computes only that one.

        After the last block only its state is read, so there the queries, the projection and the
        MLP of all others would be thrown away. Keys and values are still those of all tokens.

        Args:
            x: states [batch, length, width] in the type of the residual stream.
            spec: sizes.
            pooled: int64 [batch, 1] or [1, 1], the position of the pooled token; None if all
                tokens' states are wanted.
            mask: [length, length] in the type of the precision's products, added to the attention
                scores; None if all tokens see all.
            pooled_mask: [batch, 1, 1, length], the mask's row of the pooled token.

        Returns:
            The pooled token's state [batch, width], or all states, as float32.
        """
        residual = self.precision.residual
        for layer in range(spec.layers):
            name = f"blocks.{layer}"
            if pooled is not None and layer == spec.layers - 1:
                x = self._attention(x, spec, name, pooled, pooled_mask)
            else:
                x = self._attention(x, spec, name, None, mask)
            x = self._mlp(x, spec, name)
        if pooled is not None:
            x = self.graph.op("Squeeze", x, self.graph.constant([1]), name="pooled")
        return self.cast(x, residual, np.float32, "blocks.out")

    def heads(self, x: Value, width: int, count: int, name: str, *, key: bool = False) -> Value:
        """[batch, length, width] -> [batch, heads, length, head width]; keys come transposed."""
        shape = self.graph.constant([0, 0, count, width // count])
        x = self.graph.op("Reshape", x, shape, name=f"{name}.split")
        # Keys are transposed for the product with the queries.
        return self.graph.op("Transpose", x, name=name, perm=[0, 2, 3, 1] if key else [0, 2, 1, 3])

    def attend(
        self, query: Value, key: Value, value: Value, width: int, name: str, mask: Value | None
    ) -> Value:
        """Scaled dot-product attention (Vaswani et al. 2017); the scale is in the queries."""
        scores = self.graph.op("MatMul", query, key, name=f"{name}.scores")
        if mask is not None:
            scores = self.graph.op("Add", scores, mask, name=f"{name}.masked")
        weights = self.graph.op("Softmax", scores, name=f"{name}.softmax", axis=-1)
        heads = self.graph.op("MatMul", weights, value, name=f"{name}.attended")
        joined = self.graph.op("Transpose", heads, name=f"{name}.joined", perm=[0, 2, 1, 3])
        shape = self.graph.constant([0, 0, width])
        return self.graph.op("Reshape", joined, shape, name=f"{name}.heads")

    def take(self, x: Value, positions: Value, name: str) -> Value:
        """States at one position per item: [batch, length, width] -> [batch, 1, width]."""
        graph = self.graph
        width = graph.op("Shape", x, name=f"{name}.width", start=2, end=3)
        index = graph.op("Unsqueeze", positions, graph.constant([2]), name=f"{name}.index")
        batch = graph.op("Shape", x, name=f"{name}.batch", start=0, end=1)
        shape = graph.op("Concat", batch, graph.constant([1]), width, name=f"{name}.shape", axis=0)
        index = graph.op("Expand", index, shape, name=f"{name}.expand")
        return graph.op("GatherElements", x, index, name=name, axis=1)

    def _attention(
        self,
        x: Value,
        spec: TransformerSpec,
        block: str,
        pooled: Value | None,
        mask: Value | None,
    ) -> Value:
        """X + attention(norm1(x)), of all tokens or of the pooled one."""
        name = f"{block}.attention"
        dtype, residual = self.precision.part(name), self.precision.residual
        normed = self.norm(x, residual, dtype, f"{block}.norm1", spec.epsilon)
        if pooled is None:
            roles: tuple[str, ...] = ("query", "key", "value")
            query, key, value = self._project(normed, spec, block, roles, dtype)
        else:
            key, value = self._project(normed, spec, block, ("key", "value"), dtype)
            normed = self.take(normed, pooled, f"{block}.norm1.pooled")
            (query,) = self._project(normed, spec, block, ("query",), dtype)
            x = self.take(x, pooled, f"{block}.pooled")
        if mask is not None:
            mask = self.cast(mask, self.precision.compute, dtype, f"{name}.mask")
        heads = self.attend(query, key, value, spec.width, name, mask)
        out = self.named_linear(heads, f"{name}.out", dtype, f"{name}.heads")
        return self._add(x, out, spec, f"{block}.scale1", f"{block}.add1", dtype)

    def _mlp(self, x: Value, spec: TransformerSpec, block: str) -> Value:
        """X + mlp(norm2(x))."""
        name = f"{block}.mlp"
        dtype, residual = self.precision.part(name), self.precision.residual
        normed = self.norm(x, residual, dtype, f"{block}.norm2", spec.epsilon)
        out = self.mlp(normed, spec, name, dtype, f"{block}.norm2")
        return self._add(x, out, spec, f"{block}.scale2", f"{block}.add2", dtype)

    def mlp(
        self, x: Value, spec: TransformerSpec, name: str, dtype: DType, quantised: str = ""
    ) -> Value:
        """down(activation(up(x)))."""
        up = self.named_linear(x, f"{name}.up", dtype, quantised)
        hidden = self.activation(up, spec.activation, f"{name}.hidden", dtype)
        return self.named_linear(hidden, f"{name}.down", dtype, f"{name}.hidden")

    def _add(
        self, x: Value, update: Value, spec: TransformerSpec, scale: str, name: str, dtype: DType
    ) -> Value:
        """The residual stream with a block's update, scaled per channel where the spec says so."""
        if spec.layer_scale:
            factor = self.weight(scale, self.tensors(scale), dtype)
            update = self.graph.op("Mul", update, factor, name=f"{scale}.scaled")
        update = self.cast(update, dtype, self.precision.residual, f"{name}.update")
        return self.graph.op("Add", x, update, name=name)

    def _project(
        self, x: Value, spec: TransformerSpec, block: str, roles: tuple[str, ...], dtype: DType
    ) -> list[Value]:
        """Queries, keys or values, as [batch, heads, length, head width]."""
        name = f"{block}.attention"
        if not self.precision.joins_projections:
            split = [self._joined(x, spec, block, (role,), dtype) for role in roles]
        elif len(roles) == 1:
            split = [self._joined(x, spec, block, roles, dtype)]
        else:
            joined = self._joined(x, spec, block, roles, dtype)
            split = self.graph.ops(
                "Split", len(roles), joined, name=f"{joined}.split", axis=-1, num_outputs=len(roles)
            )
        return [
            self.heads(part, spec.width, spec.heads, f"{name}.{role}", key=role == "key")
            for role, part in zip(roles, split, strict=True)
        ]

    def _joined(
        self, x: Value, spec: TransformerSpec, block: str, roles: tuple[str, ...], dtype: DType
    ) -> Value:
        """Queries, keys or values in one matrix product, [batch, length, roles x width]."""
        name = f"{block}.attention"
        parts = {"weight": [], "bias": []}  # type: dict[str, list[NDArray[np.float32]]]
        for role in roles:
            # The scores' scale goes into the queries: one multiplication less per score.
            scale = np.float32(spec.head_width**-0.5 if role == "query" else 1.0)
            for kind, collected in parts.items():
                collected.append(self.tensors(f"{name}.{role}.{kind}") * scale)
        weight, bias = (np.concatenate(parts[kind]) for kind in ("weight", "bias"))
        return self.linear(x, weight, bias, f"{name}.{'_'.join(roles)}", dtype, f"{block}.norm1")


def _laid_out(array: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """The array row by row in memory.

    A transposed one is copied in strips of one cache line: several times faster than NumPy, which
    reads or writes each line once per number.
    """
    if array.ndim != 2 or array.flags.c_contiguous:
        return np.ascontiguousarray(array, dtype=dtype)
    copy = np.empty(array.shape, dtype=dtype)
    for start in range(0, array.shape[1], _STRIP):
        copy[:, start : start + _STRIP] = array[:, start : start + _STRIP]
    return copy
