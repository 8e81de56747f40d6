"""Matrix products of typical sizes, ready to be computed by the libraries at hand.

numpy's is not among them: its BLAS was the slowest of the three in float32, and has no other kind.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import MissingExtra
from cliprt._extras import require

Product: TypeAlias = Callable[[], object]
"""Computes all products once, on one core."""

# [rows, in, out] of the products of one block of ViT-B/32 on 16 pictures, whatever the model is: a
# peak rate, to which other sizes may come closer or not.
_ROWS, _WIDTH, _HIDDEN = 16 * 50, 768, 3072
SHAPES = (
    (_ROWS, _WIDTH, 3 * _WIDTH),
    (_ROWS, _WIDTH, _WIDTH),
    (_ROWS, _WIDTH, _HIDDEN),
    (_ROWS, _HIDDEN, _WIDTH),
)

OPERATIONS = sum(2 * rows * inner * outer for rows, inner, outer in SHAPES)
"""Multiplications and additions of all of them."""


def int8_session(shape: tuple[int, int, int]) -> Any:
    """A session of ONNX Runtime that multiplies uint8 ``x`` by int8 weights on one thread.

    Args:
        shape: rows, in, out.
    """
    onnx = require("onnx", extra="export")
    rows, inner, outer = shape
    nodes = [onnx.helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])]
    weights = {"w": _weight(inner, outer), "zero": np.array(128, np.uint8)}
    types = onnx.TensorProto.UINT8, onnx.TensorProto.INT32
    return _session(_model(nodes, weights, (rows, inner), (rows, outer), *types))


def onnxruntime_fp32() -> Product:
    """By MLAS, float32."""
    sessions = [_session(_float_model(shape)) for shape in SHAPES]
    inputs = [_pixels(shape).astype(np.float32) for shape in SHAPES]
    return _runs(sessions, inputs)


def onnxruntime_int8() -> Product:
    """By MLAS, uint8 by int8."""
    return _runs([int8_session(shape) for shape in SHAPES], [_pixels(shape) for shape in SHAPES])


def openvino_products(kind: Literal["fp32", "bf16", "int8"], workers: int) -> list[Product]:
    """By oneDNN.

    Args:
        kind: of the factors; for ``bf16`` ask `computes_bf16` first.
        workers: how many may be run at once.

    Returns:
        as many, each for one thread at a time; they share the weights.

    Raises:
        MissingExtra: openvino or onnx is not installed.
    """
    openvino = require("openvino", extra="openvino")
    core = openvino.Core()
    options = {
        "NUM_STREAMS": workers,
        "INFERENCE_NUM_THREADS": workers,
        "INFERENCE_PRECISION_HINT": "bf16" if kind == "bf16" else "f32",
        "ENABLE_CPU_PINNING": False,
    }
    compiled, inputs = [], []
    for shape in SHAPES:
        model = _quantised_model(shape) if kind == "int8" else _float_model(shape)
        compiled.append(core.compile_model(core.read_model(io.BytesIO(model)), "CPU", options))
        values = _pixels(shape)
        inputs.append(values if kind == "int8" else values.astype(np.float32))

    def product() -> Product:
        requests = [each.create_infer_request() for each in compiled]
        for request, values in zip(requests, inputs, strict=True):
            request.set_input_tensor(openvino.Tensor(values))

        def compute() -> None:
            for request in requests:
                request.infer()

        return compute

    return [product() for _ in range(workers)]


def computes_bf16() -> bool:
    """Whether OpenVINO is there and the processor has instructions for bfloat16."""
    try:
        core = require("openvino", extra="openvino").Core()
    except MissingExtra:
        return False
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _runs(sessions: list[Any], inputs: list[NDArray[Any]]) -> Product:
    def compute() -> None:
        for session, values in zip(sessions, inputs, strict=True):
            session.run(None, {"x": values})

    return compute


def _pixels(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape[:2], dtype=np.uint8)


def _weight(inner: int, outer: int) -> NDArray[np.int8]:
    return np.random.default_rng(0).integers(-127, 128, (inner, outer)).astype(np.int8)


def _float_model(shape: tuple[int, int, int]) -> bytes:
    onnx = require("onnx", extra="export")
    rows, inner, outer = shape
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = {"w": _weight(inner, outer).astype(np.float32) / 127}
    types = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT
    return _model(nodes, weights, (rows, inner), (rows, outer), *types)


def _quantised_model(shape: tuple[int, int, int]) -> bytes:
    """uint8 to uint8, as between two layers: OpenVINO makes one int8 product of it."""
    onnx = require("onnx", extra="export")
    rows, inner, outer = shape
    make = onnx.helper.make_node
    nodes = [
        make("DequantizeLinear", ["x", "scale", "zero"], ["a"]),
        make("DequantizeLinear", ["w", "scale", "none"], ["b"]),
        make("MatMul", ["a", "b"], ["c"]),
        make("QuantizeLinear", ["c", "wide", "zero"], ["y"]),
    ]
    weights: dict[str, NDArray[Any]] = {
        "w": _weight(inner, outer),
        "scale": np.array(1 / 127, np.float32),
        "wide": np.array(inner / 127, np.float32),
        "zero": np.array(128, np.uint8),
        "none": np.array(0, np.int8),
    }
    types = onnx.TensorProto.UINT8, onnx.TensorProto.UINT8
    return _model(nodes, weights, (rows, inner), (rows, outer), *types)


def _model(
    nodes: list[Any],
    weights: dict[str, NDArray[Any]],
    taken: tuple[int, int],
    given: tuple[int, int],
    kind: int,
    given_kind: int,
) -> bytes:
    onnx = require("onnx", extra="export")
    graph = onnx.helper.make_graph(
        nodes,
        "product",
        [onnx.helper.make_tensor_value_info("x", kind, taken)],
        [onnx.helper.make_tensor_value_info("y", given_kind, given)],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def _session(model: bytes) -> Any:
    onnxruntime = require("onnxruntime", extra="engines")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
