"""Half precision on a processor that has none: every value rounded as an engine would.

ONNX Runtime's CPU kernels compute float16 graphs in float32 and round the weights alone, which
would make FP16 look better than it is. So a tower with halves is measured as a float32 graph in
which the result of every arithmetic node is rounded: to 11 bits, to multiples of 2^-24 below the
least normal half, to infinity beyond 65,504. Inside a node sums are float32, as in the matrix units
of GPUs. Engines that fuse nodes round less often: this is the careful side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cliprt._errors import BundleError
from cliprt._extras import require
from cliprt_engines import OnnxTower
from cliprt_export._precision import Precision, PrecisionName

# Nodes that only move values leave nothing to round. What DequantizeLinear gives is multiplied as
# integers by an engine; and its scales have been rounded as weights.
_MOVING = frozenset(
    {
        "Concat",
        "DequantizeLinear",
        "Expand",
        "Gather",
        "GatherElements",
        "Relu",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)


def tower_to_measure(
    model: Path, precision: PrecisionName, scratch: Path | None = None
) -> OnnxTower:
    """A tower that computes on this processor what an engine of that precision would.

    Args:
        model: the exported tower.
        precision: what it was exported as.
        scratch: where a graph that emulates halves is written for the while; None means the
            system's folder for temporary files.

    Raises:
        BundleError: ONNX Runtime cannot load the graph, or there is no room for the other.
    """
    with graph_to_measure(model, precision, scratch) as graph:
        return OnnxTower(graph, fuse_quantised=fuses_quantised(precision))


def fuses_quantised(precision: PrecisionName) -> bool:
    """Whether ONNX Runtime may join products with what quantises them.

    It has no kernels for products of float8 and fails when it tries to make some.
    """
    return precision != "fp8"


@contextmanager
def graph_to_measure(
    model: Path, precision: PrecisionName, scratch: Path | None = None
) -> Iterator[Path]:
    """The graph to run for a tower: its own file, or one for the while that emulates its halves.

    Args:
        model: the exported tower.
        precision: what it was exported as.
        scratch: as for tower_to_measure.

    Raises:
        BundleError: there is no room for that graph.
    """
    if not Precision(precision).half:
        yield model
        return
    with tempfile.TemporaryDirectory(prefix=".emulated-", dir=scratch) as folder:
        try:
            graph = _emulating(model, Path(folder))
        except OSError as error:
            raise BundleError(
                f"there is no room in {Path(folder).parent} for {model.name} with its halves as "
                f"float32 ({error.strerror or error}); set TMPDIR to a folder with more"
            ) from None
        yield graph


def _emulating(model: Path, scratch: Path) -> Path:
    onnx = require("onnx", extra="export")
    half = onnx.TensorProto.FLOAT16
    proto = onnx.load(str(model))
    halves = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == half}
    for tensor in proto.graph.initializer:
        if tensor.data_type == half:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    nodes = []
    for node in proto.graph.node:
        nodes.append(node)
        if _gives_half(node, halves, half):
            halves.update(node.output)
            if node.op_type == "Cast":
                node.attribute[0].i = onnx.TensorProto.FLOAT
            if node.op_type not in _MOVING:
                nodes.extend(_rounding(onnx, node))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(_constants(onnx))
    target = scratch / f"{model.stem}.emulated.onnx"
    onnx.save_model(proto, str(target), save_as_external_data=True, location=f"{target.name}.data")
    return target


def _gives_half(node: Any, halves: set[str], half: int) -> bool:
    if node.op_type == "Cast":
        return bool(node.attribute[0].i == half)
    if node.op_type == "DequantizeLinear":
        return node.input[1] in halves
    if node.op_type in ("QuantizeLinear", "Shape", "ArgMax", "Equal"):
        return False
    return node.input[0] in halves


def _rounding(onnx: Any, node: Any) -> list[Any]:
    """Splits off the upper 11 bits (Veltkamp 1968): h = c x - (c x - x) with c = 2^13 + 1.

    Below 2^-14 halves have fixed steps of 2^-24, which are those of float32 around 0.75: x + 0.75 -
    0.75. Nodes, and not casts to half and back, which ONNX Runtime removes.
    """
    exact = f"{node.output[0]}.exact"
    rounded, name = node.output[0], f"half of {node.name}"
    node.output[0] = exact
    make = onnx.helper.make_node
    bound = [f"{name}.too_great", f"{name}.too_small", f"{name}.tiny"]
    near = f"{name}.rounded"
    return [
        make("Mul", [exact, "half.splitter"], [f"{name}.scaled"], name=f"{name}.scaled"),
        make("Sub", [f"{name}.scaled", exact], [f"{name}.rest"], name=f"{name}.rest"),
        make("Sub", [f"{name}.scaled", f"{name}.rest"], [f"{name}.upper"], name=f"{name}.upper"),
        make("Add", [exact, "half.shift"], [f"{name}.shifted"], name=f"{name}.shifted"),
        make("Sub", [f"{name}.shifted", "half.shift"], [f"{name}.fixed"], name=f"{name}.fixed"),
        make("Abs", [exact], [f"{name}.size"], name=f"{name}.size"),
        make("Less", [f"{name}.size", "half.normal"], [bound[2]], name=bound[2]),
        make("Where", [bound[2], f"{name}.fixed", f"{name}.upper"], [near], name=near),
        make("Greater", [near, "half.greatest"], [bound[0]], name=bound[0]),
        make("Less", [near, "half.least"], [bound[1]], name=bound[1]),
        make("Where", [bound[0], "half.inf", near], [f"{name}.cut"], name=f"{name}.cut"),
        make("Where", [bound[1], "half.minus_inf", f"{name}.cut"], [rounded], name=f"{name}.half"),
    ]


def _constants(onnx: Any) -> list[Any]:
    values = {
        "half.splitter": 2.0**13 + 1,
        "half.shift": 0.75,
        "half.normal": 2.0**-14,
        "half.greatest": 65504.0,
        "half.least": -65504.0,
        "half.inf": np.inf,
        "half.minus_inf": -np.inf,
    }
    return [
        onnx.numpy_helper.from_array(np.array(value, dtype=np.float32), name)
        for name, value in values.items()
    ]
