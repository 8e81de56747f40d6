"""How many multiplications and additions a tower takes for an item, counted in its graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliprt._errors import BundleError
from cliprt._extras import require

# Initialisers of more values hold weights; shapes that are computed need the small ones.
_SMALL = 1024

_INT8 = {"MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv"}
_PRODUCTS = {"MatMul", "MatMulInteger", "QLinearMatMul"}
_CONVOLUTIONS = {"Conv", "ConvInteger", "QLinearConv"}
# Where the second factor stands.
_WEIGHT = {"QLinearMatMul": 3, "QLinearConv": 3}
_UNKNOWN = {"Attention", "ConvTranspose", "Einsum", "GRU", "LSTM", "RNN"}
# What lies between a tensor that was quantised and its product, and changes no value.
_SHAPING = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class Operations:
    """Multiplications and additions of matrix products and convolutions, two for each pair.

    Attributes:
        floating: of factors that are floating-point numbers.
        int8: of factors that both have 8 bits.
    """

    floating: int
    int8: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.floating + self.int8


def count_operations(model: Path, *, length: int | None = None) -> Operations:
    """Counts what one item takes: one picture, or one text.

    Activations, norms and softmax are left out; in towers they are less than a hundredth.

    Args:
        model: an ONNX file; its external weights need not be there.
        length: tokens of the text, from 2 on (its beginning and its end); needed by a tower that
            takes any length.

    Raises:
        ValueError: the length is below 2.
        MissingExtra: onnx is not installed.
        BundleError: it is no ONNX file, or it has products whose sizes are not known.
    """
    if length is not None and length < 2:  # a size of 1 could be any that is broadcast
        raise ValueError(f"a text has 2 tokens at least, got {length}")
    onnx = require("onnx", extra="export")
    try:
        graph = onnx.load(str(model), load_external_data=False)
        shapes = _shapes(onnx, graph, length)
    except Exception as error:  # noqa: BLE001 - protobuf and onnx raise errors of many kinds
        raise BundleError(f"{model.name} is no graph whose sizes can be told: {error}") from None
    made_by = {name: node for node in graph.graph.node for name in node.output}
    floating = int8 = 0
    for node in graph.graph.node:
        if node.op_type in _UNKNOWN or any(each.HasField("g") for each in node.attribute):
            raise BundleError(f"{model.name}: operations of {node.op_type} {node.name} not known")
        pairs = _pairs(node, shapes, model.name)
        if node.op_type in _INT8 or _quantised(node, made_by.get):
            int8 += 2 * pairs
        else:
            floating += 2 * pairs
    return Operations(floating, int8)


def _shapes(onnx: Any, model: Any, length: int | None) -> dict[str, list[int | str]]:
    """Sizes of all tensors for one item; a name stands for one that is not known."""
    graph = model.graph
    weights = {each.name: list(each.dims) for each in graph.initializer}
    given = {each.name for each in graph.input} - set(weights)
    # Inference copies the model, and reads of the weights their shapes alone.
    for tensor in [each for each in graph.initializer if math.prod(each.dims) > _SMALL]:
        if tensor.name not in {each.name for each in graph.input}:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        graph.initializer.remove(tensor)
    for value in graph.input:
        if value.name in given:
            sizes = value.type.tensor_type.shape.dim
            for position, size in enumerate(sizes):
                if not size.HasField("dim_value"):
                    if position == 1 and length is None:
                        raise ValueError("the tower takes any length, and none was given")
                    size.dim_value = 1 if position == 0 else length
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found: dict[str, list[int | str]] = {
        value.name: [
            size.dim_value if size.HasField("dim_value") else size.dim_param or "?"
            for size in value.type.tensor_type.shape.dim
        ]
        for value in [*inferred.input, *inferred.value_info, *inferred.output]
        if value.type.tensor_type.HasField("shape")
    }
    return {**found, **weights}


def _pairs(node: Any, shapes: dict[str, list[int | str]], where: str) -> int:
    """Multiplications, each with its addition, of one node."""
    kind = node.op_type
    if kind not in _PRODUCTS | _CONVOLUTIONS | {"Gemm"}:
        return 0
    weight = shapes.get(node.input[_WEIGHT.get(kind, 1)], ["?"])
    first, out = shapes.get(node.input[0], ["?"]), shapes.get(node.output[0], ["?"])
    if kind in _CONVOLUTIONS:
        inner = weight[1:]
    elif kind == "Gemm" and any(each.name == "transA" and each.i for each in node.attribute):
        inner = first[:1]
    else:
        inner = first[-1:]
    sizes = [size for size in [*out, *inner] if isinstance(size, int)]
    if len(sizes) < len(out) + len(inner):
        raise BundleError(f"{where}: the sizes of {kind} {node.name or node.output[0]} not known")
    return math.prod(sizes)


def _quantised(node: Any, made_by: Callable[[str], Any]) -> bool:
    """Whether both factors of a product come from 8 bits."""
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return False
    for name in node.input[:2]:
        maker = made_by(name)
        while maker is not None and maker.op_type in _SHAPING:
            maker = made_by(maker.input[0])
        if maker is None or maker.op_type != "DequantizeLinear":
            return False
    return True
